"""Reads text logs line by line in plain Python, so that the line and the fault of every bad row are known.

DuckDB reads faster, but it accepts some malformed rows and rejects the whole file for others. It is tried first if
`duckdb_reader.is_safe_for_duckdb` expects both readers to agree.
"""

import itertools
import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

from pipelines.sources.delimited import Line, read_records
from pipelines.sources.log_file import LogFile
from pipelines.sources.log_source import DELIMITERS, MAX_LINE_BYTES, Layout
from pipelines.sources.text_streams import UTF8_BOM, InputPath, open_text

BLANKS = r"[ \t\r\v\f]*"  # means the same to Python's `re` and to DuckDB
_FIELD = r"([^ \t\r\v\f]+)"
ROW_PATTERNS = {  # of the formats with a fixed number of fields separated by blanks
    "user_item": BLANKS + r"[ \t\r\v\f]+".join([_FIELD] * 2) + BLANKS,
    "user_item_rating_time": BLANKS + r"[ \t\r\v\f]+".join([_FIELD] * 4) + BLANKS,
}
ROW_RULES = {
    "user_item": "must be `user item`",
    "user_item_rating_time": "must be `user item rating time`",
    "user_items": "must be `user item item …`",
    "movielens": "must be `user::item::rating::timestamp`, or the four with tabs between",
}
FIELDS = ("user", "item", "timestamp", "rating")
_PIECE_BYTES = 1 << 16
TEXT_KEPT = 1000  # characters of a faulty row
_BLANK = re.compile(BLANKS)


class Row(NamedTuple):
    """One row of a log.

    Attributes:
        line: its first line, counted from 1.
        user, item, timestamp, rating: its fields as text; None if missing.
        fault: why it does not have this format; None if it does.
        text: of a faulty row, its first 1,000 characters as in the file.
    """

    line: int
    user: str | None
    item: str | None
    timestamp: str | None
    rating: str | None
    fault: str | None
    text: str | None


def _faulty(line: int, fault: str, text: str) -> Row:
    return Row(line, None, None, None, None, fault, text[:TEXT_KEPT])


def read_rows(layout: Layout) -> Iterator[Row]:
    """The rows of a text log; blank lines are skipped."""
    rows = _rows_of_file(layout)
    if layout.partition:
        values: dict[str, Any] = dict(layout.partition)
        return (row if row.fault else row._replace(**values) for row in rows)
    return rows


def _rows_of_file(layout: Layout) -> Iterator[Row]:
    if layout.format in DELIMITERS:
        return _delimited_rows(layout)
    if layout.format == "jsonl":
        decode = _decoder(layout.columns.values())
        return _line_rows(layout, lambda text: _json_events(text, layout, decode))
    if layout.format in ROW_PATTERNS:
        pattern = re.compile(ROW_PATTERNS[layout.format])
        return _line_rows(layout, lambda text: _pattern_fields(text, pattern, layout.format))
    return _line_rows(layout, _user_items if layout.format == "user_items" else _movielens)


def count_blank_lines(file: LogFile) -> int:
    """Counts lines that hold only blanks, in bounded memory: a long line is read piece by piece."""
    count, blank, ended = 0, True, True
    with open_text(file.path) as stream:
        while piece := stream.readline(_PIECE_BYTES):
            blank = (ended or blank) and not piece.strip()
            ended = piece.endswith(b"\n")
            count += blank and ended
    return count + (blank and not ended)


