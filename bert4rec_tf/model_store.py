"""A model directory in an object store: read through a copy, and kept up to date while a run trains on this machine.

config.json, history.jsonl, tensorboard/, …                           as in a local model directory
checkpoints/latest/ckpt-400.0a1b2c3d/state.data-00000-of-00001        in the name: a hash of the content
checkpoints/latest/ckpt-400.0a1b2c3d/state.index                      uploaded last; without it, nothing is read

A checkpoint never replaces files of another one, and old ones are removed after the new one is complete, so the store
holds a complete checkpoint at every moment after the first.
"""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator

from tfrecords.errors import InputError, Stopped
from tfrecords.files import locked
from tfrecords.manifest import MANIFEST_FILE
from tfrecords.store_cache import new_temporary_folder, showing, stand_in
from tfrecords.stores import Path, Stamp, Store, StoreError, check_path, is_url

_CONFIG_FILE = "config.json"
_INDEX = "state.index"
_CHECKPOINT = re.compile(r"(checkpoints/(latest|best)/ckpt-([0-9]+))(\.[0-9a-f]{8})?")
_ATTEMPTS = 3  # to read a directory that a run changes meanwhile


@dataclasses.dataclass(frozen=True)
class WorkingDirectory:
    """The local directory of a run.

    Attributes:
        directory: the model directory on this machine.
        name: of the model directory, for messages: its path, or its address in a store.
        check: uploads what the directory holds before the training, so that a store that refuses it ends the run now.
        saved: called after each checkpoint.
    """

    directory: pathlib.Path
    name: str
    check: Callable[[], None] = lambda: None
    saved: Callable[[], None] = lambda: None


@contextlib.contextmanager
def working_directory(model_dir: Path) -> Iterator[WorkingDirectory]:
    """Yields the directory in which a run trains: the given one, or a local one that is kept up to date with a store.

    A run in the store that is further than the local one is downloaded first. Checkpoints are uploaded in the
    background; the last one is uploaded before the block ends, also if the run was stopped.

    Raises:
        InputError: the store's directory holds something else, or another run on this machine uses it.
        StoreError: the store does not answer, or the last checkpoint could not be uploaded.
    """
    check_path("model_dir", model_dir)
    if not is_url(model_dir):
        yield WorkingDirectory(pathlib.Path(model_dir), os.fspath(model_dir))
        return
    store = Store.open(model_dir)
    directory = stand_in("models", store.url)
    in_use = f"One run at a time trains a model. Received: {store.url}, which another run on this machine is training"
    lock = directory.with_name(f".{directory.name}.lock")
    with showing(store.url, directory), locked(lock, f"{in_use}. Fix: wait for it, or name another --model_dir"):
        mirror = _Mirror(store, directory)
        mirror.fetch()
        try:
            yield WorkingDirectory(directory, store.url, mirror.upload_now, mirror.upload_later)
        except (InputError, Stopped):
            with _warning(f"{directory} keeps the run; the same command on this machine goes on from there"):
                mirror.finish()
            raise
        mirror.finish()
        shutil.rmtree(directory, ignore_errors=True)


def fetch_model(model_dir: Path) -> pathlib.Path:
    """A model directory on this machine: the given one, or a copy of one in a store that lasts as long as the process.

    The copy has the checkpoint of the best validation, or the latest one if there was no validation.

    Raises:
        InputError: the store holds no model directory.
        StoreError: the store does not answer.
    """
    check_path("model_dir", model_dir)
    if not is_url(model_dir):
        return pathlib.Path(model_dir)
    store = Store.open(model_dir)
    for attempt in range(_ATTEMPTS):
        files = store.files()
        if _CONFIG_FILE not in files:
            raise InputError(f"--model_dir must be made by train.py. Received: {store.url}, without a {_CONFIG_FILE}")
        target = new_temporary_folder(store.url.rsplit("/", 1)[-1])
        found = _complete(files)
        checkpoint = _newest(found, "best") or _newest(found, "latest")
        try:
            _download(store, target, files, [checkpoint] if checkpoint else [])
            return target
        except FileNotFoundError:  # the run has removed an old checkpoint meanwhile
            shutil.rmtree(target)
            if attempt == _ATTEMPTS - 1:
                raise StoreError(f"A store must keep its files while they are read. Received: {store.url}") from None
    raise AssertionError


