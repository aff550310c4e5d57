"""`recommend.py` and `bert4rec-recommend`: recommendations for every user of a log, in files."""

import contextlib
import functools
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import flags

from bert4rec_tf.command_line import command
from bert4rec_tf.commands import log_flags
from bert4rec_tf.commands.entry_point import run_main
from bert4rec_tf.scoring.output import BAD_ROWS_FILE, OutputOptions, ScoredUsers
from bert4rec_tf.scoring.score_users import score_log, score_records
from bert4rec_tf.serving.served_model import ServedModel
from pipelines.engines.base import Engine
from pipelines.engines.duckdb_engine import DuckDBEngine
from pipelines.progress import Progress
from tfrecords.errors import InputError, check_local
from tfrecords.interruption import stopped_at_once
from tfrecords.stores import check_path

_MODEL = flags.DEFINE_string("model_dir", None, "model directory written by train.py")
_EXPORT = flags.DEFINE_string(
    "export_dir", None, "directory written by export.py, whose newest version recommends, or one version of it"
)
_DATA = flags.DEFINE_string(
    "data_dir", None, "directory of records, whose test users are scored by their whole history, instead of a log"
)
_OUTPUT = flags.DEFINE_string("output", None, "directory to write the recommendations in", required=True)
_FORMAT = flags.DEFINE_enum("output_format", "parquet", ["parquet", "jsonl"], "format of the files in --output")
_TOP_K = flags.DEFINE_integer("top_k", 10, "number of items for each user")
_DROP_SEEN = flags.DEFINE_bool("drop_seen", True, "whether items of the user's history are left out")
_EXCLUDE = flags.DEFINE_string(
    "exclude", None, "file of items that are never recommended: column item_id, and user_id if each user has their own"
)
_ALLOW = flags.DEFINE_string(
    "allow", None, "file of the only items that may be recommended; columns as in --exclude; other users get all items"
)
_USERS = flags.DEFINE_string(
    "users", None, "file of the only users to score, column user_id; users without events get the most popular items"
)
_REQUEST_TIME = flags.DEFINE_string(
    "request_time",
    None,
    "for models with times: when the items will be shown, an ISO 8601 time (UTC) or seconds since 1970",
)
_ENGINE = flags.DEFINE_enum(
    "engine",
    "duckdb",
    ["duckdb", "spark"],
    "engine that sorts the log by user; with spark its tasks score the users too, see docs/spark.md",
)
_WORKERS = flags.DEFINE_integer(
    "num_workers", os.cpu_count() or 1, "with --engine=spark on this machine, its threads", lower_bound=1
)
_MEMORY = flags.DEFINE_string(
    "memory_limit", "1GB", "memory of the engine that sorts the log; beyond it, data goes to disk"
)
_PREVIOUS = flags.DEFINE_string(
    "previous", None, "--output of an earlier night; its recommendations are compared with the new ones"
)
_LIMITS = flags.DEFINE_string(
    "limits", None, "JSON file of limits; recommendations outside them are not marked as finished"
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace the recommendations of another run in --output")
flags.adopt_module_key_flags(log_flags)


@command
def main() -> None:
    """Scores the users. A run that was stopped goes on when the same command is run again."""
    with stopped_at_once("while it scored users; run the same command again to go on"):
        _score()


def _score() -> None:
    check_local(_LIMITS.name, _LIMITS.value)
    check_path(log_flags.INPUT.name, log_flags.INPUT.value)
    for flag in (_MODEL, _EXPORT, _DATA, _OUTPUT, _PREVIOUS):
        check_path(flag.name, flag.value)
    log_flags.check_engine(_ENGINE.value, _MODEL.value, _EXPORT.value, _OUTPUT.value, _PREVIOUS.value)
    if bool(_MODEL.value) == bool(_EXPORT.value):
        raise InputError(
            f"Give either --model_dir or --export_dir. Received: --model_dir={_MODEL.value}, "
            f"--export_dir={_EXPORT.value}"
        )
    if bool(_DATA.value) == log_flags.is_given():
        received = "both" if _DATA.value else "none"
        raise InputError(f"Give either a log, by --input or --dataset, or --data_dir. Received: {received}")
    if _DATA.value and _ENGINE.value != "duckdb":
        raise InputError(f"--engine sorts a log. Received: --engine={_ENGINE.value} and --data_dir. Fix: give --input")
    if not _OUTPUT.value:
        raise InputError("--output must name a directory. Received: ''")
    started = time.monotonic()
    directory = str(_MODEL.value or _EXPORT.value)
    source = None if _DATA.value else log_flags.log_source(seed=1)
    model = ServedModel.load(directory)
    options = OutputOptions(
        top_k=_TOP_K.value,
        drop_seen=_DROP_SEEN.value,
        format="jsonl" if _FORMAT.value == "jsonl" else "parquet",
        exclude=_EXCLUDE.value,
        allow=_ALLOW.value,
        users=_USERS.value,
        request_time=_time(),
        overwrite=_OVERWRITE.value,
        previous=_PREVIOUS.value,
        limits=_LIMITS.value,
    )
    if source is None:
        scored = score_records(model, str(_DATA.value), str(_OUTPUT.value), options, Progress())
    else:
        elsewhere = functools.partial(_load_once, os.fspath(pathlib.Path(directory).resolve()))
        load = elsewhere if _ENGINE.value == "spark" else None
        if _ENGINE.value == "spark":
            from pipelines.engines.spark_engine import scan_in_tasks  # pyspark is an optional package

            scan_in_tasks(source)
        scored = score_log(model, source, str(_OUTPUT.value), options, _make_engine, load, Progress())
    _report(scored, time.monotonic() - started)


@functools.lru_cache(maxsize=1)
def _load_once(directory: str) -> ServedModel:
    """The model, once for all tasks of a process."""
    return ServedModel.load(directory)


def _make_engine(spill_dir: pathlib.Path) -> contextlib.AbstractContextManager[Engine]:
    if _ENGINE.value == "spark":
        from pipelines.engines.spark_engine import SparkEngine  # pyspark is an optional package

        # The flag's default is meant for one process, not for each task.
        return SparkEngine(spill_dir, _WORKERS.value, _MEMORY.value if _MEMORY.present else None)
    return DuckDBEngine(spill_dir, 1, _MEMORY.value)  # one process: TensorFlow uses all cores


def _time() -> int | None:
    text = _REQUEST_TIME.value
    if text is None:
        return None
    found = log_flags.read_time(_REQUEST_TIME.name, text)
    if not 0 <= found < 2**62:
        raise InputError(f"--request_time must be an ISO 8601 time or seconds since 1970. Received: {text!r}")
    return int(found)


def _report(scored: ScoredUsers, elapsed: float) -> None:
    counts = scored.counts
    if scored.bad_rows:
        print(f"{scored.bad_rows:>13,} rows of the log could not be read, see {BAD_ROWS_FILE}")
    print(f"{counts.events:>13,} events, {counts.unknown_events:,} of them of items that the model does not know")
    print(
        f"{counts.users:>13,} users, {counts.users_without_known_items:,} of them without a known item: they get the "
        "most popular items"
    )
    if counts.written < counts.users:
        print(f"{counts.users - counts.written:>13,} of them were there already")
    watched = ", ".join(f"{name} {value:g}" for name, value in scored.monitoring.items() if name != "users")
    print(f"{'':>13} {watched}")
    if counts.written:
        print(f"{counts.written / scored.scoring_seconds:>13,.0f} users/s, without start, reading and sorting")
    print(f"wrote {scored.output_dir} in {elapsed:.1f} s")


def run() -> None:
    """Runs the command."""
    run_main(main, __name__)
