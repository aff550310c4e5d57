"""Opens a DuckDB database that spills to disk, and translates its errors."""

import contextlib
import pathlib

import duckdb

from tfrecords.errors import InputError


def connect(spill_dir: pathlib.Path, memory_limit: str | None, threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """Opens a database in memory that spills into `spill_dir`; `threads` None: as many as the machine has cores.

    Raises:
        InputError: `memory_limit` is not a size.
    """
    connection = duckdb.connect()
    connection.execute("SET preserve_insertion_order = true")
    with contextlib.suppress(duckdb.InvalidInputException):  # in a notebook, DuckDB refuses these without ipywidgets
        connection.execute("SET enable_progress_bar = true")  # for query_progress
        connection.execute("SET enable_progress_bar_print = false")
    connection.execute("SET temp_directory = ?", [str(spill_dir)])
    if threads:
        connection.execute("SET threads = ?", [threads])
    if memory_limit:
        try:
            connection.execute("SET memory_limit = ?", [memory_limit])
        except duckdb.Error:
            connection.close()
            raise InputError(f"--memory_limit must be a size such as 4GB. Received: {memory_limit!r}") from None
    return connection


def raise_as_input_error(error: duckdb.Error, memory_limit: str | None) -> None:
    """Raises an `InputError` with a fix if the user can fix the cause of the engine's error."""
    first_line = str(error).splitlines()[0]
    if isinstance(error, duckdb.OutOfMemoryException):
        raise InputError(
            f"--memory_limit must be large enough for the engine. Received: {memory_limit or 'none'} ({first_line}). "
            "Fix: raise it, or free disk space beside --output_dir where it spills"
        ) from None
    if isinstance(error, duckdb.IOException):
        raise InputError(
            f"Inputs must stay readable, and the disk of --output_dir must be writable with enough space to sort. "
            f"Received: {first_line}"
        ) from None
