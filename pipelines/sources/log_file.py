"""Scans each input file once before its events are read: hash, size, compression, encoding and kinds of line ends."""

import contextlib
import dataclasses
import hashlib

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from pipelines.sources.text_streams import (
    HEAD_BYTES,
    UTF8_BOM,
    HashingReader,
    InputPath,
    TextStream,
    arrow_source,
    is_plain_utf8,
    naming_damage,
    open_raw,
)
from tfrecords.errors import InputError
from tfrecords.stores import Stamp, StoreFile

PIECE_BYTES = 1 << 26


@dataclasses.dataclass(frozen=True)
class LogFile:
    r"""One input file.

    Attributes:
        path: of the file.
        name: the path below the folder that all inputs share; the manifest uses it.
        bytes, sha256: of the file.
        content_sha256: of its text, decompressed and in UTF-8; of Parquet, of the file.
        compression, encoding: of a text file, see `TextStream`.
        blank: whether it has no rows: only blanks in text, no rows in Parquet.
        lines: number of lines, including an unfinished last one; of Parquet, the rows.
        plain: whether its text has no NUL or \x01 and no line end but \n and \r\n: all readers then agree on its lines.
        quotes: number of quotes.
        delimiters: number of the format's delimiters.
        quoted_delimiters: number of those between quotes; only if `even_quotes`.
        field_quotes: number of quotes at the start or the end of a field; those at both count twice.
        even_quotes: whether each line has an even number of quotes: then no quoted field holds a line end.
        cuts: where the file may be cut into pieces of about `PIECE_BYTES`: the offset of a line of text, and the number
            of lines before it; of Parquet, the number of a row group, and the rows before it.
        stamp: file system state before the first byte was read; if it differs later, the file may have changed.
    """

    path: InputPath
    name: str
    bytes: int
    sha256: str
    content_sha256: str
    compression: str
    encoding: str
    blank: bool
    lines: int
    plain: bool
    quotes: int
    delimiters: int
    quoted_delimiters: int
    field_quotes: int
    even_quotes: bool
    cuts: tuple[tuple[int, int], ...]
    stamp: Stamp | tuple[int, ...]

    @classmethod
    def scan(cls, path: InputPath, name: str, delimiter: str | None = None) -> "LogFile":
        """Scans a text file; if `delimiter` is None, delimiters and quotes at the ends of fields are not counted.

        Raises:
            InputError: the file is not text, changes during the scan, or is compressed and truncated, which DuckDB does
                not notice.
        """
        stamp = _stamp(path)
        text = _Text((delimiter or "").encode())
        with open_raw(path) as file, naming_damage(path):
            reader = HashingReader(file)
            with TextStream(reader, path) as stream:
                marked = stream.peek(3).startswith(UTF8_BOM) and stream.read(3) == UTF8_BOM
                as_it_is = not stream.compression and stream.encoding == "utf-8" and not marked
                content_sha256 = reader.sha256 if as_it_is else hashlib.sha256()
                cuts = _Cuts()
                while piece := stream.read(1 << 20):
                    if as_it_is:
                        cuts.add(piece, text.lines)
                    text.add(piece)
                    if not as_it_is:
                        content_sha256.update(piece)
                reader.read_rest()
        text.end()
        if _stamp(path) != stamp:
            raise _changed(path)
        return cls(
            path, name, reader.bytes, reader.sha256.hexdigest(), content_sha256.hexdigest(), stream.compression,
            stream.encoding, text.blank, text.lines, text.plain, text.quotes, text.delimiters,
            text.quoted_delimiters, text.field_quotes, text.even_quotes, tuple(cuts.found), stamp,
        )  # fmt: skip

    @classmethod
    def scan_parquet(cls, path: InputPath, name: str) -> "LogFile":
        """Scans a Parquet file."""
        stamp, rows, cuts = _stamp(path), 0, list[tuple[int, int]]()
        # The reader reports what is wrong.
        with contextlib.suppress(pa.ArrowException, OSError), arrow_source(path) as source:
            metadata = parquet.read_metadata(source)
            rows, cuts = metadata.num_rows, _parquet_cuts(metadata)
        size, sha256 = _hash(path, stamp)
        return cls(
            path, name, size, sha256, sha256, "", "", rows == 0, rows, True, 0, 0, 0, 0, True, tuple(cuts), stamp
        )

    def check_unchanged(self) -> None:
        """Refuses a file that changed after it was hashed: `sha256` would not identify its rows.

        Raises:
            InputError: its bytes differ.
        """
        with contextlib.suppress(OSError):
            if _stamp(self.path) == self.stamp or _hash(self.path)[1] == self.sha256:
                return
        raise _changed(self.path)


