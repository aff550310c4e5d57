"""Splits the lines of CSV, TSV and similar files into records. A malformed record affects no line but its own."""

import contextlib
import csv
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

# Limits the rows that an unclosed quote, or one that a stray quote far below closes, could swallow.
MAX_FIELD_LINES = 8
_MAX_RECORD_CHARACTERS = 1 << 21
_QUOTED = re.compile(r'"([^"]*(?:""[^"]*)*)"(?!")')
_CARRIAGE_RETURN = ("holds a carriage return", "must be RFC 4180 (a carriage return outside quotes)")


class Dialect(NamedTuple):
    """How the fields of a row are separated.

    Attributes:
        delimiter: one character.
        quoted: whether fields may be in double quotes as in RFC 4180; otherwise a quote is a character like others.
    """

    delimiter: str
    quoted: bool


class Line(NamedTuple):
    """One line of a text file.

    Attributes:
        number: from 1.
        text: including its line end.
        fault: why it is not valid text; None if it is.
    """

    number: int
    text: str
    fault: str | None


class Record(NamedTuple):
    """The fields of one row.

    Attributes:
        line: where the row begins, from 1.
        fields: empty if the row is malformed.
        fault: what is wrong with the row; None if it is well-formed.
        text: the row as in the file; of a malformed row, its first line.
    """

    line: int
    fields: list[str]
    fault: str | None
    text: str


def read_records(lines: Iterable[Line], dialect: Dialect) -> Iterator[Record]:
    """Splits lines into records; empty lines are skipped.

    A quoted field may span `MAX_FIELD_LINES` lines. After the first line of a malformed record, reading continues with
    the next line.
    """
    source = iter(lines)
    waiting: list[Line] = []  # lines pushed back to the input; the next one is last

    def next_line() -> Line | None:
        return waiting.pop() if waiting else next(source, None)

    while (line := next_line()) is not None:
        if not line.text.strip("\r\n"):
            continue
        if not dialect.quoted or '"' not in line.text:
            text = line.text.rstrip("\r\n")
            fault = line.fault or (_CARRIAGE_RETURN[dialect.quoted] if "\r" in text else None)
            yield Record(line.number, [] if fault else text.split(dialect.delimiter), fault, line.text)
            continue
        taken = [line]
        fields = _quoted_fields(taken, next_line, dialect.delimiter)
        if isinstance(fields, str):
            waiting.extend(reversed(taken[1:]))
            yield Record(line.number, [], line.fault or f"must be RFC 4180 ({fields})", line.text)
        else:
            fault = next((each.fault for each in taken if each.fault), None)
            yield Record(line.number, [] if fault else fields, fault, "".join(each.text for each in taken))


def _quoted_fields(taken: list[Line], next_line: Callable[[], Line | None], delimiter: str) -> list[str] | str:
    """The fields of the record that begins with the line `taken[0]`, or what is wrong with it.

    The further lines of the record are appended to `taken`.
    """
    text, start, fields = taken[0].text, 0, list[str]()
    while True:
        if text.startswith('"', start):
            lines_before = len(taken) - 1
            while (found := _QUOTED.match(text, start)) is None:
                if len(taken) - lines_before == MAX_FIELD_LINES:
                    return f"a quoted field that does not end within {MAX_FIELD_LINES} lines"
                line = next_line()
                if line is None:
                    return "a quoted field that does not end"
                taken.append(line)
                text += line.text
                if len(text) > _MAX_RECORD_CHARACTERS:
                    return f"longer than {_MAX_RECORD_CHARACTERS} characters"
            fields.append(found[1].replace('""', '"'))
            end = found.end()
        else:
            end = text.find(delimiter, start)
            end = len(text.rstrip("\r\n")) if end < 0 else end
            fields.append(text[start:end])
            if '"' in fields[-1]:
                return "a quote inside a field that does not begin with one"
            if "\r" in fields[-1]:
                return "a carriage return outside quotes"
        if text.startswith(delimiter, end):
            start = end + 1
        elif text[end:].strip("\r\n"):
            return "text after a closing quote"
        else:
            return fields


def split_header(line: str, dialect: Dialect) -> list[str]:
    """Splits a header line into column names, which need not be well-formed; an empty line has none.

    Raises:
        ValueError: the line cannot be split.
    """
    line = line.rstrip("\r\n")
    if not dialect.quoted and "\r" not in line:
        return line.split(dialect.delimiter) if line else []
    try:
        return next(csv.reader([line], delimiter=dialect.delimiter), [])
    except csv.Error as error:
        raise ValueError(str(error)) from None


def read_table(lines: Iterable[Line], accepts: Callable[[list[str]], bool]) -> tuple[list[str], Iterator[Record]] | str:
    """Reads a table of items whose header tells the delimiter: a comma, a semicolon, a pipe or a tab.

    Quotes are as in RFC 4180; with tabs they are text.

    Args:
        lines: of the file.
        accepts: whether the column names are those of the table; it tells the right delimiter from the others.

    Returns:
        The column names and the rows, where a row with another number of fields has a fault; or the first line, if no
        delimiter gives a header that is accepted.
    """
    source = iter(lines)
    first = next(source, Line(1, "", None))
    for delimiter in ",;|\t":
        dialect = Dialect(delimiter, quoted=delimiter != "\t")
        with contextlib.suppress(ValueError):
            header = split_header(first.text, dialect)
            if accepts(header) and not first.fault:
                return header, _checked_widths(read_records(source, dialect), len(header))
    return first.text.rstrip()[:200]


def _checked_widths(records: Iterable[Record], width: int) -> Iterator[Record]:
    for record in records:
        if record.fault is None and len(record.fields) != width:
            fault = f"must have {width} fields, as line 1 has, not {len(record.fields)}"
            yield record._replace(fault=fault)
        else:
            yield record
