"""Log files of every supported format, as relations that DuckDB reads: all fields as text, one row an interaction."""

import csv
import dataclasses
import glob
import gzip
import pathlib
from collections.abc import Sequence
from typing import TextIO, cast

import duckdb

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
_MAX_LINE_BYTES = 1 << 21  # the engine holds 16 such lines at a time, within its memory limit


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


@dataclasses.dataclass(frozen=True)
class FileReader:
    """How DuckDB reads one file.

    Attributes:
        format: of the file.
        relation: SQL of the file as a table of text.
        user, item, timestamp, rating: SQL of each field over the relation; "" where the file has none.
        lines: False where rows are not lines of text.
        header: whether the first line names the columns.
        blank: SQL, true for a row that holds nothing.
        row_rule: what a row must be, for messages.
    """

    format: str
    relation: str
    user: str
    item: str
    timestamp: str
    rating: str
    lines: bool = True
    header: bool = False
    blank: str = "false"
    row_rule: str = "a user and an item"


def file_reader(source: LogSource, file: pathlib.Path, rated: bool) -> FileReader:
    """How to read one of the files of `source`, its rating too if `rated`.

    Raises:
        InputError: the format is unknown, or a column is missing.
    """
    format_ = _format_of(source, file)
    path = _path(file)
    if format_ == "user_item":
        if rated:
            raise InputError(f"--min_rating needs a rating. Received: {file}, format user_item, which has none")
        fields = r"regexp_extract(line, '^\s*(\S+)\s+(\S+)\s*$', ['user', 'item'])"
        return FileReader(
            format_,
            _lines(file),
            f"nullif({fields}.user, '')",
            f"nullif({fields}.item, '')",
            "",
            "",
            blank="line IS NULL OR trim(line) = ''",
            row_rule="`user item`",
        )
    if format_ == "movielens":
        parts = r"string_split(replace(line, '::', chr(9)), chr(9))"
        whole = f"CASE WHEN len({parts}) = 4 THEN {parts} END"
        return FileReader(
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
            f"compression='{compression(file)}', maximum_object_size={_MAX_LINE_BYTES})"
        )
        names = _named(columns)
    else:
        relation = f"read_parquet({path})"
        names = _named(columns)
        try:
            known = [row[0] for row in duckdb.sql(f"DESCRIBE SELECT * FROM {relation}").fetchall()]
        except duckdb.Error as error:
            raise InputError(f"{file} must be readable as parquet. Received: {first_lines(error)}") from None
        _check_columns(file, columns, known)
    user, item, timestamp, rating = (sql and f"CAST({sql} AS VARCHAR)" for sql in names)
    return FileReader(format_, relation, user, item, timestamp, rating, lines=format_ != "parquet")


def _delimited_reader(format_: str, file: pathlib.Path, columns: dict[str, str]) -> FileReader:
    delimiter = "," if format_ == "csv" else "\t"
    named = [name for name in columns.values() if name]
    by_place = all(name.isdigit() for name in named)
    with opened(file) as stream:
        try:
            first = next(csv.reader(stream, delimiter=delimiter), [])
        except csv.Error as error:
            raise InputError(f"{file}, line 1 must be {format_} in UTF-8. Received: {error}") from None
    if not first:
        raise InputError(f"A log must hold at least one interaction. Received: {file}, which is empty")
    header = [str(place) for place in range(len(first))] if by_place else first
    _check_columns(file, columns, header)
    if len(set(header)) < len(header):
        raise InputError(f"Column names must differ. Received: {file}, line 1: {', '.join(header)}")
    declared = ", ".join(f"{_quoted(name)}: 'VARCHAR'" for name in header)
    relation = (
        f"read_csv({_path(file)}, columns={{{declared}}}, delim={_quoted(delimiter)}, quote='\"', escape='\"', "
        f"header={not by_place}, auto_detect=false, store_rejects=true, compression='{compression(file)}', "
        f"max_line_size={_MAX_LINE_BYTES})"
    )
    user, item, timestamp, rating = _named(columns)
    return FileReader(format_, relation, user, item, timestamp, rating, header=not by_place)


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
        f"read_csv({_path(file)}, columns={{'line': 'VARCHAR'}}, delim='\x01', quote='', escape='', "
        f"header=false, auto_detect=false, strict_mode=false, compression='{compression(file)}', "
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


def _named(columns: dict[str, str]) -> list[str]:
    return [name and '"' + name.replace('"', '""') + '"' for name in columns.values()]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _path(file: pathlib.Path) -> str:
    """Quoted for the engine, which takes globs: a file is read by its very name."""
    return _quoted(glob.escape(str(file)))


def compression(file: pathlib.Path) -> str:
    """By the file's first bytes: "gzip" or "uncompressed"."""
    with file.open("rb") as stream:
        return "gzip" if stream.read(2) == b"\x1f\x8b" else "uncompressed"


def opened(file: pathlib.Path) -> TextIO:
    """The file as text, whatever its bytes: for headers and line numbers, not for values."""
    if compression(file) == "gzip":
        return cast(TextIO, gzip.open(file, "rt", encoding="utf-8-sig", errors="replace", newline=""))
    return file.open("r", encoding="utf-8-sig", errors="replace", newline="")


def first_lines(error: Exception) -> str:
    """The engine's message without its advice to programmers."""
    return " ".join(str(error).split("\n\n")[0].split())[:400]