class _Mirror:
    """Uploads a local model directory; a thread does so while the run goes on."""

    def __init__(self, store: Store, directory: pathlib.Path):
        self._store, self._directory = store, directory
        self._stored = directory.with_name(f".{directory.name}.stored")  # there once the store has the run
        self._snapshots = directory.with_name(f".{directory.name}.next")
        self._uploading = directory.with_name(f".{directory.name}.upload")
        self._wake, self._ended, self._pending = threading.Condition(), False, False
        self._thread: threading.Thread | None = None
        shutil.rmtree(self._snapshots, ignore_errors=True)

    def fetch(self) -> None:
        """Takes over the run in the store, unless the local one is the same run and as far.

        Raises:
            InputError: the store holds something else.
        """
        files = self._store.files()
        if _CONFIG_FILE not in files:
            if other := [name for name in files if name.split("/")[0] not in _WRITTEN_BEFORE_CONFIG]:
                raise InputError(
                    f"--model_dir must be new, empty or made by train.py. Received: {self._store.url}, which holds "
                    f"{other[0]}. Fix: name another directory"
                )
            if self._stored.exists():  # the run was removed from the store
                shutil.rmtree(self._directory, ignore_errors=True)
                self._stored.unlink()
            return
        found = _complete(files)
        if self._is_same_run() and _last_step(_local_checkpoints(self._directory)) >= _last_step(found):
            self._stored.touch()
            return
        shutil.rmtree(self._directory, ignore_errors=True)
        newest = (_newest(found, "best"), _newest(found, "latest"))
        _download(self._store, self._directory, files, [folder for folder in newest if folder])
        self._stored.touch()

    def upload_now(self) -> None:
        """Uploads the directory before the run goes on."""
        self._upload(self._snapshot())

    def upload_later(self) -> None:
        """Has the thread upload the directory as it is now."""
        with self._wake:
            self._snapshot()
            self._pending = True
            self._wake.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True, name="checkpoint upload")
            self._thread.start()

    def finish(self) -> None:
        """Ends the thread, and uploads what the store lacks.

        Raises:
            StoreError: the store refuses a file.
        """
        if self._thread is not None:
            with self._wake:
                self._ended = True
                self._wake.notify()
            self._thread.join()
        if (self._directory / _CONFIG_FILE).is_file():
            self.upload_now()
        for snapshot in (self._snapshots, self._uploading):
            shutil.rmtree(snapshot, ignore_errors=True)

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._pending or self._ended):
                    self._wake.wait()
                if self._ended:
                    return
                self._pending = False
                shutil.rmtree(self._uploading, ignore_errors=True)
                self._snapshots.rename(self._uploading)
            with _warning("it is tried again with the next one"):
                self._upload(self._uploading)

    def _snapshot(self) -> pathlib.Path:
        """Links the files of the directory as they are now: the run removes old checkpoints while they are uploaded."""
        shutil.rmtree(self._snapshots, ignore_errors=True)
        for path in self._directory.rglob("*"):
            name = path.relative_to(self._directory)
            if path.is_file() and not any(part.startswith((".", "damaged-")) for part in name.parts):
                (self._snapshots / name).parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(path, self._snapshots / name)
                except OSError:  # a file system without links
                    shutil.copyfile(path, self._snapshots / name)
        return self._snapshots

    def _upload(self, snapshot: pathlib.Path) -> None:
        """Uploads what the store lacks: checkpoints after the files that explain them, and removes old ones last."""
        files = self._store.files()
        local = {path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()}
        plain = [name for name in sorted(local) if not name.startswith("checkpoints/") and name != _CONFIG_FILE]
        changed = [name for name in plain if name not in files or files[name].bytes != _size(snapshot / name)]
        self._store.upload(snapshot, changed)
        checkpoints = _local_checkpoints(snapshot)
        tagged = {folder: f"{folder}.{_hash(snapshot / folder / _INDEX)}" for folder in checkpoints}
        for kind in ("best", "latest"):
            folder = _newest(checkpoints, kind)
            if folder and f"{tagged[folder]}/{_INDEX}" not in files:
                self._upload_checkpoint(snapshot / folder, self._store.below(tagged[folder]))
        if (snapshot / _CONFIG_FILE).is_file() and _CONFIG_FILE not in files:
            self._store.upload(snapshot, [_CONFIG_FILE])
        self._stored.touch()
        for folder in {match[0] for name in files if (match := _CHECKPOINT.match(name))} - set(tagged.values()):
            self._store.remove_folder(folder, first=_INDEX)
        shutil.rmtree(snapshot, ignore_errors=True)

    @staticmethod
    def _upload_checkpoint(source: pathlib.Path, target: Store) -> None:
        target.upload(source, [path.name for path in source.iterdir() if path.name != _INDEX])
        target.upload(source, [_INDEX])

    def _is_same_run(self) -> bool:
        names = (_CONFIG_FILE, MANIFEST_FILE)
        local = [path.read_bytes() if path.is_file() else None for path in (self._directory / name for name in names)]
        return None not in local and local == [self._store.read(name) for name in names]


