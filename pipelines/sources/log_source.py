"""Finds log files and determines the format and the columns of each."""

import dataclasses
import functools
import glob
import itertools
import os
import pathlib
import urllib.parse
from collections.abc import Callable, Collection, Iterable, Sequence

import pyarrow as pa
from pyarrow import parquet

from pipelines.sources.delimited import Dialect, Line, read_records, split_header
from pipelines.sources.log_file import LogFile
from pipelines.sources.store_files import duckdb_address
from pipelines.sources.table_formats import refuse_table_files
from pipelines.sources.text_streams import InputPath, arrow_source, open_text
from pipelines.sources.whitespace_format import recognise
from tfrecords.errors import InputError
from tfrecords.stores import StoreError, StoreFile, check_path, find_files, is_url

FORMATS = (
    "auto", "csv", "tsv", "jsonl", "parquet", "user_item", "user_item_rating_time", "user_items", "movielens",
)  # fmt: skip
_WHITESPACE = "one with whitespace between the fields"
_SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".dat": "movielens",
    ".data": "movielens",
    ".txt": _WHITESPACE,
}
_COMPRESSED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".zstd")
DELIMITERS = {"csv": ",", "tsv": "\t"}
QUOTES = ("none", "double")
_QUOTES = {"csv": "double", "tsv": "none"}
_RFC_4180 = Dialect(",", quoted=True)
_NO_DELIMITERS = set("\"'\r\n\0") | {chr(byte) for byte in range(0xDC80, 0xDD00)}  # the latter: no UTF-8
_USUAL_DELIMITERS = ",;|\t"
_FIXED_COLUMNS = {
    "user_item": {"user": "0", "item": "1"},
    "user_items": {"user": "0", "item": "1"},
    "user_item_rating_time": {"user": "0", "item": "1", "rating": "2", "timestamp": "3"},
    "movielens": {"user": "0", "item": "1", "rating": "2", "timestamp": "3"},
}
HEADERS = ("auto", "yes", "no")
_LINES_LOOKED_AT = 20
_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
# Newer options are in a manifest only if they are set, so that older manifests still match.
_ALWAYS_DESCRIBED = ("format", "user_column", "item_column", "timestamp_column", "rating_column")
MAX_LINE_BYTES = 1 << 21  # DuckDB holds 16 such lines at a time, within its memory limit


MapFiles = Callable[[Callable[[InputPath, str], LogFile], list[InputPath], list[str]], Iterable[LogFile]]


