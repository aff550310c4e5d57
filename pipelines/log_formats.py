"""Log files of every supported format: which files, in which format, with which columns."""

import csv
import dataclasses
import functools
import glob
import os
import pathlib
from collections.abc import Sequence

import duckdb

from bert4rec_tf.errors import InputError
from pipelines.log_files import LogFile, opened

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
DELIMITERS = {"csv": ",", "tsv": "\t"}
MAX_LINE_BYTES = 1 << 21  # the engine holds 16 such lines at a time, within its memory limit


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

    @functools.cached_property
    def files(self) -> list[LogFile]:
        """The files, in the order of the paths, those of one glob sorted by name.

        Raises:
            InputError: a path or glob that matches no file, a file that is not whole or whose name says no format.
        """
        found: list[str] = []
        for path in self.paths:
            matches = [path] if pathlib.Path(path).is_file() else sorted(glob.glob(path, recursive=True))
            matches = [match for match in matches if pathlib.Path(match).is_file()]
            if not matches:
                raise InputError(f"--input must name existing files. Received: {path!r}, which matches none")
            found += matches
        # A file counts once, however it is spelt: read twice, each history would hold its own test target.
        once: dict[str, str] = {}
        for path in found:
            once.setdefault(os.path.realpath(path), path)
        paths = [pathlib.Path(os.path.abspath(path)) for path in once.values()]  # noqa: PTH100, symlinks stay
        shared = os.path.commonpath([path.parent for path in paths])
        return [self._scanned(path, path.relative_to(shared).as_posix()) for path in paths]

    def _scanned(self, path: pathlib.Path, name: str) -> LogFile:
        format_ = _format_of(self, path)
        if format_ == "parquet":
            return LogFile.scan_parquet(path, name)
        return LogFile.scan(path, name, DELIMITERS.get(format_))

    def description(self) -> dict[str, object]:
        """What was read, for the manifest: the columns, and each file's name, size and hash."""
        inputs = [{"name": file.name, "bytes": file.bytes, "sha256": file.sha256} for file in self.files]
        columns = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "paths"}
        return columns | {"inputs": inputs}


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one file is laid out.

    Attributes:
        file: which.
        format: of the file, "auto" resolved.
        columns: for each field that is read ("user", "item", "timestamp", "rating"), its name in the file.
        header: all column names of a CSV or TSV file, in order; places where it has no header.
        has_header: whether its first line holds them.
    """

    file: LogFile
    format: str
    columns: dict[str, str]
    header: tuple[str, ...] = ()
    has_header: bool = False

    @property
    def timed(self) -> bool:
        """Whether rows have a time; otherwise they are in time order."""
        return "timestamp" in self.columns

    @property
    def rated(self) -> bool:
        """Whether ratings are read."""
        return "rating" in self.columns


def lay_out(source: LogSource, file: LogFile, rated: bool) -> Layout:
    """How to read one of the files of `source`, its ratings too if `rated`.

    Raises:
        InputError: the format is unknown, or a column is missing.
    """
    format_ = _format_of(source, file.path)
    if format_ == "user_item":
        if rated:
            raise InputError(f"--min_rating needs a rating. Received: {file.path}, format user_item, which has none")
        return Layout(file, format_, {"user": "0", "item": "1"})
    if format_ == "movielens":
        places = {"user": "0", "item": "1", "timestamp": "3"}
        return Layout(file, format_, places | ({"rating": "2"} if rated else {}))
    columns = {"user": source.user_column, "item": source.item_column}
    if source.timestamp_column:
        columns["timestamp"] = source.timestamp_column
    if rated:
        if not source.rating_column:
            raise InputError("--min_rating needs a rating. Received: no --rating_column. Fix: name it")
        columns["rating"] = source.rating_column
    if format_ == "jsonl":
        return Layout(file, format_, columns)
    if format_ == "parquet":
        _check_columns(file.path, columns, _parquet_columns(file.path))
        return Layout(file, format_, columns)
    return _lay_out_delimited(file, format_, columns)


def _lay_out_delimited(file: LogFile, format_: str, columns: dict[str, str]) -> Layout:
    by_place = all(name.isdecimal() for name in columns.values())
    with opened(file.path, file.compressed) as stream:
        line = stream.readline(MAX_LINE_BYTES).removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    try:
        first = next(csv.reader([line], delimiter=DELIMITERS[format_]), [])
    except csv.Error as error:
        raise InputError(f"{file.path}, line 1 must be {format_} in UTF-8. Received: {error}") from None
    if not first:
        raise InputError(
            f"A log must hold at least one interaction. Received: {file.path}, whose first line is empty"
            if file.bytes
            else f"A log must hold at least one interaction. Received: {file.path}, which is empty"
        )
    header = [str(place) for place in range(len(first))] if by_place else first
    _check_columns(file.path, columns, header)
    if len(set(header)) < len(header):
        raise InputError(f"Column names must differ. Received: {file.path}, line 1: {', '.join(header)}")
    return Layout(file, format_, columns, tuple(header), has_header=not by_place)


def _parquet_columns(path: pathlib.Path) -> list[str]:
    try:
        return [row[0] for row in duckdb.sql(f"DESCRIBE SELECT * FROM read_parquet({quoted_path(path)})").fetchall()]
    except duckdb.Error as error:
        raise InputError(f"{path} must be readable as parquet. Received: {first_lines(error)}") from None


def _format_of(source: LogSource, path: pathlib.Path) -> str:
    if source.format != "auto":
        return source.format
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    if not suffixes or suffixes[-1] not in _SUFFIXES:
        raise InputError(
            f"--format=auto goes by the file's name. Received: {path}, which ends in none of "
            f"{', '.join(_SUFFIXES)}. Fix: name it, one of {', '.join(FORMATS[1:])}"
        )
    return _SUFFIXES[suffixes[-1]]


def _check_columns(path: pathlib.Path, columns: dict[str, str], known: list[str]) -> None:
    for field, name in columns.items():
        if name not in known:
            unset = " (or --timestamp_column= where rows are in time order)" if field == "timestamp" else ""
            raise InputError(
                f"{path} must have the column {name!r}. Received: {', '.join(known)}. "
                f"Fix: name it with --{field}_column{unset}"
            )


def quoted(text: str) -> str:
    """A string of SQL."""
    return "'" + text.replace("'", "''") + "'"


def quoted_path(path: pathlib.Path) -> str:
    """Quoted for the engine, which takes globs: a file is read by its very name."""
    return quoted(glob.escape(str(path)))


def first_lines(error: Exception) -> str:
    """The engine's message without its advice to programmers."""
    return " ".join(str(error).split("\n\n")[0].split())[:400]
