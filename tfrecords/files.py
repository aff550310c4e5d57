"""Files on this machine, opened and written without following what somebody else may have put at their path."""

import errno
import os
import pathlib
from typing import IO, BinaryIO

from bert4rec_tf.errors import InputError


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
