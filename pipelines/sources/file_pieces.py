"""Splits a large log file into pieces that are read separately, as if it were several files.

A piece has the lines, the bad rows and the order of its part of the file, so that nothing shows where the file was cut.
Files that cannot be cut so are one piece: compressed text and text in other encodings than UTF-8, CSV with line ends in
quoted fields, text without timestamps (its rows are numbered), and files whose lists are exploded.
"""

import dataclasses
import itertools
import pathlib
import shutil

from pipelines.sources.log_file import LogFile
from pipelines.sources.log_source import DELIMITERS, Layout, LogSource, lay_out
from pipelines.sources.text_streams import open_raw

_COPIED_AT_ONCE = 1 << 20


@dataclasses.dataclass(frozen=True)
class Piece:
    """Consecutive lines of a text file, or row groups of a Parquet file.

    Attributes:
        file: index of the file in its source.
        start: offset of the first byte, or the first row group.
        end: offset of the byte, or the row group, after the last one; None: the end of the file.
        lines_before: number of lines of the file before it; of Parquet, rows.
    """

    file: int
    start: int = 0
    end: int | None = None
    lines_before: int = 0

    @property
    def whole(self) -> bool:
        """Whether it is the whole file."""
        return self.start == 0 and self.end is None


def pieces_of(source: LogSource, number: int, rated: bool) -> list[Piece]:
    """The pieces of a source's file; `rated` as in `lay_out`.

    Raises:
        InputError: as `lay_out`.
    """
    file = source.files[number]
    if not file.cuts or source.explode:
        return [Piece(number)]
    layout = lay_out(source, file, rated)
    if layout.format != "parquet" and not _may_cut_text(layout):
        return [Piece(number)]
    bounds = [(0, 0), *file.cuts, (None, 0)]
    return [
        Piece(number, start or 0, end, lines_before) for (start, lines_before), (end, _) in itertools.pairwise(bounds)
    ]


def _may_cut_text(layout: Layout) -> bool:
    if layout.format in DELIMITERS and layout.dialect.quoted and not layout.file.even_quotes:
        return False
    return layout.timed and layout.file.plain


def cut_out(layout: Layout, piece: Piece, path: pathlib.Path) -> Layout:
    """Copies a piece of a text file to `path`, and returns the layout of this file."""
    with open_raw(layout.file.path) as source, path.open("wb") as target:
        source.seek(piece.start)
        if piece.end is None:
            shutil.copyfileobj(source, target, _COPIED_AT_ONCE)
        else:
            left = piece.end - piece.start
            while left and (copied := target.write(source.read(min(left, _COPIED_AT_ONCE)))):
                left -= copied
    delimiter = layout.dialect.delimiter if layout.format in DELIMITERS else None
    file = LogFile.scan(path, layout.file.name, delimiter)
    return dataclasses.replace(layout, file=file, has_header=layout.has_header and piece.start == 0)
