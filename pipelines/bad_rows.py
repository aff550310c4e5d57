"""Rows that are no interactions: which they are, and on which line, so that the user can mend them."""

import csv
import gzip
import itertools
import json
import pathlib
import zlib
from collections.abc import Iterator

import duckdb

from bert4rec_tf.errors import InputError
from pipelines.log_formats import FileReader, compression, opened

_REPORTED_ROWS = 5


def check_whole(file: pathlib.Path) -> None:
    """Refuses a compressed file that was cut short, which the engine takes for a shorter one."""
    if compression(file) == "gzip":
        try:
            with gzip.open(file) as stream:
                while stream.read(1 << 20):
                    pass
        except (EOFError, OSError, zlib.error) as error:
            raise InputError(f"{file} must be whole. Received: {error}. Fix: copy or download it again") from None


def check_rejected(connection: duckdb.DuckDBPyConnection, file: pathlib.Path, table: FileReader) -> None:
    """Refuses rows that the CSV reader set aside."""
    if table.format not in ("csv", "tsv"):
        return
    rejected = connection.execute("SELECT DISTINCT line, error_message FROM reject_errors ORDER BY line").fetchall()
    connection.execute("DROP TABLE IF EXISTS reject_errors")
    connection.execute("DROP TABLE IF EXISTS reject_scans")
    if rejected:
        rows = [f"line {line}: {str(message).splitlines()[0]}" for line, message in rejected[:_REPORTED_ROWS]]
        raise _unreadable(file, rows, len(rejected))


def check_rows(connection: duckdb.DuckDBPyConnection, file: pathlib.Path, table: FileReader, rated: bool) -> None:
    """Refuses rows that were read into the table `raw` but lack a field."""
    faults = {
        "user_id IS NULL AND item_id IS NULL": f"must be {table.row_rule}",
        "user_id IS NULL OR user_id = ''": "has no user",
        "item_id IS NULL OR item_id = ''": "has no item",
    }
    if table.timestamp:
        faults["time IS NULL"] = "has no timestamp that is a number or an ISO 8601 time"
    if rated:
        faults["rating IS NULL OR isnan(rating)"] = "has no rating that is a number"
    reason = "CASE " + " ".join(f"WHEN {test} THEN '{words}'" for test, words in faults.items()) + " END"
    bad = f"FROM (SELECT place, user_id, item_id, time_text, {reason} AS reason FROM raw) WHERE reason IS NOT NULL"
    (count,) = connection.execute(f"SELECT count(*) {bad}").fetchone() or (0,)
    if count:
        found = connection.execute(f"SELECT * {bad} ORDER BY place LIMIT {_REPORTED_ROWS}").fetchall()
        kind = "line" if table.lines else "row"
        last = found[-1][0]
        lines = dict(
            enumerate(itertools.islice(_line_numbers(table, file), last) if table.lines else range(1, last + 1), 1)
        )
        rows = [
            f"{kind} {lines[place]} {words} (user {user!r}, item {item!r}"
            + (f", timestamp {time!r})" if table.timestamp else ")")
            for place, user, item, time, words in found
        ]
        raise _unreadable(file, rows, count)


def _line_numbers(table: FileReader, file: pathlib.Path) -> Iterator[int]:
    """The line on which each row begins: quoted fields hold line ends, and empty lines are no rows."""
    with opened(file) as stream:
        if table.format not in ("csv", "tsv"):
            yield from (
                number for number, line in enumerate(stream, start=1) if table.format != "jsonl" or line.strip()
            )
            return
        rows, begins, header = csv.reader(stream, delimiter="," if table.format == "csv" else "\t"), 1, table.header
        for row in rows:
            if row and not header:
                yield begins
            header, begins = header and not row, rows.line_num + 1


def malformed_line(file: pathlib.Path) -> int:
    """The first line that is no JSON (the engine counts one too many)."""
    with opened(file) as stream:
        for number, line in enumerate(stream, start=1):
            try:
                json.loads(line or "0")
            except ValueError:
                if line.strip():
                    return number
    return 0


def _unreadable(file: pathlib.Path, rows: list[str], count: int) -> InputError:
    more = f"; and {count - len(rows)} more" if count > len(rows) else ""
    return InputError(
        f"Every row must be an interaction. Received: {file}, {'; '.join(rows)}{more}. Fix: mend or remove these rows"
    )
