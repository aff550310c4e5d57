"""Turns interaction logs into TFRecords with masked instances, fixed negatives and a manifest.

python pipelines/make_tfrecords.py --input=ml-1m.txt --config=configs/ml-1m.json --output_dir=data/ml-1m
"""

import os
import pathlib
import sys
import time
from typing import Any

# Run as a script, Python puts this folder on the path; the packages stand beside it.
sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

from absl import app, flags  # noqa: E402

from bert4rec_tf.config import Config, read_settings  # noqa: E402
from bert4rec_tf.errors import InputError, command  # noqa: E402
from pipelines.engine import Source, build_records  # noqa: E402
from pipelines.log_formats import FORMATS, LogSource  # noqa: E402
from pipelines.synthetic import MarkovLog  # noqa: E402
from pipelines.tfds_log import TfdsLog  # noqa: E402
from pipelines.titles import read_titles  # noqa: E402
from tfrecords.manifest import Manifest  # noqa: E402

_INPUT = flags.DEFINE_multi_string("input", [], "a log: file or glob, gzip or not; repeatable")
_DATASET = flags.DEFINE_string(
    "dataset", None, "instead of --input: synthetic[:num_users=500,noise=0.2] or tfds:movielens/100k-ratings"
)
_FORMAT = flags.DEFINE_enum("format", "auto", FORMATS, "of --input; auto goes by the file's name")
_USER = flags.DEFINE_string("user_column", "user_id", "name in the header, or place from 0 where there is none")
_ITEM = flags.DEFINE_string("item_column", "item_id", "the same")
_TIMESTAMP = flags.DEFINE_string("timestamp_column", "timestamp", "the same; empty where rows are in time order")
_RATING = flags.DEFINE_string("rating_column", "", "the same; needed for --min_rating")
_TITLES = flags.DEFINE_string("item_titles", None, "CSV or TSV with a header item_id, title: titles for the vocabulary")
_CONFIG = flags.DEFINE_string("config", None, "JSON of settings; see configs/")
_SET = flags.DEFINE_multi_string("set", [], "section.field=value over --config; repeatable")
_DATA_FLAGS = [
    flags.DEFINE_float("min_rating", None, "sets data.min_rating"),
    flags.DEFINE_integer("min_user_events", None, "sets data.min_user_events"),
    flags.DEFINE_integer("min_item_events", None, "sets data.min_item_events"),
    flags.DEFINE_integer("num_shards", None, "sets data.num_shards"),
    flags.DEFINE_integer("seed", None, "sets data.seed"),
]
_OUTPUT = flags.DEFINE_string("output_dir", None, "the data directory to make", required=True)
flags.DEFINE_enum("engine", "duckdb", ["duckdb"], "what sorts and counts")
_WORKERS = flags.DEFINE_integer("num_workers", os.cpu_count() or 1, "processes that mask and write", lower_bound=1)
_MEMORY = flags.DEFINE_string("memory_limit", None, "of the engine, e.g. 4GB; past it, it spills beside --output_dir")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace an --output_dir that holds something else")


@command
def main() -> None:
    """Flags to a configuration and a source, and one call."""
    settings = read_settings(_CONFIG.value, _SET.value)
    given = {flag.name: flag.value for flag in _DATA_FLAGS if flag.value is not None}
    settings["data"] = settings.get("data", {}) | given
    config = Config.from_dict(settings, "flags")
    started = time.monotonic()
    manifest, built = build_records(
        _source(config),
        read_titles(_TITLES.value),
        config,
        _OUTPUT.value,
        num_workers=_WORKERS.value,
        memory_limit=_MEMORY.value,
        overwrite=_OVERWRITE.value,
    )
    if built:
        _report(manifest, time.monotonic() - started)
    else:
        print(f"{_OUTPUT.value} is complete: same input, same configuration. Nothing to do.")


def _source(config: Config) -> Source:
    if bool(_INPUT.value) == bool(_DATASET.value):
        raise InputError(
            f"Give either --input or --dataset. Received: --input={_INPUT.value}, --dataset={_DATASET.value}"
        )
    if not _DATASET.value:
        return LogSource(_INPUT.value, _FORMAT.value, _USER.value, _ITEM.value, _TIMESTAMP.value, _RATING.value)
    kind, _, rest = _DATASET.value.partition(":")
    if kind == "synthetic":
        return MarkovLog.from_text(rest, seed=config.data.seed)
    if kind == "tfds" and rest:
        columns = {flag.name: flag.value for flag in (_USER, _ITEM, _TIMESTAMP, _RATING) if flag.present}
        return TfdsLog(rest, **columns)
    raise InputError(f"--dataset must be synthetic or tfds:NAME. Received: {_DATASET.value!r}")


def _report(manifest: Manifest, seconds: float) -> None:
    counts: dict[str, Any] = manifest.counts
    for name in ("rows_read", "low_rated_rows_dropped", "duplicate_events_dropped", "rare_events_dropped"):
        print(f"{counts[name]:>12,} {name.replace('_', ' ')}")
    print(f"{counts['users']:>12,} users, {counts['evaluated_users']:,} of them evaluated; {counts['items']:,} items")
    for split, shards in manifest.splits.items():
        size = sum(shard.bytes for shard in shards)
        print(f"{manifest.records(split):>12,} {split} records, {size / 1e6:,.1f} MB in {len(shards)} shards")
    print(f"wrote {_OUTPUT.value} in {seconds:.1f} s")


if __name__ == "__main__":
    app.run(main)
