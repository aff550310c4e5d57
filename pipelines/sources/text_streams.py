"""Reads text files as UTF-8 bytes. Their first bytes determine the compression and the encoding."""

import bz2
import codecs
import contextlib
import gzip
import hashlib
import io
import itertools
import lzma
import pathlib
import re
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, TypeAlias, cast

import pyarrow as pa

from tfrecords.errors import InputError
from tfrecords.stores import StoreFile

InputPath: TypeAlias = pathlib.Path | StoreFile
UTF8_BOM = codecs.BOM_UTF8
HEAD_BYTES = 512  # of a text, which tell what it is
_BUFFER_BYTES = 1 << 20
_COMPRESSIONS = {
    "gzip": rb"\x1f\x8b",
    "bz2": rb"BZh[1-9](1AY&SY|\x17rE8P\x90)",
    "xz": rb"\xfd7zXZ\x00",
    "zstd": rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18",
}
_ENCODINGS = {  # UTF-32 first: the mark of UTF-16 begins that of UTF-32
    "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}
# The offset of the bytes, the bytes, and the fix.
_NO_TEXT = {
    "a zip archive": (0, b"PK\x03\x04", "unpack it"),
    "a 7z archive": (0, b"7z\xbc\xaf\x27\x1c", "unpack it"),
    "a rar archive": (0, b"Rar!\x1a\x07", "unpack it"),
    "a tar archive": (257, b"ustar", "unpack it"),
    "compressed with lz4": (0, b"\x04\x22\x4d\x18", "decompress it"),
    "compressed with compress": (0, b"\x1f\x9d", "decompress it"),
    "Parquet": (0, b"PAR1", "--format=parquet"),
}


class HashingReader(io.RawIOBase):
    """Hashes a file's bytes while they are read.

    Attributes:
        bytes: number of bytes read.
        sha256: of these bytes.
    """

    def __init__(self, file: io.RawIOBase):
        self._file = file
        self.bytes, self.sha256 = 0, hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer) or 0
        self.sha256.update(memoryview(buffer)[:count])
        self.bytes += count
        return count

    def read_rest(self) -> None:
        """Reads the bytes that a decompressor left unread."""
        while self.read(_BUFFER_BYTES):
            pass


class _Transcoder(io.RawIOBase):
    """Converts UTF-16 or UTF-32 to UTF-8. Half a surrogate pair becomes invalid UTF-8, so that its row is bad."""

    def __init__(self, stream: BinaryIO, encoding: str):
        self._stream, self._decoder = stream, codecs.getincrementaldecoder(encoding)("surrogatepass")
        self._waiting, self._ended = b"", False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._waiting and not self._ended:
            piece = self._stream.read(len(buffer))
            self._ended = not piece
            self._waiting = self._decoder.decode(piece, self._ended).encode("utf-8", "surrogatepass")
        piece, self._waiting = self._waiting[: len(buffer)], self._waiting[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)


class TextStream(io.BufferedReader):
    """A text file's bytes, decompressed and as UTF-8, including a byte order mark of UTF-8.

    Attributes:
        compression: "gzip", "bz2", "xz", "zstd", or "" if not compressed.
        encoding: "utf-8", "utf-16" or "utf-32".
    """

    def __init__(self, file: io.RawIOBase, path: InputPath):
        """Looks at the first bytes.

        Args:
            file: the file's bytes.
            path: its name, for messages.

        Raises:
            InputError: the file is not text.
        """
        raw = io.BufferedReader(file, _BUFFER_BYTES)
        self.compression = _compression(raw.peek(16), path)
        text = io.BufferedReader(_decompressed(raw, self.compression), _BUFFER_BYTES)
        head = text.peek(HEAD_BYTES)
        if self.compression:
            _check_text(head, path)
        self.encoding = next((name for name, marks in _ENCODINGS.items() if head.startswith(marks)), "utf-8")
        stream = text if self.encoding == "utf-8" else _Transcoder(cast(BinaryIO, text), self.encoding)
        super().__init__(cast(io.RawIOBase, stream), _BUFFER_BYTES)


def open_raw(path: InputPath) -> io.RawIOBase:
    """Opens a file's bytes, unbuffered."""
    return path.open_raw() if isinstance(path, StoreFile) else path.open("rb", buffering=0)


@contextlib.contextmanager
def arrow_source(path: InputPath) -> Iterator[Any]:
    """A file as the readers of pyarrow take it: its path, or an open file of a store."""
    if isinstance(path, StoreFile):
        with path.open_arrow() as file:
            yield file
    else:
        yield path


@contextlib.contextmanager
def open_text(path: InputPath) -> Iterator[TextStream]:
    """Opens a text file."""
    with open_raw(path) as file, naming_damage(path), TextStream(file, path) as stream:
        yield stream


@contextlib.contextmanager
def naming_damage(path: InputPath) -> Iterator[None]:
    """Names the file if reading it in the block finds it truncated or damaged.

    Raises:
        InputError: replaces the error of the block.
    """
    try:
        yield
    except (EOFError, UnicodeDecodeError, lzma.LZMAError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # a disk error; a decompressor's has no number
            raise
        raise InputError(f"{path} must be whole. Received: {error}. Fix: copy or download it again") from None


def is_plain_utf8(head: bytes) -> bool:
    """Whether `TextStream` would read a file with these first `HEAD_BYTES` as it is."""
    marks = (UTF8_BOM, *itertools.chain.from_iterable(_ENCODINGS.values()))
    is_other = any(head[offset:].startswith(mark) for offset, mark, _ in _NO_TEXT.values())
    return not (head.startswith(marks) or is_other or any(re.match(mark, head) for mark in _COMPRESSIONS.values()))


def _compression(head: bytes, path: InputPath) -> str:
    for name, mark in _COMPRESSIONS.items():
        if re.match(mark, head):
            return name
    _check_text(head, path)
    return ""


def _decompressed(raw: Any, compression: str) -> Any:
    if compression == "zstd":  # Python's own comes with 3.14
        return pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")
    openers: dict[str, Any] = {"gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}
    return openers[compression](raw) if compression else raw


def _check_text(head: bytes, path: InputPath) -> None:
    for kind, (offset, mark, fix) in _NO_TEXT.items():
        if head[offset:].startswith(mark):
            raise InputError(
                f"An input must be text, plain or compressed with gzip, bz2, xz or zstd, or Parquet. "
                f"Received: {path}, which is {kind}. Fix: {fix}"
            )
