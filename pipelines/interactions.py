"""Raw logs of any supported format into one table of events: `events(user_id, item_id, time, row)`.

`time` is an exact decimal (seconds, or whatever unit the log counts in); `row` is the order of the input. Every
row of the input either becomes an event or ends the run with its file, its place and the reason.
"""

import csv
import dataclasses
import glob
import gzip
import io
import pathlib
from collections.abc import Sequence

import duckdb
import pyarrow as pa

from bert4rec_tf.errors import InputError
from tfrecords.manifest import file_sha256

FORMATS = ("auto", "csv", "tsv", "jsonl", "parquet", "user_item", "movielens")
_SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".dat": "movielens",
    ".data": "movielens",
    ".txt": "user_item",
}
_MAX_LINE_BYTES = 1 << 24
_REPORTED_ROWS = 5


@dataclasses.dataclass(frozen=True)
class LogSource:
    """Files of interactions, and how to read them.

    Attributes:
        paths: files and globs.
        format: one of `FORMATS`; "auto" goes by the file's name.
        user_column, item_column: names in a header, keys in JSON, or, where all the columns given are numbers,
            places counted from 0 in a CSV or TSV file without a header.
        timestamp_column: the same; "" where the file has none and its rows are in time order.
        rating_column: the same; "" where there is none.
    """

    paths: Sequence[str]
    format: str = "auto"
    user_column: str = "user_id"
    item_column: str = "item_id"
    timestamp_column: str = "timestamp"
    rating_column: str = ""

    def files(self) -> list[pathlib.Path]:
        """The files, in the order of the paths, those of one glob sorted by name.

        Raises:
            InputError: a path or glob that matches no file.
        """
        files: list[str] = []
        for path in self.paths:
            matches = [path] if pathlib.Path(path).is_file() else sorted(glob.glob(path))
            matches = [match for match in matches if pathlib.Path(match).is_file()]
            if not matches:
                raise InputError(f"--input must name existing files. Received: {path!r}, which matches none")
            files += matches
        return [pathlib.Path(file) for file in dict.fromkeys(files)]

    def description(self) -> dict[str, object]:
        """What was read, for the manifest: the columns, and each file's name, size and hash."""
        inputs = [{"name": f.name, "bytes": f.stat().st_size, "sha256": file_sha256(f)} for f in self.files()]
        columns = {key: value for key, value in dataclasses.asdict(self).items() if key != "paths"}
        return columns | {"inputs": inputs}


def load_events(
    connection: duckdb.DuckDBPyConnection, source: LogSource | pa.Table, min_rating: float | None
) -> dict[str, int]:
    """Fills the table `events` from a log, dropping events rated lower than `min_rating`.

    Args:
        connection: where the table is made.
        source: files, or an Arrow table of user_id, item_id, time and, for `min_rating`, rating.
        min_rating: None keeps all events and reads no rating.

    Returns:
        `rows_read` and `low_rated_rows_dropped`.

    Raises:
        InputError: a missing column, a row that cannot be read (file, place and reason), or no event at all.
    """
    connection.execute("CREATE TABLE events (user_id VARCHAR, item_id VARCHAR, time DECIMAL(38, 9), row BIGINT)")
    if isinstance(source, pa.Table):
        rated = min_rating is not None
        if rated and "rating" not in source.column_names:
            raise InputError("--min_rating needs a rating. Received: a dataset without one")
        kept = f"WHERE rating >= {min_rating!r}" if rated else ""
        connection.register("arrow_source", source)
        connection.execute(
            f"""INSERT INTO events SELECT user_id, item_id, time, row FROM
            (SELECT *, row_number() OVER () AS row FROM arrow_source) {kept}"""
        )
        connection.unregister("arrow_source")
        return _read_counts(connection, source.num_rows)
    rows_read = 0
    for file in source.files():
        rows_read += _load_file(connection, source, file, min_rating, first_row=rows_read)
    if rows_read == 0:
        raise InputError(f"A log must hold at least one interaction. Received: {', '.join(source.paths)}, with none")
    return _read_counts(connection, rows_read)


def _read_counts(connection: duckdb.DuckDBPyConnection, rows_read: int) -> dict[str, int]:
    (events,) = connection.execute("SELECT count(*) FROM events").fetchone() or (0,)
    return {"rows_read": rows_read, "low_rated_rows_dropped": rows_read - events}


