"""Files on this machine, opened and written without following what somebody else may have put at their path."""

import errno
import hashlib
import os
import pathlib
from typing import IO, BinaryIO

from tfrecords.errors import InputError, writing


def open_lock(path: pathlib.Path) -> BinaryIO:
    """Opens a file to be locked, and makes it where there is none; its content stays.

    Raises:
        InputError: a symbolic link is there; the file that it names belongs to something else.
    """
    try:
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "r+b")
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise InputError(
            f"A lock must be a file. Received: {path}, a symbolic link. Fix: remove it if no command made it on purpose"
        ) from None


def open_new(path: pathlib.Path, mode: str = "xb", encoding: str | None = None) -> IO:
    """Opens a new file in place of what is at the path: a leftover of a killed run, or a link, is not written to."""
    path.unlink(missing_ok=True)
    return path.open(mode, encoding=encoding)


def file_sha256(path: str | pathlib.Path) -> str:
    """Hex digest of a file's bytes, read piece by piece."""
    digest = hashlib.sha256()
    with pathlib.Path(path).open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def write_whole(path: pathlib.Path, text: str) -> None:
    """Writes a small file by rename, so that it is never read half.

    Raises:
        InputError: the disk is full or refuses the file.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        with open_new(temporary, "x", encoding="utf-8") as stream:
            stream.write(text)
        temporary.replace(path)
