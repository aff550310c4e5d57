"""Turns interaction logs into TFRecords with masked instances, fixed negatives and a manifest.

python pipelines/make_tfrecords.py --input=ml-1m.txt --config=configs/ml-1m.json --output_dir=data/ml-1m
"""

import contextlib
import json
import os
import pathlib
import signal
import sys
import time

if __name__ in ("__main__", "__mp_main__"):  # as a script, and in its worker processes
    # Python puts this script's folder on the path. The packages are in the folder above.
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

if __name__ == "__main__":  # before `main` there is nothing to clean up
    signal.signal(signal.SIGINT, lambda *_: os._exit(os.write(2, b"error: stopped by SIGINT\n") and 130))

from absl import app, flags

from bert4rec_tf.api.recipes import config_file
from bert4rec_tf.command_line import command
from bert4rec_tf.config import Config, read_settings
from pipelines.build import DROPPED, BuildResult, Source, build_records
from pipelines.engines.base import Engine
from pipelines.engines.duckdb_engine import DuckDBEngine
from pipelines.progress import Progress
from pipelines.sources import timestamps
from pipelines.sources.item_features import FeatureTable, parse_kinds, read_feature_table
from pipelines.sources.log_source import FORMATS, HEADERS, QUOTES, LogSource
from pipelines.sources.synthetic import MarkovLog
from pipelines.sources.tfds_log import TfdsLog
from pipelines.sources.titles import read_titles
from tfrecords.errors import InputError, check_local
from tfrecords.interruption import stopped_at_once
from tfrecords.manifest import BAD_ROWS_FILE

_INPUT = flags.DEFINE_multi_string(
    "input", [], "log file to read, or a glob; plain text, gzip, bz2, xz, zstd or Parquet"
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
_TITLES = flags.DEFINE_string(
    "item_titles", None, "text file with a header and the columns item_id and title; the vocabulary stores the titles"
)
_FEATURES = flags.DEFINE_string(
    "item_features",
    None,
    "table with the column item_id and one column a feature: Parquet, CSV, TSV or JSONL; in CSV and TSV, | separates "
    "several categories",
)
_FEATURE_KINDS = flags.DEFINE_multi_string(
    "item_feature_kinds",
    [],
    "kinds of columns of --item_features, NAME:KIND, where the values alone would give another one; categorical, "
    "numeric or vector; separate several by commas",
)
_CONFIG = flags.DEFINE_string(
    "config",
    None,
    "JSON file of settings, or the name of a recipe, such as bert4rec-dense; other settings keep their defaults",
)
_SET = flags.DEFINE_multi_string("set", [], "one setting, section.field=value, such as data.seed=2; overrides --config")
_DATA_FLAGS = [
    flags.DEFINE_float(
        "max_bad_fraction", None, "share of rows that may be unreadable and are skipped; sets data.max_bad_fraction"
    ),
    flags.DEFINE_float("min_rating", None, "drop events that are rated lower; sets data.min_rating"),
    flags.DEFINE_integer("min_user_events", None, "drop users with fewer events; sets data.min_user_events"),
    flags.DEFINE_integer("min_item_events", None, "drop items with fewer events; sets data.min_item_events"),
    flags.DEFINE_enum(
        "split",
        None,
        ["leave_one_out", "temporal"],
        "leave_one_out: test on each user's last item; temporal: test on events from --split_time on; sets data.split",
    ),
    flags.DEFINE_integer("num_shards", None, "number of TFRecord files per split; sets data.num_shards"),
    flags.DEFINE_integer("seed", None, "seed of all random draws; sets data.seed"),
]
_TIME_FLAGS = [
    flags.DEFINE_string(
        "split_time",
        None,
        "with --split=temporal: train on events before this time; an ISO 8601 time (UTC), or seconds since 1970 even "
        "if the log has another unit; sets data.split_time",
    ),
    flags.DEFINE_string(
        "train_since",
        None,
        "train only on windows that have an event at or after this time; an ISO 8601 time (UTC), or seconds since 1970 "
        "even if the log has another unit; sets data.train_since",
    ),
]
_OUTPUT = flags.DEFINE_string("output_dir", None, "data directory to write", required=True)
_ENGINE = flags.DEFINE_enum(
    "engine",
    "duckdb",
    ["duckdb", "spark"],
    "engine that reads, sorts and counts; duckdb: this machine; spark: one or many machines, see docs/spark.md",
)
_WORKERS = flags.DEFINE_integer(
    "num_workers",
    os.cpu_count() or 1,
    "number of processes that mask and write; with --engine=spark on this machine, its threads",
    lower_bound=1,
)
_MEMORY = flags.DEFINE_string(
    "memory_limit", None, "memory of the DuckDB engine, such as 4GB; beyond it, data goes to disk beside --output_dir"
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "build again and replace the records that --output_dir holds")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "print the counts of the records, but do not write them")
_BAD_ROWS_SHOWN = 3