def _load_file(
    connection: duckdb.DuckDBPyConnection,
    source: LogSource,
    file: pathlib.Path,
    min_rating: float | None,
    first_row: int,
) -> int:
    """Appends one file's events; rows are read as text first, so that what is wrong with one can be said."""
    table = _reader(source, file, rated=min_rating is not None)
    by_position = table.timestamp == ""
    time = (
        f"(place + {first_row})::DECIMAL(38, 9)"
        if by_position
        else (
            "coalesce(TRY_CAST(time_text AS DECIMAL(38, 9)),"
            " epoch_us(TRY_CAST(time_text AS TIMESTAMP))::DECIMAL(38, 9) / 1000000)"
        )
    )
    try:
        connection.execute("DROP TABLE IF EXISTS raw")
        connection.execute(
            f"""CREATE TEMP TABLE raw AS
            SELECT place, user_id, item_id, time_text, {time} AS time, TRY_CAST(rating_text AS DOUBLE) AS rating
            FROM (SELECT row_number() OVER () AS place, {table.user} AS user_id, {table.item} AS item_id,
                  {table.timestamp or "NULL"} AS time_text, {table.rating or "NULL"} AS rating_text,
                  {table.blank} AS blank
                  FROM {table.relation})
            WHERE NOT blank"""
        )
        _check_rejected(connection, file, table)
        _check_rows(connection, file, table, rated=min_rating is not None)
    except duckdb.Error as error:
        raise InputError(
            f"{file} must be readable as {table.format}. "
            f"Received: {_first_lines(error)}. Fix the file, or name its --format"
        ) from None
    kept = "" if min_rating is None else f"WHERE rating >= {min_rating!r}"
    connection.execute(f"INSERT INTO events SELECT user_id, item_id, time, place + {first_row} FROM raw {kept}")
    (rows,) = connection.execute("SELECT count(*) FROM raw").fetchone() or (0,)
    connection.execute("DROP TABLE raw")
    return int(rows)


@dataclasses.dataclass(frozen=True)
class _Reader:
    """How DuckDB reads one file: a relation, and the SQL of each field over it, as text ("" where it has none)."""

    format: str
    relation: str
    user: str
    item: str
    timestamp: str
    rating: str
    line_of_place: int = 0  # line of the file = place + this; -1 where rows are not lines
    blank: str = "false"
    row_rule: str = "a user and an item"


def _reader(source: LogSource, file: pathlib.Path, rated: bool) -> _Reader:
    format_ = _format_of(source, file)
    path = _quoted(str(file))
    if format_ == "user_item":
        if rated:
            raise InputError(f"--min_rating needs a rating. Received: {file}, format user_item, which has none")
        fields = r"regexp_extract(line, '^\s*(\S+)\s+(\S+)\s*$', ['user', 'item'])"
        return _Reader(
            format_,
            _lines(file),
            f"{fields}.user",
            f"{fields}.item",
            "",
            "",
            blank="line IS NULL OR trim(line) = ''",
            row_rule="`user item`",
        )
    if format_ == "movielens":
        parts = r"string_split(replace(line, '::', chr(9)), chr(9))"
        whole = f"CASE WHEN len({parts}) = 4 THEN {parts} END"
        return _Reader(
            format_,
            _lines(file),
            f"({whole})[1]",
            f"({whole})[2]",
            f"({whole})[4]",
            f"({whole})[3]",
            blank="line IS NULL OR trim(line) = ''",
            row_rule="`user::item::rating::timestamp`, or the four with tabs between",
        )
    columns = {"user": source.user_column, "item": source.item_column, "timestamp": source.timestamp_column}
    columns["rating"] = source.rating_column if rated else ""
    if rated and not source.rating_column:
        raise InputError("--min_rating needs a rating. Received: no --rating_column. Fix: name it")
    if format_ in ("csv", "tsv"):
        return _delimited_reader(format_, file, columns)
    if format_ == "jsonl":
        declared = ", ".join(f"{_quoted(name)}: 'VARCHAR'" for name in dict.fromkeys(columns.values()) if name)
        relation = (
            f"read_json({path}, format='newline_delimited', columns={{{declared}}}, "
            f"compression='{_compression(file)}', maximum_object_size={_MAX_LINE_BYTES})"
        )
        names = _named(columns)
    else:
        relation = f"read_parquet({path})"
        names = _named(columns)
        try:
            known = [row[0] for row in duckdb.sql(f"DESCRIBE SELECT * FROM {relation}").fetchall()]
        except duckdb.Error as error:
            raise InputError(f"{file} must be readable as parquet. Received: {_first_lines(error)}") from None
        _check_columns(file, columns, known)
    casts = {field: sql and f"CAST({sql} AS VARCHAR)" for field, sql in names.items()}
    return _Reader(format_, relation, line_of_place=-1 if format_ == "parquet" else 0, **casts)