_WRITTEN_BEFORE_CONFIG = {MANIFEST_FILE, "vocabulary.jsonl", "item_features.parquet", "tensorboard", "history.jsonl"}


def _complete(names: Iterable[str]) -> list[str]:
    """The folders of complete checkpoints among the files of a store."""
    matches = (_CHECKPOINT.match(name) for name in names if name.endswith(f"/{_INDEX}"))
    return [match[0] for match in matches if match]


def _local_checkpoints(directory: pathlib.Path) -> list[str]:
    return _complete(path.relative_to(directory).as_posix() for path in directory.glob("checkpoints/*/*/*"))


def _newest(folders: Iterable[str], kind: str) -> str | None:
    """The checkpoint of the last step in `latest` or `best`."""
    of_kind = [folder for folder in folders if folder.split("/")[1] == kind]
    return max(of_kind, key=_step, default=None)


def _step(folder: str) -> int:
    match = _CHECKPOINT.match(folder)
    return int(match[3]) if match else -1


def _last_step(folders: Iterable[str]) -> int:
    return max(map(_step, folders), default=-1)


def _download(store: Store, target: pathlib.Path, files: dict[str, Stamp], checkpoints: list[str]) -> None:
    """Downloads a model directory with these checkpoints; its config.json comes last, as `open_model_dir` writes it."""
    plain = [name for name in files if not name.startswith("checkpoints/") and name != _CONFIG_FILE]
    of_checkpoints = [name for name in files if any(name.startswith(f"{folder}/") for folder in checkpoints)]
    target.mkdir(parents=True, exist_ok=True)
    store.download(target, [*plain, *of_checkpoints])
    for folder in checkpoints:
        match = _CHECKPOINT.fullmatch(folder)
        if match and match[4]:
            (target / folder).rename(target / match[1])
    store.download(target, [_CONFIG_FILE])


def _hash(index: pathlib.Path) -> str:
    return hashlib.sha256(index.read_bytes()).hexdigest()[:8]  # the index holds a checksum of each weight


def _size(path: pathlib.Path) -> int:
    return path.stat().st_size


@contextlib.contextmanager
def _warning(outcome: str) -> Iterator[None]:
    """Prints an error of the store instead of raising it."""
    try:
        yield
    except (StoreError, OSError) as error:
        print(f"warning: the checkpoint is not in the store: {error}; {outcome}", file=sys.stderr, flush=True)
