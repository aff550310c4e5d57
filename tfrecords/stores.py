"""Files in object stores: `s3://`, `gs://`, `hdfs://` and `abfs://`, through `pyarrow.fs`, which finds credentials.

Everything that reads or writes a store goes through this module. An object appears whole or not at all: a file is sent
by a thread that no signal interrupts, and a killed process leaves an upload that the store never completes.
"""

import contextlib
import dataclasses
import datetime
import functools
import io
import os
import pathlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any, TypeGuard, TypeVar

from fsspec.utils import glob_translate
from pyarrow import NativeFile, fs

from tfrecords.errors import InputError, writing

SCHEMES = ("s3", "gs", "hdfs", "abfs", "abfss")
_KNOWN = ", ".join(f"{scheme}://" for scheme in SCHEMES)
_OPTIONS = re.compile(r"\?(?=[a-z_]+=)")  # of Arrow's file systems; any other ? belongs to a glob
_PASSWORD = re.compile(r"(?<=://)[^/@]*:[^/@]*@")
_WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds between attempts; each attempt has several tries of the driver's own
_HOPELESS = re.compile(
    "ACCESS_DENIED|NO_SUCH_BUCKET|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|PERMISSION_DENIED|UNAUTHENTICATED"
    "|bucket does not exist|Bucket not found|HTTP status 40[134]|ContainerNotFound"
    "|Unable to load lib|OAuth2 access token"
)
_FILES_AT_ONCE = 4
_BUFFER_BYTES = 1 << 24  # of one request
_GCS_SECONDS = 10
T = TypeVar("T")
Path = str | pathlib.Path


class StoreError(InputError):
    """An object store could not be reached, or refused a request, also after several attempts."""


def is_url(path: object) -> TypeGuard[str]:
    """Whether a path is the address of a file or folder in an object store.

    >>> is_url("s3://bucket/logs"), is_url("logs")
    (True, False)
    """
    return isinstance(path, str) and "://" in path


def check_path(name: str, paths: Path | Iterable[Path] | None) -> None:
    """Refuses addresses that are neither on this machine nor in a known kind of store.

    Args:
        name: the flag, for the message.
        paths: one path, several or none.

    Raises:
        InputError: one of them has another scheme.

    >>> check_path("input", ["log.csv", "s3://bucket/logs/*.csv"])
    >>> check_path("input", "ftp://host/log.csv")
    Traceback (most recent call last):
    tfrecords.errors.InputError: --input must be a path on this machine, or start with s3://, ... Received: ftp://...
    """
    for path in [paths] if isinstance(paths, str | pathlib.Path) else paths or ():
        if isinstance(path, pathlib.Path) and re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", str(path)):
            raise InputError(f"--{name} must be text if it is an address. Received: {path}, a pathlib.Path")
        found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?]*)", path) if isinstance(path, str) else None
        if found is None:
            continue
        if found[1] not in SCHEMES:
            raise InputError(
                f"--{name} must be a path on this machine, or start with {_KNOWN}. "
                f"Received: {shown(str(path))}. Fix: copy the files to one of these"
            )
        if not found[2] and found[1] != "hdfs":
            raise InputError(f"--{name} must name a bucket after {found[1]}://. Received: {path}")


def shown(url: str) -> str:
    """An address for messages: without options and passwords.

    >>> shown("s3://key:secret@bucket/x?region=eu-west-1")
    's3://bucket/x'
    """
    return _PASSWORD.sub("", _OPTIONS.split(url)[0])


@dataclasses.dataclass(frozen=True)
class Stamp:
    """The state of a file; if it differs later, the file may have changed.

    Attributes:
        bytes: its size.
        changed_at: nanoseconds since 1970, as exact as the store knows.
    """

    bytes: int
    changed_at: int


