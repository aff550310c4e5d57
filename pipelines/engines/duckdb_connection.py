"""A DuckDB database that spills to disk, and its errors in words of ours."""

import pathlib

import duckdb

from tfrecords.errors import InputError


def connect(spill_dir: pathlib.Path, memory_limit: str | None) -> duckdb.DuckDBPyConnection:
    """A database in memory that spills into `spill_dir`.

    Raises:
        InputError: `memory_limit` is no size.
    """
    connection = duckdb.connect()
    connection.execute("SET preserve_insertion_order = true")
    connection.execute("SET enable_progress_bar = true")  # for query_progress
    connection.execute("SET enable_progress_bar_print = false")
    connection.execute("SET temp_directory = ?", [str(spill_dir)])
    if memory_limit:
        try:
            connection.execute("SET memory_limit = ?", [memory_limit])
        except duckdb.Error:
            connection.close()
            raise InputError(f"--memory_limit must be a size such as 4GB. Received: {memory_limit!r}") from None
    return connection


def raise_as_input_error(error: duckdb.Error, memory_limit: str | None) -> None:
    """Raises the engine's error as one that says what to do, where the user can do something."""
    first_line = str(error).splitlines()[0]
    if isinstance(error, duckdb.OutOfMemoryException):
        raise InputError(
            f"--memory_limit must leave the engine room. Received: {memory_limit or 'none'} ({first_line}). "
            "Fix: raise it, or free disk space beside --output_dir where it spills"
        ) from None
    if isinstance(error, duckdb.IOException):
        raise InputError(
            f"Disk and inputs must stay readable and writable, and beside --output_dir there must be room to sort. "
            f"Received: {first_line}"
        ) from None
