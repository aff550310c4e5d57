"""Files on this machine: written whole or not at all, locked, and never through a link that somebody else put there."""

import contextlib
import errno
import fcntl
import hashlib
import os
import pathlib
from collections.abc import Iterator
from typing import BinaryIO, cast

from tfrecords.errors import InputError, writing
from tfrecords.interruption import deferred


def open_lock(path: pathlib.Path) -> BinaryIO:
    """Opens a lock file. Creates it if it does not exist, and keeps its content if it does.

    Raises:
        InputError: the path is a symbolic link, whose target may belong to another program.
    """
    try:
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "r+b")
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise InputError(
            f"A lock must be a file. Received: {path}, a symbolic link. Fix: remove it if no command made it on purpose"
        ) from None


@contextlib.contextmanager
def locked(path: pathlib.Path, in_use: str, *, remove: bool = False) -> Iterator[None]:
    """Holds an exclusive lock in the block. The operating system releases the lock of a killed process.

    Args:
        path: the lock file.
        in_use: the error message if another process holds the lock.
        remove: whether the file is removed after the block.

    Raises:
        InputError: another process holds the lock, or the path is a symbolic link.
    """
    held = False
    with contextlib.ExitStack() as stack:
        try:
            with deferred():
                stream = stack.enter_context(open_lock(path))
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    # Between opening and locking, the previous holder may have removed this file.
                    held = path.exists() and os.path.samestat(os.fstat(stream.fileno()), path.lstat())
            if not held:
                raise InputError(in_use)
            yield
        finally:
            with deferred():
                if held and remove:
                    path.unlink(missing_ok=True)


def open_new(path: pathlib.Path) -> BinaryIO:
    """Creates a file for writing. A file or link at the path is removed first: a link's target is not written to."""
    path.unlink(missing_ok=True)
    return cast(BinaryIO, path.open("xb"))


@contextlib.contextmanager
def replacing(path: pathlib.Path, tag: str = "") -> Iterator[BinaryIO]:
    """Opens a file that replaces `path` by rename after the block. Readers see the old file or the whole new one.

    The bytes are on the disk before the rename. If the block fails, the temporary file is removed.

    Args:
        path: of the file.
        tag: part of the temporary file's name. Processes that may write the same file at once need different ones.

    Raises:
        OSError: names `path` if the operating system does not name the file, for example when the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{tag}tmp")
    try:
        with open_new(temporary) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = error.filename or str(path)
        raise


def write_whole(path: pathlib.Path, text: str) -> None:
    """Writes a small UTF-8 file by rename, so that no reader sees a part of it.

    Raises:
        InputError: the disk is full or refuses the file.
    """
    with writing(path), replacing(path) as stream:
        stream.write(text.encode("utf-8"))


def file_sha256(path: str | pathlib.Path) -> str:
    """Hex digest of a file's bytes, read piece by piece."""
    digest = hashlib.sha256()
    with pathlib.Path(path).open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
