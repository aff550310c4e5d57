"""Errors that end a command with a message instead of a traceback."""

import contextlib
import errno
import pathlib
import re
import signal
from collections.abc import Iterable, Iterator

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")


class InputError(ValueError):
    """A mistake in the user's flags, configuration or files. The message states the rule, the value and the fix.

    >>> bert4rec_tf.Recommender.load("nowhere")
    Traceback (most recent call last):
    tfrecords.errors.InputError: `directory` must be a model directory of train, ... Received: 'nowhere'
    """

    __init__ = Exception.__init__  # with this one, AutoGraph re-raises the error under its own type


class Stopped(Exception):  # noqa: N818, no error
    """A signal told the process to end. By default, its progress is saved.

    Args:
        number: of the signal.
        outcome: the end of the message, which tells the user what was saved and what to do.

    Attributes:
        exit_code: 128 plus the signal's number, as in shells: 130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self, number: int, outcome: str = "and saved its progress; run the same command to resume"):
        super().__init__(f"stopped by {signal.Signals(number).name} {outcome}")
        self.exit_code = 128 + number


class PeerLost(Exception):  # noqa: N818, an event, not this process's error
    """Another process of the cluster has ended or did not start.

    A run continues from its last checkpoint when all processes are started again.
    """

    exit_code = 3

    def __init__(self, text: str = "another process of the cluster is gone; start all of them again to resume the run"):
        super().__init__(text)


@contextlib.contextmanager
def writing(path: str | pathlib.Path) -> Iterator[None]:
    """Turns disk errors of the block into errors that name the file and the fix.

    The operating system names a file that it cannot open, but not one that it cannot write completely.

    Raises:
        InputError: replaces an OSError.
    """
    try:
        yield
    except OSError as error:
        raise disk_error(error, path) from None


def disk_error(error: OSError, path: str | pathlib.Path = "") -> InputError:
    """The error that a user sees for a disk error: the reason, the file and the fix."""
    reason, where = str(error.strerror or error), str(error.filename or path or "a file")
    full = error.errno in _FULL or re.search(_FULL_TEXT, reason)
    return InputError(
        f"{reason}: {where}. Fix: "
        + ("free space on that disk, or name another directory" if full else "correct its path or permissions")
        + ", and run the same command again"
    )


def full_disk(error: Exception) -> InputError | None:
    """The same for errors whose text reports a full disk, such as TensorFlow's; None for all others."""
    found = re.search(rf"(?:([^\s;]+); )?({_FULL_TEXT})", str(error))
    if not found:
        return None
    return disk_error(OSError(errno.ENOSPC, found[2], found[1] or ""))


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_TEXT = "No space left on device|Disk quota exceeded|File too large"


def check_local(name: str, paths: str | pathlib.Path | Iterable[str | pathlib.Path] | None) -> None:
    """Refuses addresses such as s3://bucket/folder, which would become folders named `s3:` in the current directory.

    Args:
        name: the flag, for the message.
        paths: one path, several or none.

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
