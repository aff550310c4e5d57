"""Recommendations in an object store: written on this machine, and uploaded with `_SUCCESS` last."""

import contextlib
import pathlib
import shutil
from collections.abc import Iterator

from tfrecords.errors import InputError
from tfrecords.store_cache import new_temporary_folder, showing, stand_in, waiting_for
from tfrecords.stores import Store

SUCCESS_FILE, METADATA_FILE, MONITORING_FILE = "_SUCCESS", "_metadata.json", "_monitoring.json"


@contextlib.contextmanager
def stored_output(url: str) -> Iterator[tuple[pathlib.Path, bool]]:
    """Yields a local directory for a run, and uploads it after the block unless the store holds the finished run.

    Recommendations whose upload failed stay on this machine; the next call uploads them.

    Args:
        url: of the directory in the store.

    Yields:
        The local directory, with what the store knows of an earlier run; and whether the store holds no run at all, so
        that the local directory may be overwritten.

    Raises:
        InputError: the store's directory holds something else.
        StoreError: the store fails; what it holds is not marked as finished, or as it was before.
    """
    store = Store.open(url)
    local = stand_in("recommendations", store.url)
    with waiting_for(local.with_name(f".{local.name}.upload")), showing(store.url, local):
        files = store.files()
        before = store.read(METADATA_FILE)
        if before is None and files:
            raise InputError(
                f"--output must be new, empty or made by recommend.py. Received: {store.url}, which holds something "
                "else. Fix: name another directory"
            )
        known = local / METADATA_FILE
        if before is not None and not (known.is_file() and known.read_bytes() == before):
            shutil.rmtree(local, ignore_errors=True)
            store.download(local, [name for name in (METADATA_FILE, MONITORING_FILE, SUCCESS_FILE) if name in files])
        yield local, not files
        if SUCCESS_FILE not in files or known.read_bytes() != before:
            _upload(local, store, list(files))
        shutil.rmtree(local, ignore_errors=True)


def fetch_output(url: str) -> pathlib.Path:
    """A copy of recommendations in a store, which lasts as long as the process."""
    store = Store.open(url)
    target = new_temporary_folder(store.url.rpartition("/")[2])
    store.download(target, store.files())
    return target


def _upload(local: pathlib.Path, store: Store, there: list[str]) -> None:
    names = [path.name for path in local.iterdir() if path.is_file() and not path.name.startswith(".")]
    store.remove(SUCCESS_FILE)  # from now on, nobody may read the parts
    store.upload(local, [METADATA_FILE])  # the next run takes the directory for its own
    store.upload(local, [name for name in names if name not in (METADATA_FILE, SUCCESS_FILE)])
    for name in there:
        if name not in names:
            store.remove(name)
    store.upload(local, [SUCCESS_FILE])