class _Text:
    """Counts the lines, quotes and delimiters of a text, piece by piece."""

    def __init__(self, delimiter: bytes):
        self.lines = self.quotes = self.delimiters = self.quoted_delimiters = self.field_quotes = 0
        self.plain = self.blank = self.even_quotes = True
        self._delimiter, self._last = delimiter, b"\n"  # as if a line had ended before the first

    def add(self, piece: bytes) -> None:
        self.blank = self.blank and not piece.strip()
        joined = self._last + piece
        self._last = joined[-1:]
        self.lines += piece.count(b"\n")
        returns = joined.count(b"\r") - (self._last == b"\r")
        self.plain = self.plain and not (b"\x00" in piece or b"\x01" in piece) and returns == joined.count(b"\r\n")
        self._add_quotes(piece)
        if self._delimiter:
            self.delimiters += piece.count(self._delimiter)
            if b'"' in joined:
                opening = (self._delimiter + b'"', b'\n"')
                closing = (b'"' + self._delimiter, b'"\n', b'"\r')
                self.field_quotes += sum(map(joined.count, opening + closing))

    def _add_quotes(self, piece: bytes) -> None:
        if self.even_quotes and (self.quotes % 2 or b'"' in piece):
            characters = np.frombuffer(piece, np.uint8)
            quotes, line_ends = (np.flatnonzero(characters == ord(each)) for each in '"\n')
            before = self.quotes + np.searchsorted(quotes, line_ends)
            self.even_quotes = not np.any(before % 2)
            if len(self._delimiter) == 1:
                delimiters = np.flatnonzero(characters == ord(self._delimiter))
                self.quoted_delimiters += int(np.sum((self.quotes + np.searchsorted(quotes, delimiters)) % 2))
        self.quotes += piece.count(b'"')

    def end(self) -> None:
        self.lines += self._last != b"\n"
        self.plain = self.plain and self._last != b"\r"
        self.field_quotes += self._last == b'"'


class _Cuts:
    """Finds the lines of a text where it may be cut, piece by piece."""

    def __init__(self) -> None:
        self.found: list[tuple[int, int]] = []
        self._offset, self._next = 0, PIECE_BYTES

    def add(self, piece: bytes, lines_before: int) -> None:
        start = max(self._next - self._offset, 0)
        while (start := piece.find(b"\n", start) + 1) and start + HEAD_BYTES <= len(piece):
            if is_plain_utf8(piece[start : start + HEAD_BYTES]):  # otherwise it would not be read as text
                self.found.append((self._offset + start, lines_before + piece.count(b"\n", 0, start)))
                start += PIECE_BYTES
                self._next = self._offset + start
        self._offset += len(piece)


def _parquet_cuts(metadata: parquet.FileMetaData) -> list[tuple[int, int]]:
    cuts, rows, size = list[tuple[int, int]](), 0, 0
    for number in range(metadata.num_row_groups):
        if size >= PIECE_BYTES:
            cuts.append((number, rows))
            size = 0
        group = metadata.row_group(number)
        rows += group.num_rows
        size += group.total_byte_size
    return cuts


def _stamp(path: InputPath) -> Stamp | tuple[int, ...]:
    if isinstance(path, StoreFile):
        return path.stamp()
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _hash(path: InputPath, stamp: Stamp | tuple[int, ...] | None = None) -> tuple[int, str]:
    """The size and the hash of a file, which has not changed since `stamp`."""
    with open_raw(path) as file:
        reader = HashingReader(file)
        reader.read_rest()
    if stamp is not None and _stamp(path) != stamp:
        raise _changed(path)
    return reader.bytes, reader.sha256.hexdigest()


def _changed(path: InputPath) -> InputError:
    return InputError(
        f"An input must not change while it is read. Received: {path}, which did. "
        "Fix: read a copy of it, or run again when nothing writes to it"
    )
