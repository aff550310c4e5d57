"""Reads optional titles of items: the vocabulary stores them, and nothing else depends on them."""

import contextlib
import pathlib

from pipelines.sources.delimited import Dialect, Line, read_records, split_header
from pipelines.sources.line_reader import read_lines
from tfrecords.errors import InputError, check_local

_COLUMNS = ("item_id", "title")


def read_titles(path: str | None) -> dict[str, str]:
    """Reads a text file with a header and the columns `item_id` and `title`.

    The header determines the delimiter: `,`, `;`, `|` or tab. Quotes are as in RFC 4180; with tabs they are text.

    Returns:
        Title by raw item id; empty if `path` is None. If an item has several rows, the last one counts.

    Raises:
        InputError: the file cannot be read, lacks a column, or has a row that is malformed or without an item id.
    """
    if path is None:
        return {}
    check_local("item_titles", path)
    try:
        lines = read_lines(pathlib.Path(path))
        header, dialect = _header(path, next(lines, Line(1, "", None)))
        titles = {}
        for line, fields, fault, text in read_records(lines, dialect):
            if fault is None and len(fields) != len(header):
                fault = f"must have {len(header)} fields, as line 1 has, not {len(fields)}"
            row = dict(zip(header, fields, strict=False))
            if fault is None and not row["item_id"]:
                fault = "has no item_id"
            if fault:
                raise InputError(f"Each title needs an item_id. Received: {path}, line {line} {fault} ({text[:200]!r})")
            if row["title"]:
                titles[row["item_id"]] = row["title"]
        return titles
    except OSError as error:
        raise InputError(f"--item_titles must be a readable text file. Received: {path} ({error})") from None


def _header(path: str, line: Line) -> tuple[list[str], Dialect]:
    for delimiter in ",;|\t":
        dialect = Dialect(delimiter, quoted=delimiter != "\t")
        with contextlib.suppress(ValueError):
            header = split_header(line.text, dialect)
            if set(_COLUMNS) <= set(header) and not line.fault:
                return header, dialect
    raise InputError(
        f"--item_titles must have the columns item_id and title, separated by commas, semicolons, pipes or tabs. "
        f"Received: {path}: {line.text.rstrip()[:200]!r}"
    )