@dataclasses.dataclass(frozen=True)
class Store:
    """A folder in an object store.

    Attributes:
        url: of the folder, for messages.
        filesystem: that reaches it.
        root: its path there.
    """

    url: str
    filesystem: fs.FileSystem = dataclasses.field(compare=False, repr=False)
    root: str

    @classmethod
    def open(cls, url: str) -> "Store":
        """Opens a folder, which need not exist. Credentials are found as `pyarrow.fs` documents it.

        Raises:
            StoreError: there are no credentials, or the libraries of HDFS are missing.
        """
        check_path("path", url)
        address, *options = _OPTIONS.split(url)
        scheme, _, rest = address.partition("://")
        authority, _, path = rest.partition("/")
        filesystem, base = _again(shown(url), lambda: _filesystem(scheme, authority, options[0] if options else ""))
        root = "/".join(part for part in (base.rstrip("/"), path.strip("/")) if part or scheme == "hdfs")
        return cls(shown(url).rstrip("/"), filesystem, root)

    def below(self, name: str) -> "Store":
        """A folder in this one."""
        return Store(f"{self.url}/{name}", self.filesystem, f"{self.root}/{name}")

    def path(self, name: str) -> str:
        """The file system's path of a file in this folder."""
        return f"{self.root}/{name}" if name else self.root

    def files(self) -> dict[str, Stamp]:
        """All files below this folder, by their paths from here; {} if there is no such folder.

        Raises:
            StoreError: the store does not answer, or has no such bucket.
        """
        selector = fs.FileSelector(self.root, recursive=True, allow_not_found=True)
        found = _again(self.url, lambda: self.filesystem.get_file_info(selector))
        start = len(self.root) + 1 if self.root else 0
        return {info.path[start:]: _stamp(info) for info in sorted(found, key=lambda info: info.path) if info.is_file}

    def folders(self) -> list[str]:
        """The names of the folders in this one."""
        return sorted({name.split("/", 1)[0] for name in self.files() if "/" in name})

    def stamp(self, name: str) -> Stamp | None:
        """The state of a file; None if there is none."""
        info = _again(f"{self.url}/{name}", lambda: self.filesystem.get_file_info(self.path(name)))
        return _stamp(info) if info.is_file else None

    def read(self, name: str) -> bytes | None:
        """The content of a small file; None if there is none."""
        path = self.path(name)

        def read() -> bytes | None:
            try:
                with self.filesystem.open_input_stream(path, compression=None) as stream:
                    return bytes(stream.read())
            except FileNotFoundError:
                return None

        return _again(f"{self.url}/{name}", read)

    def write(self, name: str, content: bytes) -> None:
        """Writes a small file, which replaces an older one at once."""
        _in_threads([functools.partial(self._send, name, lambda: io.BytesIO(content))])

    def upload(self, directory: pathlib.Path, names: Iterable[str]) -> None:
        """Uploads files below a directory under their own names, several at a time, in any order.

        Raises:
            StoreError: the store refuses a file, also after several attempts.
        """
        sources = ((name, functools.partial((directory / name).open, "rb")) for name in names)
        _in_threads([functools.partial(self._send, name, source) for name, source in sources])

    def download(self, directory: pathlib.Path, names: Iterable[str]) -> None:
        """Downloads files to a directory under their own names. Each appears there when it is complete.

        Raises:
            StoreError: a file cannot be read, also after several attempts.
            FileNotFoundError: a file is not there any more.
        """
        _in_threads([functools.partial(self._fetch, name, directory / name) for name in names])

    def remove(self, name: str) -> None:
        """Removes a file, which need not exist."""

        def remove() -> None:
            with contextlib.suppress(FileNotFoundError):
                self.filesystem.delete_file(self.path(name))

        _in_threads([lambda: _again(f"{self.url}/{name}", remove)])

    def remove_folder(self, name: str, first: str) -> None:
        """Removes a folder with all its files; the file `first` in it goes first."""
        self.remove(f"{name}/{first}")

        def remove() -> None:
            with contextlib.suppress(FileNotFoundError):
                self.filesystem.delete_dir(self.path(name))

        _in_threads([lambda: _again(f"{self.url}/{name}", remove)])

    def _send(self, name: str, open_source: Callable[[], Any]) -> None:
        path = self.path(name)

        def send() -> None:
            if isinstance(self.filesystem, fs.HadoopFileSystem):
                self.filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
            with open_source() as source, self.filesystem.open_output_stream(path, compression=None) as sink:
                size = 0
                while piece := source.read(_BUFFER_BYTES):
                    sink.write(piece)
                    size += len(piece)
            stored = self.filesystem.get_file_info(path)
            if stored.size != size:
                raise OSError(f"the store holds {stored.size} of {size} bytes")

        _again(f"{self.url}/{name}", send)

    def _fetch(self, name: str, target: pathlib.Path) -> None:
        temporary = target.with_name(f".{target.name}.tmp")

        def fetch() -> None:
            info = self.filesystem.get_file_info(self.path(name))
            if not info.is_file:
                raise FileNotFoundError(f"{self.url}/{name}")
            stream = self.filesystem.open_input_stream(self.path(name), None, _BUFFER_BYTES)
            with stream, temporary.open("wb") as sink:
                size = 0
                while piece := stream.read(_BUFFER_BYTES):
                    with writing(target):
                        sink.write(piece)
                    size += len(piece)
            if size != info.size:
                raise OSError(f"{size} of {info.size} bytes came")
            temporary.replace(target)

        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        try:
            _again(f"{self.url}/{name}", fetch)
        finally:
            temporary.unlink(missing_ok=True)


@dataclasses.dataclass(frozen=True)
class StoreFile:
    """A file in a store, with what the readers of logs need of a path.

    Attributes:
        store: its folder.
        name: its path in that folder.
    """

    store: Store
    name: str

    def __str__(self) -> str:
        return f"{self.store.url}/{self.name}"

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the folders above it, and its own."""
        scheme, _, path = str(self).partition("://")
        return (f"{scheme}:", *path.split("/"))

    @property
    def suffixes(self) -> list[str]:
        """As of `pathlib.PurePath`."""
        return pathlib.PurePosixPath(self.name).suffixes

    def stamp(self) -> Stamp:
        """Its state.

        Raises:
            StoreError: it is not there any more.
        """
        found = self.store.stamp(self.name)
        if found is None:
            raise StoreError(f"An input must stay where it is. Received: {self}, which is not there any more")
        return found

    def open_raw(self) -> io.RawIOBase:
        """Opens it as a raw stream of bytes that can seek; large pieces are read at once."""
        return _RawFile(self)

    def open_arrow(self) -> NativeFile:
        """Opens it for Arrow's readers."""
        return _again(str(self), lambda: self.store.filesystem.open_input_file(self.store.path(self.name)))


