"""Local folders that stand for folders of object stores: copies for the next run, and files still to upload."""

import atexit
import contextlib
import fcntl
import functools
import hashlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

from tfrecords.errors import InputError, writing
from tfrecords.files import open_lock

VARIABLE = "BERT4REC_TF_STORE_CACHE"
_held: dict[pathlib.Path, BinaryIO] = {}  # locks of this process, until it ends


def stand_in(kind: str, url: str) -> pathlib.Path:
    """The local folder that stands for a folder of a store; the same one in every run, and of no other address.

    It is below the directory that the environment variable `BERT4REC_TF_STORE_CACHE` names; by default that is
    `bert4rec_tf/stores` in the user's cache directory.

    Args:
        kind: what it holds; folders of different kinds do not meet.
        url: of the folder in the store.

    Raises:
        InputError: the directory cannot be made.
    """
    given = os.environ.get(VARIABLE)
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    root = pathlib.Path(given) if given else pathlib.Path(cache) / "bert4rec_tf" / "stores"
    name = url.rstrip("/").rsplit("/", 1)[-1]
    folder = root.absolute() / kind / f"{name[:40]}-{hashlib.sha256(url.encode()).hexdigest()[:16]}"
    with writing(folder):
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


@functools.cache
def temporary_folder() -> pathlib.Path:
    """A folder that is removed when the process ends."""
    folder = tempfile.mkdtemp(prefix="bert4rec_tf-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return pathlib.Path(folder)


def new_temporary_folder(name: str) -> pathlib.Path:
    """An empty folder of this name that is removed when the process ends."""
    folder = pathlib.Path(tempfile.mkdtemp(dir=temporary_folder())) / name
    folder.mkdir()
    return folder


@contextlib.contextmanager
def showing(url: str, local: pathlib.Path) -> Iterator[None]:
    """Names the address in errors of the block that would name the local folder."""
    try:
        yield
    except InputError as error:
        error.args = tuple(str(argument).replace(str(local), url) for argument in error.args)
        raise


@contextlib.contextmanager
def waiting_for(lock: pathlib.Path) -> Iterator[None]:
    """Holds an exclusive lock in the block, and waits for another process that holds it."""
    with open_lock(lock) as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def hold(folder: pathlib.Path) -> None:
    """Keeps a folder from `remove_unless_held`, in all processes, until this one ends."""
    if folder not in _held:
        stream = open_lock(_use_lock(folder))
        fcntl.flock(stream, fcntl.LOCK_SH)
        _held[folder] = stream


def remove_unless_held(folder: pathlib.Path) -> None:
    """Removes a folder, unless a process holds it."""
    lock = _use_lock(folder)
    with open_lock(lock) as stream, contextlib.suppress(BlockingIOError):
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
        lock.unlink(missing_ok=True)


def _use_lock(folder: pathlib.Path) -> pathlib.Path:
    return folder.with_name(f".{folder.name}.in_use")
