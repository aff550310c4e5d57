"""Scans each input file once before its events are read: hash, size, compression, encoding and kinds of line ends."""

import contextlib
import dataclasses
import hashlib

import pyarrow as pa
from pyarrow import parquet

from pipelines.sources.text_streams import (
    UTF8_BOM,
    HashingReader,
    InputPath,
    TextStream,
    arrow_source,
    naming_damage,
    open_raw,
)
from tfrecords.errors import InputError
from tfrecords.stores import Stamp, StoreFile


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
        field_quotes: number of quotes at the start or the end of a field; those at both count twice.
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
    field_quotes: int
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
                while piece := stream.read(1 << 20):
                    text.add(piece)
                    if not as_it_is:
                        content_sha256.update(piece)
                reader.read_rest()
        text.end()
        if _stamp(path) != stamp:
            raise _changed(path)
        return cls(
            path, name, reader.bytes, reader.sha256.hexdigest(), content_sha256.hexdigest(), stream.compression,
            stream.encoding, text.blank, text.lines, text.plain, text.quotes, text.delimiters, text.field_quotes, stamp,
        )  # fmt: skip

    @classmethod
    def scan_parquet(cls, path: InputPath, name: str) -> "LogFile":
        """Scans a Parquet file."""
        stamp, rows = _stamp(path), 0
        # The reader reports what is wrong.
        with contextlib.suppress(pa.ArrowException, OSError), arrow_source(path) as source:
            rows = parquet.read_metadata(source).num_rows
        size, sha256 = _hash(path, stamp)
        return cls(path, name, size, sha256, sha256, "", "", rows == 0, rows, True, 0, 0, 0, stamp)

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
        self.lines = self.quotes = self.delimiters = self.field_quotes = 0
        self.plain = self.blank = True
        self._delimiter, self._last = delimiter, b"\n"  # as if a line had ended before the first

    def add(self, piece: bytes) -> None:
        self.blank = self.blank and not piece.strip()
        joined = self._last + piece
        self._last = joined[-1:]
        self.lines += piece.count(b"\n")
        returns = joined.count(b"\r") - (self._last == b"\r")
        self.plain = self.plain and not (b"\x00" in piece or b"\x01" in piece) and returns == joined.count(b"\r\n")
        self.quotes += piece.count(b'"')
        if self._delimiter:
            self.delimiters += piece.count(self._delimiter)
            if b'"' in joined:
                opening = (self._delimiter + b'"', b'\n"')
                closing = (b'"' + self._delimiter, b'"\n', b'"\r')
                self.field_quotes += sum(map(joined.count, opening + closing))

    def end(self) -> None:
        self.lines += self._last != b"\n"
        self.plain = self.plain and self._last != b"\r"
        self.field_quotes += self._last == b'"'


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
