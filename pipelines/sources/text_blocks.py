"""Cuts a text log into blocks of lines, so that what one block holds does not slow down the reading of the others."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from pipelines.sources.delimited import MAX_FIELD_LINES
from pipelines.sources.log_file import LogFile
from pipelines.sources.log_source import DELIMITERS, Layout
from pipelines.sources.text_streams import HEAD_BYTES, TextStream, is_plain_utf8, open_text

_BLOCK_BYTES = 1 << 20
_READ_BYTES = 1 << 16


class Block(NamedTuple):
    """Consecutive lines of a text file, in a file of their own.

    Attributes:
        layout: of that file.
        lines_before: number of lines before the first one.
    """

    layout: Layout
    lines_before: int


def blocks_of(layout: Layout, path: pathlib.Path) -> Iterator[Block]:
    """Copies the blocks of a UTF-8 file to `path`, uncompressed, one after the other. Each replaces the one before.

    Every record is in one block: of CSV, a block ends only after lines without a quoted field that may not have ended.
    """
    delimiter = layout.dialect.delimiter if layout.format in DELIMITERS else None
    quoted = delimiter is not None and layout.dialect.quoted
    lines_before = 0
    try:
        with open_text(layout.file.path) as stream:
            while stream.peek(1):
                _copy_block(stream, path, MAX_FIELD_LINES - 1 if quoted else 0)
                file = LogFile.scan(path, layout.file.name, delimiter)
                has_header = layout.has_header and lines_before == 0
                yield Block(dataclasses.replace(layout, file=file, has_header=has_header), lines_before)
                lines_before += file.lines
    finally:
        path.unlink(missing_ok=True)


def _copy_block(stream: TextStream, path: pathlib.Path, closed_lines: int) -> None:
    """Copies lines until the block is large enough and its last `closed_lines` lines have an even number of quotes.

    A record of several lines begins with a line of an odd number of quotes: that of the quoted field that goes on.
    """
    with path.open("wb") as target:
        piece = stream.read(_BLOCK_BYTES)
        target.write(piece)
        parts = piece.rsplit(b"\n", closed_lines + 1)
        lines, rest = parts[-closed_lines - 1 : -1], parts[-1]
        open_lines = [number for number, line in enumerate(lines) if line.count(b'"') % 2]
        closed = len(lines) - 1 - max(open_lines, default=-1)
        quotes, ended = rest.count(b'"'), not rest
        while not (ended and closed >= closed_lines and is_plain_utf8(stream.peek(HEAD_BYTES)[:HEAD_BYTES])):
            piece = stream.readline(_READ_BYTES)
            if not piece:
                return
            target.write(piece)
            quotes += piece.count(b'"')
            ended = piece.endswith(b"\n")
            if ended:
                closed, quotes = 0 if quotes % 2 else closed + 1, 0
