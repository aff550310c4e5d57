"""A data directory out of a log: an engine reads and sorts, the stages run shard by shard, the manifest is last."""

import dataclasses
import functools
import hashlib
import json
import pathlib
from typing import TypeVar

import numpy as np

from pipelines.engines.base import EngineMaker, PreparedLog, Source
from pipelines.engines.duckdb_engine import DuckDBEngine
from pipelines.progress import Progress
from pipelines.sources.bad_rows import BadRow
from pipelines.sources.load_events import LoadCounts, timestamp_unit
from pipelines.sources.log_source import LogSource
from pipelines.sources.timestamps import infer_unit, shown
from pipelines.stages.shards import SPLITS, BuiltShard, ShardBuilder, ShardCounts, count_shard, merge_histograms
from pipelines.stages.splits import MIN_EVALUATED_EVENTS
from pipelines.staging import discarded, is_complete, spill_dir, staged, sweep, write_manifest
from tfrecords.config import MAX_SHARDS, DataConfig, RecordsConfig
from tfrecords.errors import InputError, check_local, writing
from tfrecords.files import file_sha256
from tfrecords.interruption import heed
from tfrecords.manifest import BAD_ROWS_FILE, Manifest
from tfrecords.vocabulary import NUM_SPECIAL_IDS, VOCABULARY_FILE, Vocabulary

# What becomes of the rows that are read and are no `events`.
DROPPED = ("bad_rows_set_aside", "low_rated_rows_dropped", "duplicate_events_dropped", "rare_events_dropped")
_MIN_SHARDS = 8
_EVENTS_IN_A_SHARD = 1_000_000
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class BuildResult:
    """What `build_records` came to.

    Attributes:
        manifest: of the data directory, or of the one that would be written, without its files.
        written: False where there was nothing to do, or nothing was to be done.
        instances: masked instances to train on.
        bad_rows: the first few rows that could not be read, where the log was read.
        times: the first and the last event's time in words, where the log was read and has timestamps.
        unit: of its timestamps that are numbers.
    """

    manifest: Manifest
    written: bool
    instances: int
    bad_rows: tuple[BadRow, ...] = ()
    times: tuple[str, str] | None = None
    unit: str = "s"


