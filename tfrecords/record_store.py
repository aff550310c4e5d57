"""Records in an object store: written under a name of their own, with the manifest last, and read through a local copy.

s3://bucket/data/manifest.json                  names the records that readers take; written last, at once
s3://bucket/data/records-0a1b2c3d4e5f6a7b/      a whole data directory, named after the sha256 of its manifest

Records that are replaced stay until they are replaced once more, so that a reader who has begun can finish. A data
directory that was copied to a store as it is can be read too.
"""

import hashlib
import pathlib
import re

from tfrecords.errors import InputError
from tfrecords.manifest import (
    BAD_ROWS_FILE,
    ITEM_FEATURES_FILE,
    MANIFEST_FILE,
    Manifest,
    verify,
)
from tfrecords.store_cache import hold, remove_unless_held, showing, stand_in, waiting_for
from tfrecords.stores import Path, Store, check_path, is_url
from tfrecords.vocabulary import VOCABULARY_FILE

_FOLDER = re.compile("records-[0-9a-f]{16}")
_ATTEMPTS = 3  # if the records are replaced meanwhile


def local_records(data_dir: Path) -> pathlib.Path:
    """A data directory on this machine: the given one, or a verified copy of one in a store.

    The copy stays for the next run, until the store holds other records. No other process removes it before this one
    ends.

    Raises:
        InputError: there is no manifest in the store, or a file is not the one that the manifest lists.
        StoreError: the store does not answer.
    """
    check_path("data_dir", data_dir)
    if not is_url(data_dir):
        return pathlib.Path(data_dir)
    store = Store.open(data_dir)
    copies = stand_in("records", store.url)
    copies.mkdir(mode=0o700, exist_ok=True)
    with waiting_for(copies / ".lock"), showing(store.url, copies):
        for attempt in range(_ATTEMPTS):
            manifest = Manifest.load(data_dir)
            copy = copies / manifest.sha256()
            hold(copy)
            try:
                _complete(copy, store, manifest)
                break
            except FileNotFoundError as error:
                if attempt == _ATTEMPTS - 1:
                    raise InputError(
                        f"A store must hold every file of its {MANIFEST_FILE}. Received: {store.url}, without "
                        f"{error.args[-1]}. Fix: run make_tfrecords.py again, with --overwrite"
                    ) from None
        for other in copies.iterdir():
            if other.is_dir() and other != copy:
                remove_unless_held(other)
    return copy


def read_manifest(store: Store) -> Manifest | None:
    """The manifest of the records in a store; None if it holds none.

    Raises:
        InputError: the file is no manifest.
    """
    content = store.read(MANIFEST_FILE)
    return None if content is None else Manifest.from_bytes(content, f"{store.url}/{MANIFEST_FILE}")


def check_free(store: Store, overwrite: bool) -> None:
    """Refuses a folder of a store that holds other files than records.

    Raises:
        InputError: names one of them.
    """
    published = store.stamp(MANIFEST_FILE) is not None
    if published and not overwrite:
        raise InputError(
            f"--output_dir must be new, empty or made by the same command. Received: {store.url}, which holds "
            "something else. Fix: name another directory, or pass --overwrite if it holds other records"
        )
    other = [name for name in store.files() if not _FOLDER.match(name) and name != MANIFEST_FILE]
    if other and (not published or "config.json" in other):  # a model directory has a manifest too
        raise InputError(
            f"--output_dir must be new, empty or hold records. Received: {store.url}, which holds {other[0]}. "
            "Fix: name another directory"
        )


def check_complete(store: Store, manifest: Manifest) -> None:
    """Compares the sizes of the files in a store with the manifest.

    Raises:
        InputError: a file is missing or has another size.
    """
    found = _folder(store, manifest).files()
    for name, size in _files(manifest).items():
        if name not in found or (size is not None and found[name].bytes != size):
            raise InputError(
                f"The files must be those of {store.url}/{MANIFEST_FILE}. Received: {name}, which is "
                f"{'damaged' if name in found else 'missing'}. Fix: run make_tfrecords.py again, with --overwrite"
            )


def publish(directory: pathlib.Path, store: Store) -> None:
    """Uploads a finished data directory. Readers see the old records until the last write, and then the new ones.

    Files that an earlier attempt has uploaded are not sent again.

    Raises:
        StoreError: the store fails; what readers see has not changed.
    """
    manifest, before = Manifest.load(directory), read_manifest(store)
    folder = store.below(_folder_name(manifest))
    there = folder.files()
    missing = []
    for name in _files(manifest):
        if name not in there or there[name].bytes != (directory / name).stat().st_size:
            missing.append(name)
    folder.upload(directory, missing)
    folder.write(MANIFEST_FILE, manifest.to_bytes())
    store.write(MANIFEST_FILE, manifest.to_bytes())
    kept = {_folder_name(found) for found in (manifest, before) if found is not None}
    for name in store.folders():
        if _FOLDER.fullmatch(name) and name not in kept:
            store.remove_folder(name, first=MANIFEST_FILE)


def _complete(copy: pathlib.Path, store: Store, manifest: Manifest) -> None:
    """Downloads the files that a copy lacks, and verifies all of them."""
    names = _files(manifest)
    if (copy / MANIFEST_FILE).is_file():
        try:
            verify(copy, manifest)
            return
        except InputError:  # damaged on this machine
            (copy / MANIFEST_FILE).unlink()
            for name in names:
                (copy / name).unlink(missing_ok=True)
    folder = _folder(store, manifest)
    folder.download(copy, [name for name in names if not (copy / name).is_file()])
    try:
        verify(copy, manifest)
    except InputError:
        for name in names:  # nothing damaged may stay for the next run
            (copy / name).unlink(missing_ok=True)
        raise
    (copy / MANIFEST_FILE).write_bytes(manifest.to_bytes())


def _files(manifest: Manifest) -> dict[str, int | None]:
    """The files of a data directory but the manifest, with their sizes where the manifest has them."""
    shards = [shard for shards in manifest.splits.values() for shard in shards]
    found: dict[str, int | None] = {shard.file: shard.bytes for shard in shards}
    found[VOCABULARY_FILE] = None
    if manifest.bad_rows_sha256:
        found[BAD_ROWS_FILE] = None
    if manifest.item_features_sha256:
        found[ITEM_FEATURES_FILE] = None
    return found


def _folder(store: Store, manifest: Manifest) -> Store:
    """Where the files are: in the folder of this manifest, or beside it if the directory was copied as it is."""
    folder = store.below(_folder_name(manifest))
    return folder if folder.stamp(VOCABULARY_FILE) is not None else store


def _folder_name(manifest: Manifest) -> str:
    return f"records-{hashlib.sha256(manifest.to_bytes()).hexdigest()[:16]}"