def read_lines(path: InputPath) -> Iterator[Line]:
    """The lines of a text file, each with its fault if it is not valid text."""
    with open_text(path) as stream:
        for number in itertools.count(1):
            line = stream.readline(MAX_LINE_BYTES)
            if number == 1:
                line = line.removeprefix(UTF8_BOM)
            if not line:
                return
            fault = "holds a NUL byte" if b"\x00" in line else None
            if not line.endswith(b"\n") and len(line) >= MAX_LINE_BYTES - 3:
                fault = f"is longer than {MAX_LINE_BYTES} bytes"
                while (rest := stream.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                    pass
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError:
                text, fault = line.decode("utf-8", "backslashreplace"), fault or f"is not {stream.encoding.upper()}"
            yield Line(number, text, fault)


Fields = tuple[str | None, str | None, str | None, str | None]


def _line_rows(layout: Layout, fields_of: Callable[[str], Sequence[Fields] | str]) -> Iterator[Row]:
    for number, text, line_fault in read_lines(layout.file.path):
        stripped = text.removesuffix("\n")
        if not line_fault and _BLANK.fullmatch(stripped):
            continue
        fields = line_fault or fields_of(stripped)
        if isinstance(fields, str):
            yield _faulty(number, fields, stripped)
        else:
            for event in fields:
                yield Row(number, *event, None, None)


def _pattern_fields(text: str, pattern: re.Pattern[str], format_: str) -> Sequence[Fields] | str:
    found = pattern.fullmatch(text)
    if not found:
        return ROW_RULES[format_]
    user, item, rating, time = (*found.groups(), None, None)[:4]
    return [(user, item, time, rating)]


def _user_items(text: str) -> Sequence[Fields] | str:
    user, *items = re.findall(_FIELD, text)
    return [(user, item, None, None) for item in items] or ROW_RULES["user_items"]


def _movielens(text: str) -> Sequence[Fields] | str:
    parts = text.removesuffix("\r").replace("::", "\t").split("\t")
    return [(parts[0], parts[1], parts[3], parts[2])] if len(parts) == 4 else ROW_RULES["movielens"]


def _decoder(columns: Collection[str]) -> Callable[[str], Any]:
    """A JSON decoder that keeps numbers as written: the id 1.10 differs from 1.1, and a timestamp keeps its digits."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs) and any(sum(name == key for key, _ in pairs) > 1 for name in columns):
            raise ValueError("a key stands there twice")
        return found

    return json.JSONDecoder(
        parse_int=str, parse_float=str, parse_constant=lambda _: None, object_pairs_hook=once
    ).decode


def _json_events(text: str, layout: Layout, decode: Callable[[str], Any]) -> Sequence[Fields] | str:
    try:
        row = decode(text)
    except (ValueError, RecursionError) as error:
        return f"must be one JSON object ({str(error)[:80]})"
    if not isinstance(row, dict):
        return "must be one JSON object"
    for name in layout.partition_columns:
        if row.get(name) is not None:
            return f"has the key {name!r} itself, which --partition_columns takes from the folder"
    values = {field: row.get(layout.columns[field]) if field in layout.columns else None for field in FIELDS}
    rows = _exploded(values) if layout.explode and isinstance(values["item"], list) else [values]
    if isinstance(rows, str):
        return rows
    events = list[Fields]()
    for event in rows:
        fields = _json_fields(event, layout.columns)
        if isinstance(fields, str):
            return fields
        if "\\u" in text and any(value and _has_surrogates(value) for value in fields):
            return "holds half of a surrogate pair"
        events.append(fields)
    return events


def _exploded(row: dict[str, Any]) -> Sequence[dict[str, Any]] | str:
    """Turns a row with a list of items into one row per item; lists of timestamps and ratings are split in parallel."""
    lists = {field: values for field, values in row.items() if isinstance(values, list) and field != "user"}
    if not row["item"]:
        return "has an empty list of items"
    if len({len(values) for values in lists.values()}) > 1:
        return "has lists of unequal lengths"
    return [row | dict(zip(lists, element, strict=True)) for element in zip(*lists.values(), strict=True)]


def _json_fields(values: dict[str, Any], columns: dict[str, str]) -> Fields | str:
    fields = list[str | None]()
    for field, value in values.items():
        if not (value is None or isinstance(value, str)):
            if not isinstance(value, bool):
                fix = " (--explode takes lists of items)" if field == "item" and isinstance(value, list) else ""
                return f"must have a string or a number for {field} {columns[field]!r}{fix}"
            value = str(value).lower()
        fields.append(value)
    user, item, timestamp, rating = fields
    return user, item, timestamp, rating


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _delimited_rows(layout: Layout) -> Iterator[Row]:
    width, named = len(layout.header), [layout.columns.get(field) for field in FIELDS]
    indices = [None if name is None else layout.header.index(name) for name in named]
    lines = read_lines(layout.file.path)
    if layout.has_header:
        next(lines, None)
    for line, fields, fault, text in read_records(lines, layout.dialect):
        if fault is None and len(fields) != width:
            fault = f"must have {width} fields, as line 1 has, not {len(fields)}"
        if fault:
            yield _faulty(line, fault, text)
        else:
            user, item, timestamp, rating = [None if index is None else fields[index] for index in indices]
            yield Row(line, user, item, timestamp, rating, None, None)