def build_records(
    source: Source,
    titles: dict[str, str],
    config: RecordsConfig,
    output_dir: str,
    make_engine: EngineMaker = DuckDBEngine,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> BuildResult:
    """Makes a data directory of a log. The same source, configuration and seed give the same bytes.

    Args:
        source: files, a published dataset, or the parameters of a synthetic log.
        titles: of items, by raw id.
        config: its sections `data` and `masking` are used.
        output_dir: where the records appear, whole.
        make_engine: makes an `Engine`, given a directory for what does not fit in memory.
        overwrite: replaces the records that `output_dir` holds.
        dry_run: only counts, and leaves the disk as it was.
        progress: shows how far the run is; None shows nothing.

    Raises:
        InputError: of the log, what is left after the filters, the output directory, its disk or the engine.
    """
    check_local("output_dir", output_dir)
    place = pathlib.Path(output_dir).resolve()
    config = RecordsConfig(data=config.data, masking=config.masking)
    described = source.description()
    progress = progress or Progress(shown=False)
    if titles:
        described["titles_sha256"] = hashlib.sha256(json.dumps(titles, sort_keys=True).encode()).hexdigest()
    if not overwrite and not dry_run and is_complete(place, config, described):
        sweep(place)
        manifest = Manifest.load(place)
        return BuildResult(manifest, False, manifest.instances())
    unit = _unit(source, config.data)
    room = discarded(place) if dry_run else staged(place, overwrite)
    with writing(place), room as building, make_engine(spill_dir(building)) as engine:
        bad_rows = building / BAD_ROWS_FILE
        loaded = engine.load(source, unit, config, bad_rows, progress)
        loaded.check(str(described.get("inputs", source)), config.data.max_bad_fraction)
        num_shards = config.data.num_shards or _enough_shards(loaded.events)
        heed()
        prepared = engine.prepare(config, num_shards, progress)
        times = (shown(prepared.first_time, unit), shown(prepared.last_time, unit))
        num_items = len(prepared.item_ids)
        counted = ShardCounts(np.zeros(num_items, np.int64))
        for shard in engine.map_shards(functools.partial(count_shard, config=config, num_items=num_items)):
            counted += shard
        heed()
        _check_counts(counted, config, prepared, unit)
        vocabulary, ids = _number_items(prepared.item_ids, counted.training_events, titles)
        manifest = Manifest(
            config=config,
            source=described,
            counts=_counts(loaded, prepared, counted, config.data),
            length_histogram=(),
            vocabulary_sha256=vocabulary.sha256(),
            splits=dict.fromkeys(SPLITS, ()),
        )
        if dry_run:
            return BuildResult(manifest, False, counted.instances, loaded.first_bad, times if unit else None, unit)
        (building / VOCABULARY_FILE).write_bytes(vocabulary.to_bytes())
        builder = ShardBuilder(str(building), config, num_shards, ids, vocabulary.counts)
        built = []
        with progress.stage("writing", prepared.events) as bar:
            for done in engine.map_shards(builder.build):
                heed()
                built.append(done)
                bar.update(done.events)
        for left in building.glob("*/.*.tmp"):  # by tasks that were killed and done again
            left.unlink()
        manifest = dataclasses.replace(
            manifest,
            counts=manifest.counts | _few_negatives(built),
            bad_rows_sha256=file_sha256(bad_rows) if loaded.bad else None,
            length_histogram=merge_histograms(built),
            splits={split: tuple(shard.files[split] for shard in built) for split in SPLITS},
        )
        write_manifest(building, manifest)
    return BuildResult(manifest, True, counted.instances, loaded.first_bad, times if unit else None, unit)


def _unit(source: Source, config: DataConfig) -> str:
    """Of the timestamps that are numbers."""
    if isinstance(source, LogSource):
        return timestamp_unit(source, config)
    if source.timestamp_unit != "auto":
        return source.timestamp_unit
    first = next(source.batches())["timestamp"].slice(0, 100)
    return infer_unit({source.description()["format"]: [str(time) for time in first.to_pylist()]})


def _enough_shards(events: int) -> int:
    """So many that a worker, which holds one shard at a time, needs the same memory whatever the log."""
    return min(max(_MIN_SHARDS, -(-events // _EVENTS_IN_A_SHARD)), MAX_SHARDS)


def _counts(loaded: LoadCounts, prepared: PreparedLog, counted: ShardCounts, data: DataConfig) -> dict[str, int]:
    """For the manifest. `rows_read` is the sum of `DROPPED` and `events`."""
    old_windows = {} if data.train_since is None else {"old_windows_left_out": counted.old_windows}
    return {
        "rows_read": loaded.rows_read,
        "bad_rows_set_aside": loaded.bad,
        "low_rated_rows_dropped": loaded.low_rated,
        "duplicate_events_dropped": prepared.duplicates_dropped,
        "rare_events_dropped": prepared.rare_dropped,
        "events": prepared.events,
        "users": prepared.users,
        "items": len(prepared.item_ids),
        "longest_history": counted.longest_history,
        "training_events": int(counted.training_events.sum()),
        "validated_users": counted.validated_users,
        "evaluated_users": counted.evaluated_users,
        "unseen_users": counted.unseen_users,
        **old_windows,
    }


def _few_negatives(built: list[BuiltShard]) -> dict[str, int]:
    """For the manifest: the users whom the ranking among negatives leaves out."""
    names = {"validation": "validated_users_with_few_negatives", "test": "evaluated_users_with_few_negatives"}
    return {name: sum(shard.few_negatives[split] for shard in built) for split, name in names.items()}


def _check_counts(counted: ShardCounts, config: RecordsConfig, prepared: PreparedLog, unit: str) -> None:
    split_time, since = shown(config.data.split_time or 0.0, unit), shown(config.data.train_since or 0.0, unit)
    log = f"the log's events run from {shown(prepared.first_time, unit)} to {shown(prepared.last_time, unit)}"
    if config.data.validation_share < 1 and counted.evaluated_users and not counted.validated_users:
        raise InputError(
            "data.validation_share must leave a user to validate. Received: "
            f"{config.data.validation_share}, which leaves none; {counted.evaluated_users:,} are tested. "
            "Fix: a larger share"
        )
    if config.data.split == "temporal":
        if not (counted.training_events.any() and counted.validated_users and counted.evaluated_users):
            raise InputError(
                "--split_time must have two events of one user before it, and events at or after it. "
                f"Received: {split_time}, which leaves {int(counted.training_events.sum()):,} events "
                f"to train on, {counted.validated_users:,} users to validate, {counted.evaluated_users:,} to test. "
                f"Fix: name a time within the log, in seconds or as a date: {log}"
            )
    elif not counted.evaluated_users:
        raise InputError(
            f"Leave-one-out needs a user with at least {MIN_EVALUATED_EVENTS} events. Received: a log without "
            "one, after the filters. Fix: bring a longer log, or lower --min_item_events or --min_rating"
        )
    if not counted.instances:
        raise InputError(
            "--train_since must leave a window to train on, one with an event at or after it. Received: "
            f"{since}, which leaves none of {counted.old_windows:,}. Fix: name an earlier "
            f"time, in seconds or as a date: {log}; those held out for validation and test are in no window"
        )
    if config.data.train_since is not None and config.data.train_since <= prepared.first_time:
        raise InputError(
            f"--train_since must leave old events out. Received: {since}, before which "
            f"there is none. Fix: leave the flag out, or name a later time, in seconds or as a date: {log}"
        )


def _number_items(raw_ids: list[str], counts: np.ndarray, titles: dict[str, str]) -> tuple[Vocabulary, np.ndarray]:
    """The vocabulary, by falling count and then by id, and the integer id of each item index."""
    order = np.argsort(-counts, kind="stable")  # `raw_ids` are sorted, so ties stay in the order of the ids
    ids = np.empty(len(raw_ids), np.int32)
    ids[order] = np.arange(NUM_SPECIAL_IDS, len(raw_ids) + NUM_SPECIAL_IDS)
    item_ids = tuple(raw_ids[index] for index in order)
    return Vocabulary(item_ids, counts[order], tuple(titles.get(item_id) for item_id in item_ids)), ids
