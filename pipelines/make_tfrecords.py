"""Turns interaction logs into TFRecords with masked instances, fixed negatives and a manifest.

python pipelines/make_tfrecords.py --input=ml-1m.txt --config=configs/ml-1m.json --output_dir=data/ml-1m
"""

import contextlib
import functools
import json
import os
import pathlib
import signal
import sys
import time

if __name__ in ("__main__", "__mp_main__"):  # as a script, and in its worker processes
    # Python puts this script's folder on the path. The packages are in the folder above.
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

from tfrecords.interruption import end_process, stopped_at_once

if __name__ == "__main__":  # before the imports that take long
    signal.signal(signal.SIGINT, end_process)

from absl import app, flags

from bert4rec_tf.api.auto_recipe import AUTO, describe_records, records_config
from bert4rec_tf.api.recipes import config_file
from bert4rec_tf.command_line import command
from bert4rec_tf.commands import log_flags
from bert4rec_tf.config import Config, read_settings
from pipelines.build import DROPPED, BuildResult, LogSize, build_records
from pipelines.engines.base import Engine
from pipelines.engines.duckdb_engine import DuckDBEngine
from pipelines.progress import Progress
from pipelines.sources import timestamps
from pipelines.sources.item_features import FeatureTable, parse_kinds, read_feature_table
from pipelines.sources.log_source import LogSource
from pipelines.sources.titles import read_titles
from tfrecords.errors import InputError, check_local
from tfrecords.manifest import BAD_ROWS_FILE
from tfrecords.record_store import local_records
from tfrecords.stores import check_path

flags.adopt_module_key_flags(log_flags)
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
    "JSON file of settings, the name of a recipe, such as bert4rec-dense, or `auto`, which chooses by the log; "
    "other settings keep their defaults",
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
_SPLIT_DIR = flags.DEFINE_string(
    "split_dir", None, "directory to write the split in, as Parquet tables for other systems; needs TensorFlow"
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
    for flag in (_TITLES, _FEATURES, _CONFIG, _SPLIT_DIR):
        check_local(flag.name, flag.value)
    check_path(log_flags.INPUT.name, log_flags.INPUT.value)
    check_path(_OUTPUT.name, _OUTPUT.value)
    log_flags.check_engine(_ENGINE.value, _OUTPUT.value)
    given = {flag.name: flag.value for flag in _DATA_FLAGS if flag.value is not None}
    given |= {flag.name: log_flags.read_time(flag.name, flag.value) for flag in _TIME_FLAGS if flag.value is not None}
    own_flags = [f"data.{name}={json.dumps(value)}" for name, value in given.items()]
    if not _OUTPUT.value:
        raise InputError("--output_dir must name a directory. Received: ''")
    automatic = _CONFIG.value == AUTO
    settings = read_settings(None if automatic else config_file(_CONFIG.value), [*_SET.value, *own_flags])
    config = Config.from_dict(settings, "--config and flags")
    started = time.monotonic()
    source = log_flags.log_source(config.data.seed)
    if _ENGINE.value == "spark":
        from pipelines.engines.spark_engine import scan_in_tasks  # pyspark is an optional package

        scan_in_tasks(source)
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
        choose_config=functools.partial(records_config, given=settings) if automatic else None,
    )
    if automatic:
        print(describe_records(LogSize.of_counts(built.manifest.counts), built.manifest.config))
    if isinstance(source, LogSource):
        for remark in source.remarks():
            print(remark)
    if built.written or _DRY_RUN.value:
        _report(built, time.monotonic() - started)
    else:
        print(f"{_OUTPUT.value} is complete: same input, same configuration. Nothing to do.")
    if _SPLIT_DIR.value and not _DRY_RUN.value:
        from bert4rec_tf.api.split_tables import write_split_tables  # imports TensorFlow

        rows = write_split_tables(str(local_records(_OUTPUT.value)), _SPLIT_DIR.value)
        print(f"wrote {_SPLIT_DIR.value}: " + ", ".join(f"{number:,} rows of {name}" for name, number in rows.items()))


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


def _report(built: BuildResult, seconds: float) -> None:
    manifest, counts = built.manifest, built.manifest.counts
    for name in ("rows_read", *DROPPED, "events"):
        print(f"{counts[name]:>13,} {name.replace('_', ' ')}")
        if name == "bad_rows_set_aside":
            for row in built.bad_rows[:_BAD_ROWS_SHOWN]:
                print(f"{'':>13} {row}")
            if built.written and built.bad_rows:
                print(f"{'':>13} all of them: {_OUTPUT.value.rstrip('/')}/{BAD_ROWS_FILE}")
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
