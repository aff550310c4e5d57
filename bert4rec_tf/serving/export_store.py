"""Exported versions in an object store: built on this machine, uploaded whole, and named by models.config last.

s3://bucket/exports/ml-1m/1764000000/      a version; its saved_model.pb is uploaded last
s3://bucket/exports/ml-1m/models.config    pins the versions that TF Serving loads; written after them, at once

A store has no rename, so TF Serving, which takes any folder with a number for a version, would find half of one. In a
store models.config therefore names the versions. It has no labels: TF Serving refuses a file whose label moves to a
version that it has not loaded, and it does so before it loads the versions of the file.
"""

import contextlib
import json
import pathlib
import re
import shutil
from collections.abc import Iterator

from bert4rec_tf.serving.versions import MODELS_CONFIG, WITHDRAWN_PREFIX, list_versions
from tfrecords.errors import InputError
from tfrecords.store_cache import new_temporary_folder, showing, stand_in, waiting_for
from tfrecords.stores import Store, StoreError

_MODEL_FILE = "saved_model.pb"
_VERSIONS_SERVED = 2
_PINNED = re.compile(r"versions: ([0-9]+)")


@contextlib.contextmanager
def publishing(url: str, keep_versions: int | None, with_newest: bool) -> Iterator[pathlib.Path]:
    """Yields a local export directory that has the names of the store's versions, and uploads the version that is new.

    Args:
        url: of the export directory in the store.
        keep_versions: how many versions stay there, including the new one; None: all.
        with_newest: whether the newest version has its files, and not its name alone.

    Raises:
        StoreError: the store fails; it serves what it served before.
    """
    store = Store.open(url)
    lock = stand_in("exports", store.url)
    with waiting_for(lock.with_name(f".{lock.name}.lock")):
        local = new_temporary_folder(_name(store))
        versions = _complete_versions(store)
        unfinished = _unfinished_versions(store)
        for name in [*versions, *(f"{WITHDRAWN_PREFIX}{number}" for number in unfinished), *_withdrawn(store)]:
            (local / name).mkdir()  # their numbers are not used again
        if with_newest and versions:
            _download(store, versions[-1], local)
        with showing(store.url, local):
            yield local
        new = list_versions(local)[-1].name
        files = _files(local / new)
        target = store.below(new)
        target.upload(local / new, [name for name in files if name != _MODEL_FILE])
        target.upload(local / new, [_MODEL_FILE])
        kept = [*versions, new][-keep_versions if keep_versions else 0 :]
        store.write(MODELS_CONFIG, _models_config(store, kept))
        for old in {*versions, *unfinished} - set(kept):
            store.remove_folder(old, first=_MODEL_FILE)
        shutil.rmtree(local, ignore_errors=True)


def roll_back_store(url: str) -> tuple[str, str]:
    """Takes the newest version out of models.config, and removes it.

    Returns:
        The numbers of the withdrawn version and of the one that is served now.

    Raises:
        InputError: there is no version to return to.
    """
    store = Store.open(url)
    versions = _complete_versions(store)
    if len(versions) < 2:
        raise InputError(
            f"A rollback needs at least two versions. Received: {store.url}, which holds {len(versions)}. "
            "Fix: export another model"
        )
    withdrawn, served = versions[-1], versions[-2]
    store.write(f"{WITHDRAWN_PREFIX}{withdrawn}", b"")  # its number is not used again
    store.write(MODELS_CONFIG, _models_config(store, versions[:-1]))
    store.remove_folder(withdrawn, first=_MODEL_FILE)
    return withdrawn, served


def fetch_version(url: str) -> pathlib.Path:
    """A copy of the newest version that models.config names, or of the version that the address names.

    Raises:
        InputError: the store holds neither.
    """
    store = Store.open(url)
    if store.stamp(_MODEL_FILE) is not None:
        above = Store(store.url.rpartition("/")[0], store.filesystem, store.root.rpartition("/")[0])
        return _download(above, store.url.rpartition("/")[2], new_temporary_folder("exports"))
    versions = _complete_versions(store)
    pinned = _PINNED.findall((store.read(MODELS_CONFIG) or b"").decode("utf-8", "replace"))
    served = [name for name in versions if name in pinned] or versions
    if not served:
        raise InputError(
            "`directory` must be a model directory of train, or a directory that export.py wrote. "
            f"Received: {store.url!r}"
        )
    return _download(store, served[-1], new_temporary_folder(_name(store)))


def _download(store: Store, version: str, directory: pathlib.Path) -> pathlib.Path:
    source = store.below(version)
    try:
        source.download(directory / version, source.files())
    except FileNotFoundError:
        raise StoreError(
            f"A version must stay while it is read. Received: {source.url}, which was removed. Fix: run it again"
        ) from None
    return directory / version


def _name(store: Store) -> str:
    return store.url.rpartition("/")[2]


def _files(directory: pathlib.Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


def _complete_versions(store: Store) -> list[str]:
    """The numbers of the versions that are complete, in order."""
    found = [name.split("/") for name in store.files() if name.endswith(f"/{_MODEL_FILE}")]
    return sorted((parts[0] for parts in found if len(parts) == 2 and parts[0].isdecimal()), key=int)


def _unfinished_versions(store: Store) -> list[str]:
    """The numbers of versions that a killed export left behind."""
    complete = _complete_versions(store)
    return [name for name in store.folders() if name.isdecimal() and name not in complete]


def _withdrawn(store: Store) -> list[str]:
    """The names of the marks that `roll_back_store` leaves."""
    return [name for name in store.files() if re.fullmatch(rf"{re.escape(WITHDRAWN_PREFIX)}[0-9]+", name)]


def _models_config(store: Store, versions: list[str]) -> bytes:
    """The file as TF Serving's text protobuf; it loads the newest two versions, and answers with the newest."""
    served = " ".join(f"versions: {version}" for version in versions[-_VERSIONS_SERVED:])
    lines = [
        "# Written by export.py.",
        "model_config_list {",
        "  config {",
        f"    name: {json.dumps(_name(store))}",
        f"    base_path: {json.dumps(store.url)}",
        '    model_platform: "tensorflow"',
        f"    model_version_policy {{ specific {{ {served} }} }}",
        "  }",
        "}",
        "",
    ]
    return "\n".join(lines).encode()
