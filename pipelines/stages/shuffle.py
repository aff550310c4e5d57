"""Sorts records by random keys in bounded memory."""

import heapq
import operator
import pathlib
import struct
import tempfile
from collections.abc import Iterator
from typing import BinaryIO, cast

import numpy as np

_RUN_BYTES = 1 << 26
_HEAD = struct.Struct("<QI")


class ShuffledRecords:
    """Collects records with keys, and yields them by rising key; records with equal keys keep their order.

    Beyond 64 MB, sorted runs go to unnamed temporary files, which the operating system removes with the process.
    """

    def __init__(self, directory: str | pathlib.Path):
        """Creates files in `directory`, but only if they are needed."""
        self._directory = directory
        self._records: list[bytes] = []
        self._keys: list[np.ndarray] = []
        self._bytes = 0
        self._runs: list[BinaryIO] = []

    def add(self, keys: np.ndarray, records: list[bytes]) -> None:
        """Adds records and their keys, uint64 [records]."""
        self._keys.append(keys)
        self._records += records
        self._bytes += sum(map(len, records))
        if self._bytes > _RUN_BYTES:
            self._write_run()

    def __iter__(self) -> Iterator[bytes]:
        """Yields the records; works only once."""
        if not self._runs:
            return (record for _, record in self._sorted())
        self._write_run()
        return (record for _, record in heapq.merge(*map(_read_run, self._runs), key=operator.itemgetter(0)))

    def _sorted(self) -> Iterator[tuple[int, bytes]]:
        keys = np.concatenate(self._keys) if self._keys else np.zeros(0, np.uint64)
        order = np.argsort(keys, kind="stable")
        return ((key, self._records[index]) for key, index in zip(keys[order].tolist(), order.tolist(), strict=True))

    def _write_run(self) -> None:
        run = cast(BinaryIO, tempfile.TemporaryFile(dir=self._directory))  # noqa: SIM115, read later
        for key, record in self._sorted():
            run.write(_HEAD.pack(key, len(record)))
            run.write(record)
        self._runs.append(run)
        self._records, self._keys, self._bytes = [], [], 0


def _read_run(run: BinaryIO) -> Iterator[tuple[int, bytes]]:
    run.seek(0)
    while head := run.read(_HEAD.size):
        key, size = _HEAD.unpack(head)
        yield key, run.read(size)
