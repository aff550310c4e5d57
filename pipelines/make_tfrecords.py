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

# Run as a script, Python puts this folder on the path; the packages stand beside it.
sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

if __name__ == "__main__":  # before `main` there is nothing to clean up
    signal.signal(signal.SIGINT, lambda *_: os._exit(os.write(2, b"error: stopped by SIGINT\n") and 130))

from absl import app, flags

from bert4rec_tf.command_line import command
from bert4rec_tf.config import (
    Config,
    read_settings,
)
from pipelines.build import DROPPED, BuildResult, Source, build_records
from pipelines.engines.base import Engine
from pipelines.engines.duckdb_engine import DuckDBEngine
from pipelines.progress import Progress
from pipelines.sources import timestamps
from pipelines.sources.log_source import FORMATS, HEADERS, QUOTES, LogSource
from pipelines.sources.synthetic import MarkovLog
from pipelines.sources.tfds_log import TfdsLog
from pipelines.sources.titles import read_titles
from tfrecords.errors import InputError, check_local
from tfrecords.interruption import stopped_at_once
from tfrecords.manifest import BAD_ROWS_FILE

_INPUT = flags.DEFINE_multi_string("input", [], "a log: file or glob, plain or gzip, bz2, xz, zstd; repeatable")
_DATASET = flags.DEFINE_string(
    "dataset", None, "instead of --input: synthetic[:num_users=500,noise=0.2] or tfds:movielens/100k-ratings"
)
_FORMAT = flags.DEFINE_enum("format", "auto", FORMATS, "of --input; auto goes by the file's name")
_USER = flags.DEFINE_string("user_column", "user_id", "name in the header, or place from 0 where there is none")
_ITEM = flags.DEFINE_string("item_column", "item_id", "the same")
_TIMESTAMP = flags.DEFINE_string("timestamp_column", "timestamp", "the same; empty where rows are in time order")
_RATING = flags.DEFINE_string("rating_column", "", "the same; needed for --min_rating")
_UNIT = flags.DEFINE_enum(
    "timestamp_unit",
    "auto",
    timestamps.UNITS,
    "of timestamps that are numbers; auto goes by their size; none takes them for counters, whose size means nothing",
)
_EXPLODE = flags.DEFINE_bool("explode", False, "make an event of each element where a row has a list of items")
_PARTITION = flags.DEFINE_multi_string(
    "partition_columns",
    [],
    "columns, of those above, whose value is in a folder's name, as in dt=2014-05-01/log.csv; commas between several",
)
_QUOTE = flags.DEFINE_enum(
    "quote", None, QUOTES, "of csv and tsv: double allows fields in double quotes; by default csv does, tsv does not"
)
_DELIMITER = flags.DEFINE_string("delimiter", None, r"of csv and tsv: one character between fields, such as ; or \t")
_HEADER = flags.DEFINE_enum(
    "header",
    "auto",
    HEADERS,
    "of csv and tsv: whether line 1 is no event; auto: where columns go by name, or it is 0,1,2",
)
_NULL_VALUES = flags.DEFINE_multi_string(
    "null_values", [], "texts that stand for a missing value, such as NA; commas between several"
)
_TITLES = flags.DEFINE_string(
    "item_titles", None, "text with a header that has item_id and title: titles for the vocabulary"
)
_CONFIG = flags.DEFINE_string("config", None, "JSON of settings; see configs/")
_SET = flags.DEFINE_multi_string("set", [], "section.field=value over --config; repeatable")
_DATA_FLAGS = [
    flags.DEFINE_float("max_bad_fraction", None, "sets data.max_bad_fraction"),
    flags.DEFINE_float("min_rating", None, "sets data.min_rating"),
    flags.DEFINE_integer("min_user_events", None, "sets data.min_user_events"),
    flags.DEFINE_integer("min_item_events", None, "sets data.min_item_events"),
    flags.DEFINE_enum("split", None, ["leave_one_out", "temporal"], "sets data.split"),
    flags.DEFINE_integer("num_shards", None, "sets data.num_shards"),
    flags.DEFINE_integer("seed", None, "sets data.seed"),
]
_TIME_FLAGS = [
    flags.DEFINE_string(
        "split_time",
        None,
        "sets data.split_time: an ISO 8601 time (UTC) or seconds since 1970, whatever the unit of the log",
    ),
    flags.DEFINE_string("train_since", None, "sets data.train_since: the same as for --split_time"),
]
_OUTPUT = flags.DEFINE_string("output_dir", None, "the data directory to make", required=True)
_ENGINE = flags.DEFINE_enum("engine", "duckdb", ["duckdb", "spark"], "what sorts and counts; spark: see BUILD.md")
_WORKERS = flags.DEFINE_integer("num_workers", os.cpu_count() or 1, "processes that mask and write", lower_bound=1)
_MEMORY = flags.DEFINE_string("memory_limit", None, "of the engine, e.g. 4GB; past it, it spills beside --output_dir")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace an --output_dir that holds other records")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "print what would be written, and write nothing")
_BAD_ROWS_SHOWN = 3


@command
def main() -> None:
    """Builds the records, or leaves nothing behind."""
    with stopped_at_once("while it built the records; run the same command again"):
        _build()


def _build() -> None:
    """Flags to a configuration, a source and an engine, and one call."""
    for flag in (_INPUT, _TITLES, _CONFIG, _OUTPUT):
        check_local(flag.name, flag.value)
    given = {flag.name: flag.value for flag in _DATA_FLAGS if flag.value is not None}
    given |= {flag.name: _time(flag.name, flag.value) for flag in _TIME_FLAGS if flag.value is not None}
    own_flags = [f"data.{name}={json.dumps(value)}" for name, value in given.items()]
    if not _OUTPUT.value:
        raise InputError("--output_dir must name a directory. Received: ''")
    config = Config.from_dict(read_settings(_CONFIG.value, [*_SET.value, *own_flags]), "--config and flags")
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
    )
    if isinstance(source, LogSource):
        for remark in source.remarks():
            print(remark)
    if built.written or _DRY_RUN.value:
        _report(built, time.monotonic() - started)
    else:
        print(f"{_OUTPUT.value} is complete: same input, same configuration. Nothing to do.")


def _make_engine(spill_dir: pathlib.Path) -> contextlib.AbstractContextManager[Engine]:
    if _ENGINE.value == "spark":
        from pipelines.engines.spark_engine import SparkEngine  # an extra that others need not install

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
            raise InputError(f"--{flag.name} goes with --input. Received: --dataset={_DATASET.value}")
    kind, _, rest = _DATASET.value.partition(":")
    if kind == "synthetic":
        return MarkovLog.from_text(rest, seed=config.data.seed)
    if kind == "tfds" and rest:
        columns = {flag.name: flag.value for flag in (_USER, _ITEM, _TIMESTAMP, _RATING) if flag.present}
        return TfdsLog(rest, **columns, timestamp_unit=_UNIT.value)
    raise InputError(f"--dataset must be synthetic or tfds:NAME. Received: {_DATASET.value!r}")


def _split(values: list[str]) -> tuple[str, ...]:
    """Of a flag that may be repeated and may hold several values with commas between, each value once."""
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