@command
def main() -> None:
    """Builds the records. A failed or stopped run leaves no files."""
    with stopped_at_once("while it built the records; run the same command again"):
        _build()


def _build() -> None:
    """Turns the flags into a configuration, a source and an engine, and calls `build_records`."""
    for flag in (_INPUT, _TITLES, _FEATURES, _CONFIG, _OUTPUT):
        check_local(flag.name, flag.value)
    given = {flag.name: flag.value for flag in _DATA_FLAGS if flag.value is not None}
    given |= {flag.name: _time(flag.name, flag.value) for flag in _TIME_FLAGS if flag.value is not None}
    own_flags = [f"data.{name}={json.dumps(value)}" for name, value in given.items()]
    if not _OUTPUT.value:
        raise InputError("--output_dir must name a directory. Received: ''")
    config = Config.from_dict(
        read_settings(config_file(_CONFIG.value), [*_SET.value, *own_flags]), "--config and flags"
    )
    started = time.monotonic()
    source = _source(config)
    built = build_records(
        source,
        read_titles(_TITLES.value),
        config,
        _OUTPUT.value,
        _make_engine,
        overwrite=_OVERWRITE.value,
        dry_run=_DRY_RUN.value,
        progress=Progress(),
        item_features=_item_features(),
    )
    if isinstance(source, LogSource):
        for remark in source.remarks():
            print(remark)
    if built.written or _DRY_RUN.value:
        _report(built, time.monotonic() - started)
    else:
        print(f"{_OUTPUT.value} is complete: same input, same configuration. Nothing to do.")


def _item_features() -> FeatureTable | None:
    if _FEATURES.value:
        return read_feature_table(_FEATURES.value, parse_kinds(_FEATURE_KINDS.value))
    if _FEATURE_KINDS.value:
        raise InputError(
            f"--item_feature_kinds needs --item_features. Received: {_FEATURE_KINDS.value[0]}, and no --item_features"
        )
    return None


def _make_engine(spill_dir: pathlib.Path) -> contextlib.AbstractContextManager[Engine]:
    if _ENGINE.value == "spark":
        from pipelines.engines.spark_engine import SparkEngine  # pyspark is an optional package

        return SparkEngine(spill_dir, _WORKERS.value, _MEMORY.value)
    return DuckDBEngine(spill_dir, _WORKERS.value, _MEMORY.value)


def _time(name: str, text: str) -> float:
    with contextlib.suppress(ValueError):
        return float(text)
    time_ = timestamps.seconds(text, "s")
    if time_ is None:
        raise InputError(f"--{name} must be an ISO 8601 time or seconds since 1970. Received: {text!r}")
    return float(time_)


