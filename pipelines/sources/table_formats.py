"""Recognises files of Delta, Iceberg and Hudi tables. Such a table lists its valid files; others hold deleted rows."""

import functools
import pathlib

from tfrecords.errors import InputError

_EXTENSIONS = {"Delta": "delta", "Iceberg": "iceberg"}  # of DuckDB; each has a function EXTENSION_scan


def refuse_table_files(path: pathlib.Path) -> None:
    """Refuses a file of a Delta, Iceberg or Hudi table: among such files are rows that were deleted or replaced.

    Args:
        path: absolute, of a file, or of a folder.

    Raises:
        InputError: names the table, and how it can be read.
    """
    for folder in (path, *path.parents):
        kind = _table_format(folder)
        if kind is None:
            continue
        fix = "export the table's rows to Parquet or CSV"
        if kind in _EXTENSIONS:
            extension = _EXTENSIONS[kind]
            query = f"SELECT * FROM {extension}_scan('{folder}')"
            fix = f'--query="{query}", which needs DuckDB\'s extension {extension}; or {fix}'
        raise InputError(
            f"--input must be files whose rows are all valid. Received: {path}, of the {kind} table {folder}, whose "
            f"files also hold rows that were deleted. Fix: {fix}"
        )


@functools.lru_cache(maxsize=1 << 12)  # the files of a log are in few folders
def _table_format(folder: pathlib.Path) -> str | None:
    if (folder / "_delta_log").is_dir():
        return "Delta"
    if (folder / ".hoodie").is_dir():
        return "Hudi"
    if next((folder / "metadata").glob("*.metadata.json"), None) is not None:
        return "Iceberg"
    return None