class _RawFile(io.RawIOBase):
    """Reads a file of a store piece by piece, and repeats the request for a piece that fails."""

    def __init__(self, file: StoreFile):
        self._file, self._source = file, file.open_arrow()
        self._position, self._size = 0, self._source.size()
        self._piece, self._piece_start = b"", 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        start = self._position - self._piece_start
        if not 0 <= start < len(self._piece):
            wanted = min(max(_BUFFER_BYTES, len(buffer)), self._size - self._position)
            if wanted <= 0:
                return 0
            position = self._position
            self._piece = _again(str(self._file), lambda: self._source.read_at(wanted, position))
            self._piece_start, start = position, 0
            if not self._piece:
                raise StoreError(f"An input must not change while it is read. Received: {self._file}, which did")
        count = min(len(buffer), len(self._piece) - start)
        buffer[:count] = self._piece[start : start + count]
        self._position += count
        return count

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()


def find_files(url: str) -> list[StoreFile]:
    """The files that an address names; it may be a glob, in which ** stands for any number of folders.

    Raises:
        InputError: the scheme is unknown.
        StoreError: the store does not answer, or has no such bucket.
    """
    folder, separator, last = _OPTIONS.split(url)[0].rpartition("/")
    options = url[len(folder) + len(separator) + len(last) :]
    if not re.search(r"[*?\[]", folder):
        store = Store.open(folder + options)
        if last and store.stamp(last) is not None:
            return [StoreFile(store, last)]
    plain = folder + separator + last
    fixed = re.split(r"[*?\[]", plain)[0].rpartition("/")[0]
    if fixed == plain.rpartition("/")[0] and not re.search(r"[*?\[]", last):
        return []
    store = Store.open(fixed + options)
    pattern = re.compile(glob_translate(plain[len(fixed) + 1 :]))
    return [StoreFile(store, name) for name in store.files() if pattern.match(name)]


def _filesystem(scheme: str, authority: str, options: str) -> tuple[fs.FileSystem, str]:
    """The file system of an address, and the path of its bucket."""
    if scheme == "gs" and not options and (emulator := _emulator()):
        kind, _, host = emulator.rpartition("://")
        return (
            fs.GcsFileSystem(
                anonymous=True,
                scheme=kind or "http",
                endpoint_override=host.rstrip("/"),
                retry_time_limit=datetime.timedelta(seconds=_GCS_SECONDS),
            ),
            authority,
        )
    if scheme == "gs" and "retry_limit_seconds" not in options:  # by default, a request is tried for 15 minutes
        options = "&".join(filter(None, (options, f"retry_limit_seconds={_GCS_SECONDS}")))
    root = "/" if scheme == "hdfs" else ""
    found, base = fs.FileSystem.from_uri(f"{scheme}://{authority}{root}?{options}".rstrip("?"))
    return found, base


def _emulator() -> str:
    return os.environ.get("STORAGE_EMULATOR_HOST") or os.environ.get("CLOUD_STORAGE_EMULATOR_ENDPOINT") or ""


def _stamp(info: fs.FileInfo) -> Stamp:
    return Stamp(int(info.size or 0), int(info.mtime_ns or 0))


def _in_threads(actions: Sequence[Callable[[], object]]) -> None:
    """Runs actions in threads, a few at a time, so that a signal interrupts none of them.

    After a failure, no further one starts.
    """
    pool = ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="store")
    try:
        running = [pool.submit(action) for action in actions]
        wait(running, return_when=FIRST_EXCEPTION)
        for each in running:
            if each.done():
                each.result()
        wait(running)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _again(url: str, action: Callable[[], T]) -> T:
    """Repeats an action that fails with the store's error, with growing waits in between.

    Raises:
        StoreError: it failed every time, or for a reason that no repetition mends.
        FileNotFoundError: as the action raised it.
    """
    with _naming(url):
        for seconds in _WAITS:
            try:
                return action()
            except FileNotFoundError:
                raise
            except OSError as error:
                if _HOPELESS.search(str(error)):
                    raise
                time.sleep(seconds)
        return action()


@contextlib.contextmanager
def _naming(url: str) -> Iterator[None]:
    """Names the address in errors of a store."""
    try:
        yield
    except (FileNotFoundError, InputError):
        raise
    except (OSError, ValueError, NotImplementedError, ImportError) as error:
        reason = " ".join(str(error).split())
        fix = "check the address and the credentials" if _HOPELESS.search(reason) else "check the store"
        raise StoreError(
            f"An object store must answer. Received: {reason:.300} ({url}). Fix: {fix}, and run the same command again"
        ) from None