@dataclasses.dataclass(frozen=True)
class LogSource:
    """Files of interactions, and how to read them.

    Attributes:
        paths: files and globs, on this machine or in object stores.
        format: one of `FORMATS`; "auto" infers it from the file's name, and for `.txt` from its first lines.
        user_column, item_column: names in a header or keys in JSON; if all given columns are numbers, 0-based indices
            in a CSV or TSV file without a header.
        timestamp_column: name or index as above; "" if the file has none and its rows are in time order.
        rating_column: name or index as above; "" if there is none.
        partition_columns: those of the columns above whose values are in folder names, as in `dt=2014-05-01`.
        timestamp_unit: of numeric timestamps, one of `timestamps.UNITS`; "auto" infers it from their size.
        explode: whether a row of JSONL or Parquet with a list of items is one event per item.
        quote: "double" if fields of CSV or TSV may be quoted as in RFC 4180, "none" if a quote is ordinary text; "" is
            "double" for CSV and "none" for TSV.
        delimiter: between the fields of CSV or TSV; "" is the format's default.
        null_values: fields with one of these texts are missing values.
        header: whether the first line of CSV or TSV is a header: "yes", "no", or "auto", which means yes if columns are
            given by name or the line is 0,1,2,…, the column numbers of pandas.
        query: the SQL query whose result the one file holds; "" if the files are the user's.
    """

    paths: Sequence[str]
    format: str = "auto"
    user_column: str = "user_id"
    item_column: str = "item_id"
    timestamp_column: str = "timestamp"
    rating_column: str = ""
    partition_columns: Sequence[str] = ()
    timestamp_unit: str = "auto"
    explode: bool = False
    quote: str = ""
    delimiter: str = ""
    null_values: Sequence[str] = ()
    header: str = "auto"
    query: str = ""

    def __post_init__(self) -> None:
        """Checks the delimiter.

        Raises:
            InputError: it is not a valid delimiter.
        """
        character = self.delimiter
        if len(character) > 1 or character.isalnum() or character in _NO_DELIMITERS:
            raise InputError(
                "--delimiter must be one character, no letter, digit, quote or line end; \\t is a tab. "
                f"Received: {character!r}"
            )

    def dialect(self, format_: str) -> Dialect:
        """How the fields of a CSV or TSV file are separated."""
        return Dialect(self.delimiter or DELIMITERS[format_], (self.quote or _QUOTES[format_]) == "double")

    @functools.cached_property
    def files(self) -> list[LogFile]:
        """The files, in the order of the paths, those of one glob sorted by name.

        Raises:
            InputError: a path or glob matches no file, a file is damaged, its name determines no format, or two files
                have the same content.
        """
        return self.scan(map)

    def scan(self, run: MapFiles) -> list[LogFile]:
        """Finds and scans the files. `files` keeps the result.

        Args:
            run: scans each file: `map`, or a function that does the same on other machines.

        Raises:
            InputError: as `files`.
        """
        check_path("input", self.paths)
        found: list[InputPath] = []
        for path in self.paths:
            matches = _matches(path)
            if not matches:
                raise InputError(f"--input must name existing files. Received: {path!r}, which matches none")
            found += matches
        # A file counts once, whatever paths name it: read twice, each history would contain its own test target.
        once: dict[str, InputPath] = {}
        for file in found:
            once.setdefault(str(file) if isinstance(file, StoreFile) else os.path.realpath(file), file)
        paths = list(once.values())
        for file in paths:
            refuse_table_files(file)
        files = list(run(self._scanned, paths, _names(paths)))
        self._check_contents(files)
        self.__dict__["files"] = files  # where cached_property looks
        return files

    def _scanned(self, path: InputPath, name: str) -> LogFile:
        format_ = _format_of(self, path)
        if format_ == "parquet":
            return LogFile.scan_parquet(path, name)
        return LogFile.scan(path, name, self.dialect(format_).delimiter if format_ in DELIMITERS else None)

    def remarks(self) -> list[str]:
        """Decisions about the files that the user may not expect."""
        remarks = []
        for file in self.files:
            if _format_of(self, file.path) in DELIMITERS and self.header == "auto":
                layout = lay_out(self, file, rated=False)
                if layout.has_header and _by_index(layout.columns.values()):
                    remarks.append(
                        f"{file.name}, line 1 numbers the columns from 0 and is read as a header. "
                        "If it is an event: --header=no"
                    )
        return remarks

    def _check_contents(self, files: list[LogFile]) -> None:
        """Refuses a log that holds the same events twice, as a copy or compressed."""
        columns = {self.user_column, self.item_column, self.timestamp_column} - {"", *self.partition_columns}
        first_with: dict[tuple[object, ...], LogFile] = {}
        for file in files:
            has_header = _format_of(self, file.path) in DELIMITERS and self.header != "no" and not _by_index(columns)
            if file.blank or file.lines <= has_header:  # it has no rows
                continue
            first = first_with.setdefault((file.content_sha256, *self.partition_values(file).values()), file)
            if first is not file:
                raise InputError(
                    f"--input must hold each file's content once. Received: {first.path} and {file.path}, which hold "
                    f"the same (sha256 {file.content_sha256[:12]}…, decompressed). Fix: leave one of them out"
                )

    def partition_values(self, file: LogFile) -> dict[str, str | None]:
        """For each of the partition columns, its value in the names of the folders above a file.

        Raises:
            InputError: no folder has a value, or two have different ones.
        """
        return {name: _partition_value(file.path, name) for name in self.partition_columns}

    def description(self) -> dict[str, object]:
        """The options and each file's name, size, hash and partition values, for the manifest."""
        inputs: list[dict[str, object]] = []
        for file in self.files:
            inputs.append({"name": file.name, "bytes": file.bytes, "sha256": file.sha256})
            if self.partition_columns:
                inputs[-1]["partition"] = self.partition_values(file)
        options: dict[str, object] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in _ALWAYS_DESCRIBED or (field.name != "paths" and value != field.default):
                options[field.name] = list(value) if isinstance(value, tuple) else value
        return options | {"inputs": inputs}


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one file is laid out.

    Attributes:
        file: the file.
        format: of the file; never "auto".
        columns: for each field that is read ("user", "item", "timestamp", "rating"), its name in the file.
        partition: for each field whose value is in a folder name, that value.
        partition_columns: the column names of these fields; the file must not have them.
        header: all column names of a CSV or TSV file, in order; 0-based indices if it has no header.
        has_header: whether the first line holds the names.
        explode: whether a list of items is one event per item.
        dialect: of a CSV or TSV file.
        null_values: see `LogSource`.
    """

    file: LogFile
    format: str
    columns: dict[str, str]
    partition: dict[str, str | None] = dataclasses.field(default_factory=dict)
    partition_columns: tuple[str, ...] = ()
    header: tuple[str, ...] = ()
    has_header: bool = False
    explode: bool = False
    dialect: Dialect = _RFC_4180
    null_values: tuple[str, ...] = ()

    @property
    def timed(self) -> bool:
        """Whether rows have a time; otherwise they are in time order."""
        return "timestamp" in self.columns or "timestamp" in self.partition

    @property
    def rated(self) -> bool:
        """Whether ratings are read."""
        return "rating" in self.columns or "rating" in self.partition


def lay_out(source: LogSource, file: LogFile, rated: bool) -> Layout:
    """Determines how to read one of the files of `source`; `rated` includes its ratings.

    Raises:
        InputError: the format is unknown, a column is missing, or a partition column is in the file too.
    """
    format_ = _format_of(source, file.path)
    if format_ == _WHITESPACE:
        format_ = recognise(file.path)
    if source.partition_columns and format_ in _FIXED_COLUMNS:
        raise InputError(
            f"--partition_columns needs a format with named columns. Received: {file.path}, format {format_}. "
            "Fix: name another --format"
        )
    if (source.delimiter or source.quote) and format_ not in DELIMITERS:
        raise InputError(
            f"--delimiter and --quote need a format of delimited fields. Received: {file.path}, format {format_}. "
            "Fix: --format=csv, or leave them out"
        )
    nulls = tuple(source.null_values)
    if format_ in _FIXED_COLUMNS:
        columns = dict(_FIXED_COLUMNS[format_])
        if rated and "rating" not in columns:
            raise InputError(f"--min_rating needs a rating. Received: {file.path}, format {format_}, which has none")
        if not rated:
            columns.pop("rating", None)
        return Layout(file, format_, columns, null_values=nulls)
    columns = {"user": source.user_column, "item": source.item_column}
    if source.timestamp_column:
        columns["timestamp"] = source.timestamp_column
    if rated:
        if not source.rating_column:
            raise InputError("--min_rating needs a rating. Received: no --rating_column. Fix: name it")
        columns["rating"] = source.rating_column
    values = source.partition_values(file)
    if unread := set(values) - set(columns.values()):
        raise InputError(
            f"--partition_columns must be among the columns that are read ({', '.join(columns.values())}). "
            f"Received: {', '.join(sorted(unread))}. Fix: name them, such as --timestamp_column={min(unread)}"
        )
    partition = {field: values[name] for field, name in columns.items() if name in values}
    columns = {field: name for field, name in columns.items() if name not in values}
    layout = Layout(file, format_, columns, partition, tuple(values), explode=source.explode, null_values=nulls)
    if format_ == "parquet":
        _check_parquet_columns(layout)
    elif format_ != "jsonl":
        layout = _lay_out_delimited(dataclasses.replace(layout, dialect=source.dialect(format_)), source.header)
    return layout


def _matches(path: str) -> list[InputPath]:
    """The files that a path or glob names, sorted."""
    if is_url(path):
        return [*find_files(path)]
    refuse_table_files(pathlib.Path(os.path.abspath(path)))  # noqa: PTH100, symlinks stay
    matches = [path] if pathlib.Path(path).is_file() else sorted(glob.glob(path, recursive=True))
    return [pathlib.Path(os.path.abspath(match)) for match in matches if pathlib.Path(match).is_file()]  # noqa: PTH100


def _names(paths: Sequence[InputPath]) -> list[str]:
    """The paths below the folder that all share; whole ones if some are on this machine and others in a store."""
    if len({path.parts[:2] if isinstance(path, StoreFile) else path.parts[:1] for path in paths}) > 1:
        return [str(path) for path in paths]
    columns = zip(*(path.parts[:-1] for path in paths), strict=False)
    shared = sum(1 for _ in itertools.takewhile(lambda names: len(set(names)) == 1, columns))
    return ["/".join(path.parts[shared:]) for path in paths]


def _partition_value(path: InputPath, name: str) -> str | None:
    """The value of a partition column in the names of the folders above a file, as Hive writes them."""
    found = set()
    for folder in path.parts[:-1]:
        key, separator, value = folder.partition("=")
        if separator and urllib.parse.unquote(key) == name:
            found.add(urllib.parse.unquote(value))
    if len(found) != 1:
        received = f"{len(found)} values: {', '.join(sorted(found))}" if found else "no such folder"
        raise InputError(
            f"--partition_columns={name} needs one folder {name}=VALUE above each file. Received: {path}, "
            f"with {received}. Fix: leave the file out, or the flag"
        )
    (value,) = found
    return None if value == _NULL_PARTITION else value


def _lay_out_delimited(layout: Layout, header_option: str) -> Layout:
    file, format_, columns = layout.file, layout.format, layout.columns
    by_index = _by_index(columns.values())
    with open_text(file.path) as stream:
        lines = [stream.readline(MAX_LINE_BYTES).decode("utf-8", "replace") for _ in range(_LINES_LOOKED_AT)]
    line = lines[0] = lines[0].removeprefix("\ufeff")
    if "\0" in line:
        raise InputError(
            f"A log must be text in UTF-8, or in UTF-16 or UTF-32 with a byte order mark. Received: {file.path}, "
            "with NUL bytes in line 1. Fix: convert it to UTF-8"
        )
    try:
        first = split_header(line, layout.dialect)
    except ValueError as error:
        raise InputError(f"{file.path}, line 1 must be {format_} in UTF-8. Received: {error}") from None
    if not first:
        raise InputError(
            f"A log must hold at least one interaction. Received: {file.path}, whose first line is empty"
            if file.bytes
            else f"A log must hold at least one interaction. Received: {file.path}, which is empty"
        )
    header, has_header = first, True
    if by_index:
        header = list(map(str, range(_num_fields(lines, layout.dialect) or len(first))))
        has_header = header_option == "yes" or (header_option == "auto" and _numbers_columns(file.path, first))
    elif header_option == "no":
        raise InputError(f"--header=no needs columns by number. Received: {', '.join(columns.values())}")
    _check_columns(layout, header, _other_delimiter(line, layout))
    if len(set(header)) < len(header):
        raise InputError(f"Column names must differ. Received: {file.path}, line 1: {', '.join(header)}")
    return dataclasses.replace(layout, header=tuple(header), has_header=has_header)


def _num_fields(lines: list[str], dialect: Dialect) -> int | None:
    """The number of fields in the first well-formed row of a file without column names."""
    numbered = (Line(number, line, None) for number, line in enumerate(lines, 1))
    return next((len(record.fields) for record in read_records(numbered, dialect) if not record.fault), None)


def _numbers_columns(path: InputPath, first: list[str]) -> bool:
    """Whether a first line numbers the columns from 0, as pandas does, with or without an index column before them.

    Raises:
        InputError: the line is `0,1`, which may also be an event.
    """
    names = first[1:] if first[0] == "" else first
    numbered = names == [str(index) for index in range(len(names))] and len(names) > 1
    if numbered and len(first) == 2:
        raise InputError(
            f"It must be clear what is a header. Received: {path}, whose first line {','.join(first)} may number the "
            "columns or be an event. Fix: --header=yes or --header=no"
        )
    return numbered


def _other_delimiter(line: str, layout: Layout) -> str | None:
    """The delimiter that a first line seems to have instead, if exactly one fits."""
    others = [character for character in _USUAL_DELIMITERS if character in line.replace(layout.dialect.delimiter, "")]
    if layout.dialect.delimiter in line:
        fitting = []
        for character in others:
            header = split_header(line, layout.dialect._replace(delimiter=character))
            names = map(str, range(len(header))) if _by_index(layout.columns.values()) else header
            if set(layout.columns.values()) <= set(names):
                fitting.append(character)
        others = fitting
    return others[0] if len(others) == 1 else None


def _by_index(columns: Collection[str]) -> bool:
    """Whether columns are given by number, so that the file has no header."""
    return bool(columns) and all(name.isdecimal() for name in columns)


def _check_parquet_columns(layout: Layout) -> None:
    path = layout.file.path
    try:
        with arrow_source(path) as file:
            known = parquet.read_schema(file).names
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from None
    _check_columns(layout, known)
    for name in layout.columns.values():
        if known.count(name) > 1:
            raise InputError(f"Column names must differ. Received: {path}, with {name!r} {known.count(name)} times")


def unreadable(path: InputPath, error: Exception) -> InputError:
    """The error for a file that is damaged or not Parquet, or whose store does not answer."""
    if isinstance(path, StoreFile) and not isinstance(error, pa.ArrowException):
        return StoreError(f"An object store must answer. Received: {first_lines(error)} ({path}). Fix: run it again")
    return InputError(
        f"{path} must be readable as parquet. Received: {first_lines(error)}. "
        "Fix: copy or write it again, or name its --format"
    )


def _format_of(source: LogSource, path: InputPath) -> str:
    if source.format != "auto":
        return source.format
    suffixes = [suffix for suffix in path.suffixes if suffix not in _COMPRESSED_SUFFIXES]
    if not suffixes or suffixes[-1] not in _SUFFIXES:
        raise InputError(
            f"--format=auto needs a known file name. Received: {path}, which ends in none of "
            f"{', '.join(_SUFFIXES)}. Fix: name it, one of {', '.join(FORMATS[1:])}"
        )
    return _SUFFIXES[suffixes[-1]]


def _check_columns(layout: Layout, known: list[str], other_delimiter: str | None = None) -> None:
    path = layout.file.path
    for name in layout.partition_columns:
        if name.casefold() in (column.casefold() for column in known):
            raise InputError(
                f"--partition_columns must not be in the files. Received: {path}, which has the column {name!r} "
                f"itself. Fix: leave {name} out of --partition_columns to read the file's own"
            )
    for field, name in layout.columns.items():
        if name not in known:
            unset = " (or --timestamp_column= where rows are in time order)" if field == "timestamp" else ""
            fix = f"name it with --{field}_column{unset}"
            if f'"{name}"' in known:
                fix = f"--quote=double, or {fix}"
            elif other_delimiter:
                spelt = "\\t" if other_delimiter == "\t" else other_delimiter
                fix = f"--delimiter='{spelt}', or {fix}"
            raise InputError(f"{path} must have the column {name!r}. Received: {_shown(known)}. Fix: {fix}")


def _shown(names: list[str]) -> str:
    text = ", ".join(names)
    printable = "".join(character if character.isprintable() else repr(character)[1:-1] for character in text[:400])
    return printable + ("…" if len(text) > 400 else "") + (" (not UTF-8)" if "\ufffd" in text else "")


def quoted(text: str) -> str:
    """A SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def quoted_path(path: InputPath) -> str:
    """A path as a SQL string literal, with the characters of globs escaped, because DuckDB expands globs.

    Files of stores have the address that `store_files` gives them.
    """
    if isinstance(path, StoreFile):
        return quoted(duckdb_address(path))
    return quoted(glob.escape(str(path)))


def first_lines(error: Exception) -> str:
    """The first lines of an engine's message, without its advice to programmers."""
    return " ".join(str(error).split("\n\n")[0].split())[:400]
