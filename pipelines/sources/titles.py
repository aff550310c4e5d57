"""Reads optional titles of items: the vocabulary stores them, and nothing else depends on them."""

import pathlib

from pipelines.sources.delimited import read_table
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
        table = read_table(read_lines(pathlib.Path(path)), lambda names: set(_COLUMNS) <= set(names))
        if isinstance(table, str):
            raise InputError(
                "--item_titles must have the columns item_id and title, separated by commas, semicolons, pipes or "
                f"tabs. Received: {path}: {table!r}"
            )
        header, records = table
        titles = {}
        for line, fields, fault, text in records:
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
