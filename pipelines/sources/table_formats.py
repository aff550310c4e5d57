"""Recognises files of Delta, Iceberg and Hudi tables. Such a table lists its valid files; others hold deleted rows."""

import functools
import pathlib
from collections.abc import Iterator

from pipelines.sources.text_streams import InputPath
from tfrecords.errors import InputError
from tfrecords.stores import Store

_EXTENSIONS = {"Delta": "delta", "Iceberg": "iceberg"}  # of DuckDB; each has a function EXTENSION_scan


def refuse_table_files(path: InputPath) -> None:
    """Refuses a file of a Delta, Iceberg or Hudi table: among such files are rows that were deleted or replaced.

    Args:
        path: absolute, of a file, or of a folder; or of a file in a store.

    Raises:
        InputError: names the table, and how it can be read.
    """
    for folder in _folders_above(path):
        kind = _table_format(folder) if isinstance(folder, pathlib.Path) else _table_format_in_store(folder)
        if kind is None:
            continue
        where = folder.url if isinstance(folder, Store) else folder
        fix = "export the table's rows to Parquet or CSV"
        if kind in _EXTENSIONS:
            extension = _EXTENSIONS[kind]
            query = f"SELECT * FROM {extension}_scan('{where}')"
            fix = f'--query="{query}", which needs DuckDB\'s extension {extension}; or {fix}'
        raise InputError(
            f"--input must be files whose rows are all valid. Received: {path}, of the {kind} table {where}, whose "
            f"files also hold rows that were deleted. Fix: {fix}"
        )


def _folders_above(path: InputPath) -> Iterator[pathlib.Path | Store]:
    if isinstance(path, pathlib.Path):
        yield from (path, *path.parents)
        return
    store, names = path.store, path.name.split("/")[:-1]
    yield from (store.below("/".join(names[:depth])) for depth in range(len(names), 0, -1))
    while "/" in store.root:  # the bucket is left out
        yield store
        store = Store(store.url.rpartition("/")[0], store.filesystem, store.root.rpartition("/")[0])


@functools.lru_cache(maxsize=1 << 12)
def _table_format_in_store(folder: Store) -> str | None:
    if folder.below("_delta_log").files():
        return "Delta"
    if folder.below(".hoodie").files():
        return "Hudi"
    if any(name.endswith(".metadata.json") for name in folder.below("metadata").files()):
        return "Iceberg"
    return None


@functools.lru_cache(maxsize=1 << 12)  # the files of a log are in few folders
def _table_format(folder: pathlib.Path) -> str | None:
    if (folder / "_delta_log").is_dir():
        return "Delta"
    if (folder / ".hoodie").is_dir():
        return "Hudi"
    if next((folder / "metadata").glob("*.metadata.json"), None) is not None:
        return "Iceberg"
    return None
