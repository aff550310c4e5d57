"""Lets DuckDB read files of object stores piece by piece."""

import contextlib
import datetime
import io
from collections.abc import Iterator
from typing import Any

import duckdb
from fsspec import AbstractFileSystem

from tfrecords.stores import StoreFile

_PROTOCOL = "bert4rec"  # one of our own: DuckDB would take s3:// for its own extension
_BUFFER_BYTES = 1 << 16


def duckdb_address(file: StoreFile) -> str:
    """The address of a file in SQL, inside `registered`."""
    return f"{_PROTOCOL}://{str(file).encode().hex()}"  # no character that DuckDB would expand as a glob


@contextlib.contextmanager
def registered(connection: duckdb.DuckDBPyConnection, file: object) -> Iterator[None]:
    """In the block, the connection can read a file of a store at its `duckdb_address`; other files need nothing."""
    if not isinstance(file, StoreFile):
        yield
        return
    connection.register_filesystem(_OneFile(file))
    try:
        yield
    finally:
        connection.unregister_filesystem(_PROTOCOL)


class _OneFile(AbstractFileSystem):
    """A file system as fsspec describes it, of one file."""

    protocol = _PROTOCOL
    cachable = False

    def __init__(self, file: StoreFile):
        super().__init__()
        self._file = file

    def _open(self, path: str, mode: str = "rb", **_: Any) -> io.BufferedReader:
        return io.BufferedReader(self._file.open_raw(), _BUFFER_BYTES)

    def open(self, path: str, mode: str = "rb", **_: Any) -> io.BufferedReader:
        return self._open(path)

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return {"name": path, "size": self._file.stamp().bytes, "type": "file"}

    def modified(self, path: str) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self._file.stamp().changed_at / 1e9, datetime.timezone.utc)

    def glob(self, path: str, **_: Any) -> list[str]:
        return [path.removeprefix(f"{_PROTOCOL}://")]
