"""Files on this machine, opened and written without following what somebody else may have put at their path."""

import errno
import os
import pathlib
import re
from collections.abc import Iterable
from typing import IO, BinaryIO

from bert4rec_tf.errors import InputError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")


def check_local(name: str, paths: str | pathlib.Path | Iterable[str | pathlib.Path] | None) -> None:
    """Refuses addresses such as s3://bucket/folder, which would become folders named `s3:` in the current directory.

    Args:
        name: of the flag, for the message.
        paths: one, several or none.

    Raises:
        InputError: one of them has a scheme.
    """
    for path in [paths] if isinstance(paths, str | pathlib.Path) else paths or ():
        # A Path has only one slash left.
        if "://" in str(path) or (isinstance(path, pathlib.Path) and _SCHEME.match(str(path))):
            raise InputError(
                f"--{name} must be a path on this machine. Received: {path}. "
                "Fix: mount the bucket or file system and name the folder where it is mounted, or copy the files"
            )


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
