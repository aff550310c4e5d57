"""The flags that say where a log is and how it is read, for all commands that read logs."""

import atexit
import contextlib
import functools
import pathlib
import tempfile

from absl import flags

from pipelines.engines.base import Source
from pipelines.sources import timestamps
from pipelines.sources.log_source import FORMATS, HEADERS, QUOTES, LogSource
from pipelines.sources.query_log import query_log
from pipelines.sources.synthetic import MarkovLog
from pipelines.sources.tfds_log import TfdsLog
from tfrecords.errors import InputError
from tfrecords.stores import is_url

INPUT = flags.DEFINE_multi_string(
    "input",
    [],
    "log file to read, or a glob, on this machine or in an object store; plain text, gzip, bz2, xz, zstd or Parquet",
)
_QUERY = flags.DEFINE_string(
    "query", None, "SELECT statement that DuckDB runs instead of reading --input; a row is an event"
)
_DATASET = flags.DEFINE_string(
    "dataset",
    None,
    "dataset to read instead of --input: synthetic, synthetic:num_users=500,noise=0.2 or tfds:movielens/100k-ratings",
)
_FORMAT = flags.DEFINE_enum(
    "format",
    "auto",
    FORMATS,
    "format of --input; auto: inferred from each file's name, and for .txt also from its first lines",
)
_USER = flags.DEFINE_string("user_column", "user_id", "user column: name in the header, or 0-based index without one")
_ITEM = flags.DEFINE_string("item_column", "item_id", "item column: name in the header, or 0-based index without one")
_TIMESTAMP = flags.DEFINE_string(
    "timestamp_column",
    "timestamp",
    "timestamp column: name in the header, or 0-based index without one; empty: the rows are already in time order",
)
_RATING = flags.DEFINE_string(
    "rating_column",
    "",
    "rating column: name in the header, or 0-based index without one; read only if --min_rating is set",
)
_UNIT = flags.DEFINE_enum(
    "timestamp_unit",
    "auto",
    timestamps.UNITS,
    "unit of numeric timestamps; auto: inferred from their size; none: they are counters that only order the events",
)
_EXPLODE = flags.DEFINE_bool("explode", False, "read a row that has a list of items as one event per list element")
_PARTITION = flags.DEFINE_multi_string(
    "partition_columns",
    [],
    "columns whose values are in folder names, such as dt in dt=2014-05-01/log.csv; each must also be one of the "
    "user, item, timestamp and rating columns; separate several by commas",
)
_QUOTE = flags.DEFINE_enum(
    "quote",
    None,
    QUOTES,
    "quotes in csv and tsv files; double: fields may be in double quotes (default for csv); none: a quote is an "
    "ordinary character (default for tsv)",
)
_DELIMITER = flags.DEFINE_string(
    "delimiter",
    None,
    r"character between the fields of csv and tsv files, such as ; or \t; default: a comma for csv, a tab for tsv",
)
_HEADER = flags.DEFINE_enum(
    "header",
    "auto",
    HEADERS,
    "whether line 1 of csv and tsv files is a header; auto: yes if columns are given by name or line 1 is 0,1,2",
)
_NULL_VALUES = flags.DEFINE_multi_string(
    "null_values", [], "texts that mean a missing value, such as NA; separate several by commas"
)


def is_given() -> bool:
    """Whether a flag names a log."""
    return bool(INPUT.value or _QUERY.value or _DATASET.value)


def log_source(seed: int) -> Source:
    """The log that the flags name; `seed` is that of a synthetic one.

    Raises:
        InputError: none or two are named, or a flag does not fit.
    """
    if [bool(INPUT.value), bool(_QUERY.value), bool(_DATASET.value)].count(True) != 1:
        given = f"--input={INPUT.value}, --query={_QUERY.value}, --dataset={_DATASET.value}"
        raise InputError(f"Give one of --input, --query and --dataset. Received: {given}")
    if INPUT.value:
        return LogSource(
            INPUT.value,
            _FORMAT.value,
            _USER.value,
            _ITEM.value,
            _TIMESTAMP.value,
            _RATING.value,
            partition_columns=_split(_PARTITION.value),
            timestamp_unit=_UNIT.value,
            explode=_EXPLODE.value,
            quote=_QUOTE.value or "",
            delimiter=(_DELIMITER.value or "").replace("\\t", "\t"),
            null_values=_split(_NULL_VALUES.value),
            header=_HEADER.value,
        )
    of_files = (_FORMAT, _PARTITION, _QUOTE, _DELIMITER, _HEADER, _NULL_VALUES)
    for flag in of_files if _QUERY.value else (_EXPLODE, *of_files):
        if flag.present:
            source = _QUERY if _QUERY.value else _DATASET
            raise InputError(f"--{flag.name} needs --input. Received: --{source.name}={source.value}")
    if _QUERY.value:
        return query_log(
            _QUERY.value,
            _temporary_directory(),
            _USER.value,
            _ITEM.value,
            _TIMESTAMP.value,
            _RATING.value,
            timestamp_unit=_UNIT.value,
            explode=_EXPLODE.value,
        )
    kind, _, rest = str(_DATASET.value).partition(":")
    if kind == "synthetic":
        return MarkovLog.from_text(rest, seed=seed)
    if kind == "tfds" and rest:
        columns = {flag.name: flag.value for flag in (_USER, _ITEM, _TIMESTAMP, _RATING) if flag.present}
        return TfdsLog(rest, **columns, timestamp_unit=_UNIT.value)
    raise InputError(f"--dataset must be synthetic or tfds:NAME. Received: {_DATASET.value!r}")


def check_engine(engine: str, *paths: str | None) -> None:
    """Refuses object stores with an engine that cannot reach them.

    Args:
        engine: of --engine.
        *paths: of other flags; --input is looked at too.

    Raises:
        InputError: names the address.
    """
    url = next((path for path in (*INPUT.value, *paths) if is_url(path)), None)
    if engine == "spark" and url is not None:
        raise InputError(
            f"--engine=spark reads and writes mounted folders. Received: {url}. Fix: mount the bucket or file system "
            "on every machine and name the folder, or --engine=duckdb"
        )


def read_time(name: str, text: str) -> float:
    """The time that a flag gives, in seconds since 1970.

    Raises:
        InputError: neither an ISO 8601 time nor a number.
    """
    with contextlib.suppress(ValueError):
        return float(text)
    time = timestamps.seconds(text, "s")
    if time is None:
        raise InputError(f"--{name} must be an ISO 8601 time or seconds since 1970. Received: {text!r}")
    return float(time)


@functools.cache
def _temporary_directory() -> pathlib.Path:
    """A directory that is removed when the process ends."""
    directory = tempfile.TemporaryDirectory(prefix="bert4rec_tf-")
    atexit.register(directory.cleanup)
    return pathlib.Path(directory.name)


def _split(values: list[str]) -> tuple[str, ...]:
    """The distinct values of a flag that may be repeated and may hold several values separated by commas."""
    return tuple(dict.fromkeys(part for value in values for part in value.split(",") if part))