def _source(config: Config) -> Source:
    if bool(_INPUT.value) == bool(_DATASET.value):
        raise InputError(
            f"Give either --input or --dataset. Received: --input={_INPUT.value}, --dataset={_DATASET.value}"
        )
    if not _DATASET.value:
        return LogSource(
            _INPUT.value,
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
    for flag in (_EXPLODE, _PARTITION, _QUOTE, _DELIMITER, _HEADER, _NULL_VALUES):
        if flag.present:
            raise InputError(f"--{flag.name} needs --input. Received: --dataset={_DATASET.value}")
    kind, _, rest = _DATASET.value.partition(":")
    if kind == "synthetic":
        return MarkovLog.from_text(rest, seed=config.data.seed)
    if kind == "tfds" and rest:
        columns = {flag.name: flag.value for flag in (_USER, _ITEM, _TIMESTAMP, _RATING) if flag.present}
        return TfdsLog(rest, **columns, timestamp_unit=_UNIT.value)
    raise InputError(f"--dataset must be synthetic or tfds:NAME. Received: {_DATASET.value!r}")


def _split(values: list[str]) -> tuple[str, ...]:
    """The distinct values of a flag that may be repeated and may hold several values separated by commas."""
    return tuple(dict.fromkeys(part for value in values for part in value.split(",") if part))


def _report(built: BuildResult, seconds: float) -> None:
    manifest, counts = built.manifest, built.manifest.counts
    for name in ("rows_read", *DROPPED, "events"):
        print(f"{counts[name]:>13,} {name.replace('_', ' ')}")
        if name == "bad_rows_set_aside":
            for row in built.bad_rows[:_BAD_ROWS_SHOWN]:
                print(f"{'':>13} {row}")
            if built.written and built.bad_rows:
                print(f"{'':>13} all of them: {pathlib.Path(_OUTPUT.value) / BAD_ROWS_FILE}")
    print(f"{counts['users']:>13,} users, the longest history {counts['longest_history']:,} events")
    print(f"{counts['items']:>13,} items")
    if features := manifest.source.get("item_features"):
        kinds = ", ".join(f"{name} ({kind})" for name, kind in features["kinds"].items())
        print(f"{counts['items_with_features']:>13,} of them with features: {kinds}")
        if outside := counts["feature_rows_in_no_event"]:
            print(
                f"{outside:>13,} items of {features['file']} in no event, such as {', '.join(built.items_in_no_event)}"
            )
    if built.times:
        first, last = built.times
        unit = f", numbers read in {built.unit}" if built.unit not in ("s", "none") else ""
        print(f"{'':>13} first event at {first}, last event at {last}{unit}")
    if "old_windows_left_out" in counts:
        since = timestamps.format_time(manifest.config.data.train_since or 0.0, built.unit)
        print(f"{counts['old_windows_left_out']:>13,} old windows left out: no event at or after {since}")
    print(f"{built.instances:>13,} training instances")
    unseen = f", {counts['unseen_users']:,} of them unseen in training" if counts["unseen_users"] else ""
    print(f"{counts['evaluated_users']:>13,} users to test{unseen}; {counts['validated_users']:,} to validate")
    few = [counts.get(f"{users}_users_with_few_negatives", 0) for users in ("evaluated", "validated")]
    if any(few):
        wanted = manifest.config.data.num_negatives
        print(f"{few[0]:>13,} of them have fewer than {wanted} negatives, {few[1]:,} of those to validate")
    if not built.written:
        print(f"--dry_run: nothing was written. Counted in {seconds:.1f} s")
        return
    shards = [shard for shards in manifest.splits.values() for shard in shards]
    train = sum(shard.bytes for shard in manifest.splits["train"])
    print(f"{sum(shard.bytes for shard in shards):>13,} bytes in {len(shards)} shards")
    print(f"{train / built.instances:>13.1f} bytes an instance")
    longest = manifest.config.data.max_seq_length
    items = sum(row.length * row.instances for row in manifest.length_histogram)
    print(f"{1 - items / (built.instances * longest):>13.0%} of {longest} slots an instance are empty, and not stored")
    print(f"wrote {_OUTPUT.value} in {seconds:.1f} s")


if __name__ == "__main__":
    app.run(main)