def _delimited_reader(format_: str, file: pathlib.Path, columns: dict[str, str]) -> _Reader:
    delimiter = "," if format_ == "csv" else "\t"
    named = [name for name in columns.values() if name]
    by_place = all(name.isdigit() for name in named)
    with _opened(file) as stream:
        try:
            first = next(csv.reader(stream, delimiter=delimiter), [])
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{file}, line 1 must be {format_} in UTF-8. Received: {error}") from None
    if not first:
        raise InputError(f"A log must hold at least one interaction. Received: {file}, which is empty")
    header = [str(place) for place in range(len(first))] if by_place else first
    _check_columns(file, columns, header)
    if len(set(header)) < len(header):
        raise InputError(f"Column names must differ. Received: {file}, line 1: {', '.join(header)}")
    declared = ", ".join(f"{_quoted(name)}: 'VARCHAR'" for name in header)
    relation = (
        f"read_csv({_quoted(str(file))}, columns={{{declared}}}, delim={_quoted(delimiter)}, quote='\"', escape='\"', "
        f"header={not by_place}, auto_detect=false, store_rejects=true, compression='{_compression(file)}', "
        f"max_line_size={_MAX_LINE_BYTES})"
    )
    return _Reader(format_, relation, **_named(columns), line_of_place=0 if by_place else 1)


def _format_of(source: LogSource, file: pathlib.Path) -> str:
    if source.format != "auto":
        return source.format
    suffixes = [suffix for suffix in file.suffixes if suffix != ".gz"]
    if not suffixes or suffixes[-1] not in _SUFFIXES:
        raise InputError(
            f"--format=auto goes by the file's name. Received: {file}, which ends in none of "
            f"{', '.join(_SUFFIXES)}. Fix: name it, one of {', '.join(FORMATS[1:])}"
        )
    return _SUFFIXES[suffixes[-1]]


def _lines(file: pathlib.Path) -> str:
    """Whole lines as one column: no byte that can stand in a text file separates or quotes."""
    return (
        f"read_csv({_quoted(str(file))}, columns={{'line': 'VARCHAR'}}, delim='\x01', quote='', escape='', "
        f"header=false, auto_detect=false, strict_mode=false, compression='{_compression(file)}', "
        f"max_line_size={_MAX_LINE_BYTES})"
    )


def _check_columns(file: pathlib.Path, columns: dict[str, str], known: list[str]) -> None:
    for field, name in columns.items():
        if name and name not in known:
            unset = " (or --timestamp_column= where rows are in time order)" if field == "timestamp" else ""
            raise InputError(
                f"{file} must have the column {name!r}. Received: {', '.join(known)}. "
                f"Fix: name it with --{field}_column{unset}"
            )


def _check_rejected(connection: duckdb.DuckDBPyConnection, file: pathlib.Path, table: _Reader) -> None:
    """Rows that the CSV reader set aside."""
    if table.format not in ("csv", "tsv"):
        return
    rejected = connection.execute("SELECT DISTINCT line, error_message FROM reject_errors ORDER BY line").fetchall()
    connection.execute("DROP TABLE IF EXISTS reject_errors")
    connection.execute("DROP TABLE IF EXISTS reject_scans")
    if rejected:
        rows = [f"line {line}: {str(message).splitlines()[0]}" for line, message in rejected[:_REPORTED_ROWS]]
        raise _unreadable(file, rows, len(rejected))


def _check_rows(connection: duckdb.DuckDBPyConnection, file: pathlib.Path, table: _Reader, rated: bool) -> None:
    """Rows that were read but lack a field."""
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
        kind, shift = ("row", 0) if table.line_of_place < 0 else ("line", table.line_of_place)
        rows = [
            f"{kind} {place + shift} {words} (user {user!r}, item {item!r}"
            + (f", timestamp {time!r})" if table.timestamp else ")")
            for place, user, item, time, words in found
        ]
        raise _unreadable(file, rows, count)


def _unreadable(file: pathlib.Path, rows: list[str], count: int) -> InputError:
    more = f"; and {count - len(rows)} more" if count > len(rows) else ""
    return InputError(
        f"Every row must be an interaction. Received: {file}, {'; '.join(rows)}{more}. Fix: mend or remove these rows"
    )


def _named(columns: dict[str, str]) -> dict[str, str]:
    return {field: name and '"' + name.replace('"', '""') + '"' for field, name in columns.items()}


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _compression(file: pathlib.Path) -> str:
    with file.open("rb") as stream:
        return "gzip" if stream.read(2) == b"\x1f\x8b" else "none"


def _opened(file: pathlib.Path) -> io.TextIOBase:
    if _compression(file) == "gzip":
        return gzip.open(file, "rt", encoding="utf-8-sig", newline="")
    return file.open("r", encoding="utf-8-sig", newline="")


def _first_lines(error: Exception) -> str:
    return " ".join(str(error).split("\n\n")[0].split())[:400]
