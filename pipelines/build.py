"""Builds a data directory from a log: an engine reads and sorts, the stages run per shard, the manifest comes last."""

import dataclasses
import functools
import hashlib
import json
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from pipelines.engines.base import Engine, EngineMaker, PreparedLog, Source, default_num_shards
from pipelines.engines.duckdb_engine import DuckDBEngine
from pipelines.progress import Progress
from pipelines.sources.bad_rows import BadRow
from pipelines.sources.item_features import FeatureTable
from pipelines.sources.load_events import LoadCounts, timestamp_unit
from pipelines.sources.log_source import LogSource
from pipelines.sources.timestamps import format_time, infer_unit
from pipelines.stages.shards import SPLITS, BuiltShard, ShardBuilder, ShardCounts, count_shard, merge_histograms
from pipelines.stages.splits import MIN_EVALUATED_EVENTS, evaluated_share
from pipelines.staging import discarded, is_complete, is_of, spill_dir, staged, sweep, write_manifest
from tfrecords.config import DataConfig, RecordsConfig
from tfrecords.errors import InputError, writing
from tfrecords.files import file_sha256
from tfrecords.interruption import raise_if_stopped
from tfrecords.manifest import BAD_ROWS_FILE, ITEM_FEATURES_FILE, MANIFEST_FILE, Manifest
from tfrecords.record_store import check_complete, check_free, publish, read_manifest
from tfrecords.store_cache import showing, stand_in, waiting_for
from tfrecords.stores import Store, check_path, is_url
from tfrecords.vocabulary import NUM_SPECIAL_IDS, VOCABULARY_FILE, Vocabulary

# The counts of rows that were read and did not become events.
DROPPED = ("bad_rows_set_aside", "low_rated_rows_dropped", "duplicate_events_dropped", "rare_events_dropped")
_ITEMS_NAMED = 3
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class BuildResult:
    """The outcome of `build_records`.

    Attributes:
        manifest: of the data directory; after a dry run, of the directory that would be written, without its files.
        written: False after a dry run, or if the directory already held these records.
        instances: number of masked training instances.
        bad_rows: the first few rows that could not be read; empty if the log was not read.
        times: the times of the first and the last event as text; None if the log was not read or has no timestamps.
        unit: of the log's numeric timestamps.
        items_in_no_event: of the table of item features, the first few items that the log does not have, each with
            its place in the table.

    >>> built.written, built.instances, built.times
    (True, 220, ('0', '119'))
    """

    manifest: Manifest
    written: bool
    instances: int
    bad_rows: tuple[BadRow, ...] = ()
    times: tuple[str, str] | None = None
    unit: str = "s"
    items_in_no_event: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class LogSize:
    """How large a log is, after the filters.

    Attributes:
        users, items, events: their numbers.

    >>> LogSize(users=10, items=5, events=200).events_per_item
    40.0
    """

    users: int
    items: int
    events: int

    @classmethod
    def of_counts(cls, counts: Mapping[str, int]) -> "LogSize":
        """The size of the log that a manifest's counts describe.

        >>> LogSize.of_counts(built.manifest.counts)
        LogSize(users=20, items=10, events=120)
        """
        return cls(counts["users"], counts["items"], counts["events"])

    @property
    def events_per_user(self) -> float:
        """The mean over the users.

        >>> LogSize(users=10, items=5, events=200).events_per_user
        20.0
        """
        return self.events / self.users

    @property
    def events_per_item(self) -> float:
        """The mean over the items.

        >>> LogSize(users=10, items=5, events=200).events_per_item
        40.0
        """
        return self.events / self.items


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
    item_features: FeatureTable | None = None,
    choose_config: Callable[[LogSize], RecordsConfig] | None = None,
) -> BuildResult:
    """Builds a data directory from a log. The same source, configuration and seed give the same bytes.

    Args:
        source: files, a published dataset, or the parameters of a synthetic log.
        titles: item titles by raw item id.
        config: the sections `data` and `masking` are used.
        output_dir: where the finished directory appears, on this machine or in an object store.
        make_engine: creates an `Engine`, given a directory for data that does not fit in memory.
        overwrite: replace the records that `output_dir` holds.
        dry_run: count only, and write nothing to `output_dir`.
        progress: shows progress bars; None shows none.
        item_features: what is known of the items besides their ids; None: nothing.
        choose_config: returns the configuration for a log of this size. `config` then decides only which events count;
            its filters must equal those of the returned configuration.

    Raises:
        InputError: the log, the item features, the output directory, its disk or the engine cannot be used, or the
            filters leave nothing.

    >>> from pipelines.sources.synthetic import MarkovLog
    >>> source = MarkovLog(num_users=30, num_items=12, num_themes=3, min_events=5, max_events=8)
    >>> result = build_records(source, {}, RecordsConfig(DataConfig(num_negatives=2)), "synthetic")
    >>> result.written, result.manifest.counts["users"]
    (True, 30)
    >>> build_records(source, {}, RecordsConfig(DataConfig(num_negatives=2)), "synthetic").written
    False
    """
    check_path("output_dir", output_dir)
    config = RecordsConfig(data=config.data, masking=config.masking)
    described = source.description()
    progress = progress or Progress(shown=False)
    if item_features is not None:
        described["item_features"] = item_features.description()
        titles = item_features.titles | titles
    if titles:
        described["titles_sha256"] = hashlib.sha256(json.dumps(titles, sort_keys=True).encode()).hexdigest()
    if is_url(output_dir):

        def build(directory: str, overwrite: bool) -> BuildResult:
            return build_records(
                source, titles, config, directory, make_engine, overwrite=overwrite, dry_run=dry_run,
                progress=progress, item_features=item_features, choose_config=choose_config,
            )  # fmt: skip

        def holds(manifest: Manifest) -> bool:
            return is_of(manifest, _expected(manifest, config, choose_config), described)

        return _build_in_store(output_dir, build, holds, overwrite, dry_run)
    path = pathlib.Path(output_dir).resolve()
    there = Manifest.load(path) if (path / MANIFEST_FILE).is_file() else None
    if not overwrite and not dry_run and is_complete(path, _expected(there, config, choose_config), described):
        sweep(path)
        manifest = Manifest.load(path)
        return BuildResult(manifest, False, manifest.instances())
    unit = _unit(source, config.data)
    directory = discarded(path) if dry_run else staged(path, overwrite)
    with writing(path), directory as building, make_engine(spill_dir(building)) as engine:
        bad_rows = building / BAD_ROWS_FILE
        loaded = engine.load(source, unit, config, bad_rows, progress)
        loaded.check(str(described.get("inputs", source)), config.data.max_bad_fraction)
        num_shards = config.data.num_shards or default_num_shards(loaded.events)
        raise_if_stopped()
        prepared = engine.prepare(config, num_shards, progress)
        if choose_config is not None:
            chosen = choose_config(LogSize(prepared.users, len(prepared.item_ids), prepared.events))
            config = RecordsConfig(data=chosen.data, masking=chosen.masking)
        times = (format_time(prepared.first_time, unit), format_time(prepared.last_time, unit))
        share = evaluated_share(config.data, prepared.users)
        counts_of = functools.partial(
            count_shard, config=config, num_items=len(prepared.item_ids), evaluated_share=share
        )
        counted = engine.sum_shards(counts_of)
        raise_if_stopped()
        _check_counts(counted, config, prepared, unit)
        vocabulary, ids = _number_items(prepared.item_ids, counted.training_events, titles)
        features = _Features.of(item_features, vocabulary)
        manifest = Manifest(
            config=config,
            source=described,
            counts=_counts(loaded, prepared, counted, config.data) | features.counts,
            length_histogram=(),
            vocabulary_sha256=vocabulary.sha256(),
            splits=dict.fromkeys(SPLITS, ()),
            item_features_sha256=features.sha256,
        )
        result = BuildResult(
            manifest,
            not dry_run,
            counted.instances,
            loaded.first_bad,
            times if unit else None,
            unit,
            features.items_in_no_event,
        )
        if dry_run:
            return result
        (building / VOCABULARY_FILE).write_bytes(vocabulary.to_bytes())
        if features.content is not None:
            (building / ITEM_FEATURES_FILE).write_bytes(features.content)
        builder = ShardBuilder(str(building), config, num_shards, ids, vocabulary.counts, share)
        with progress.stage("writing", prepared.events) as bar:
            built = _write_shards(engine, builder, bar)
        for leftover in building.glob("*/.*.tmp"):  # tasks that were killed and repeated leave these
            leftover.unlink()
        manifest = dataclasses.replace(
            manifest,
            counts=manifest.counts | _few_negatives(built),
            bad_rows_sha256=file_sha256(bad_rows) if loaded.bad else None,
            length_histogram=merge_histograms(built),
            splits={split: tuple(shard.files[split] for shard in built) for split in SPLITS},
        )
        write_manifest(building, manifest)
    return dataclasses.replace(result, manifest=manifest)


def _build_in_store(
    url: str,
    build: Callable[[str, bool], BuildResult],
    holds: Callable[[Manifest], bool],
    overwrite: bool,
    dry_run: bool,
) -> BuildResult:
    """Builds on this machine and uploads, see `tfrecords.record_store`.

    Records whose upload failed stay on this machine: the next call uploads what is missing.

    Args:
        url: of the data directory.
        build: builds in a directory; its second argument is `overwrite`.
        holds: whether a manifest is that of these records.
        overwrite: as for `build_records`.
        dry_run: as for `build_records`.
    """
    store = Store.open(url)
    local = stand_in("output", store.url)
    with showing(store.url, local):
        if dry_run:
            return build(str(local), True)
        published = read_manifest(store)
        if published is not None and not overwrite and holds(published):
            check_complete(store, published)
            return BuildResult(published, False, published.instances())
        check_free(store, overwrite)
        with waiting_for(local.with_name(f".{local.name}.upload")):
            waiting = not overwrite and (local / MANIFEST_FILE).is_file() and holds(Manifest.load(local))
            built = build(str(local), not waiting)
            publish(local, store)
            shutil.rmtree(local, ignore_errors=True)
    return dataclasses.replace(built, written=True)


def _expected(
    there: Manifest | None, config: RecordsConfig, choose_config: Callable[[LogSize], RecordsConfig] | None
) -> RecordsConfig:
    """The configuration that finished records with this manifest would have."""
    if choose_config is None or there is None:
        return config
    chosen = choose_config(LogSize.of_counts(there.counts))
    return RecordsConfig(data=chosen.data, masking=chosen.masking)


@dataclasses.dataclass(frozen=True)
class _Features:
    """The item features of a data directory; all empty if there are none."""

    content: bytes | None = None
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    items_in_no_event: tuple[str, ...] = ()

    @classmethod
    def of(cls, table: FeatureTable | None, vocabulary: Vocabulary) -> "_Features":
        if table is None:
            return cls()
        features = table.features_of(vocabulary.item_ids)
        outside = table.items_outside(vocabulary.item_ids)
        counts = {
            "items_with_features": int(features.has_value().sum()),
            "feature_rows_in_no_event": len(outside),
        }
        named = tuple(f"{table.item_ids[row]!r} ({table.places[row]})" for row in outside[:_ITEMS_NAMED])
        return cls(features.to_bytes(), counts, named)

    @property
    def sha256(self) -> str | None:
        return None if self.content is None else hashlib.sha256(self.content).hexdigest()


def _write_shards(engine: Engine, builder: ShardBuilder, bar: "tqdm[None]") -> list[BuiltShard]:
    """Writes the records of every shard, in order."""
    built = []
    for shard in engine.map_shards(builder.build):
        raise_if_stopped()
        built.append(shard)
        bar.update(shard.events)
    return built


def _unit(source: Source, config: DataConfig) -> str:
    """The unit of the source's numeric timestamps."""
    if isinstance(source, LogSource):
        return timestamp_unit(source, config)
    if source.timestamp_unit != "auto":
        return source.timestamp_unit
    first = next(source.batches())["timestamp"].slice(0, 100)
    return infer_unit({source.description()["format"]: [str(time) for time in first.to_pylist()]})


def _counts(loaded: LoadCounts, prepared: PreparedLog, counted: ShardCounts, data: DataConfig) -> dict[str, int]:
    """The manifest's counts. `rows_read` is the sum of those in `DROPPED` and of `events`."""
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
    """The manifest's counts of users who are left out of the ranking among negatives."""
    names = {"validation": "validated_users_with_few_negatives", "test": "evaluated_users_with_few_negatives"}
    return {name: sum(shard.few_negatives[split] for shard in built) for split, name in names.items()}


def _check_counts(counted: ShardCounts, config: RecordsConfig, prepared: PreparedLog, unit: str) -> None:
    split_time = format_time(config.data.split_time or 0.0, unit)
    since = format_time(config.data.train_since or 0.0, unit)
    first, last = format_time(prepared.first_time, unit), format_time(prepared.last_time, unit)
    log = f"the log's events run from {first} to {last}"
    if config.data.evaluation_users is not None and not (counted.evaluated_users and counted.validated_users):
        raise InputError(
            "data.evaluation_users must leave users to validate and to test. Received: "
            f"{config.data.evaluation_users}, which leaves {counted.validated_users:,} to validate and "
            f"{counted.evaluated_users:,} to test, of {prepared.users:,} users. Fix: set a larger number"
        )
    if config.data.validation_share < 1 and counted.evaluated_users and not counted.validated_users:
        raise InputError(
            "data.validation_share must leave a user to validate. Received: "
            f"{config.data.validation_share}, which leaves none of the {counted.evaluated_users:,} tested users. "
            "Fix: set a larger share"
        )
    if config.data.split == "temporal":
        if not (counted.training_events.any() and counted.validated_users and counted.evaluated_users):
            raise InputError(
                "--split_time must have two events of one user before it, and events at or after it. "
                f"Received: {split_time}, which leaves {int(counted.training_events.sum()):,} events "
                f"to train on, {counted.validated_users:,} users to validate, {counted.evaluated_users:,} to test. "
                f"Fix: name a time within the log, in seconds or as a date: {log}"
            )
    elif not counted.evaluated_users and config.data.evaluation_users is None:
        raise InputError(
            f"Leave-one-out needs a user with at least {MIN_EVALUATED_EVENTS} events. Received: a log that has "
            "none after the filters. Fix: use a longer log, or lower --min_item_events or --min_rating"
        )
    if not counted.instances:
        raise InputError(
            "--train_since must leave a window to train on: one that has an event at or after that time. Received: "
            f"{since}, which leaves none of {counted.old_windows:,}. Fix: name an earlier time, in seconds or as a "
            f"date: {log}; events that are held out for validation and test are in no window"
        )
    if config.data.train_since is not None and config.data.train_since <= prepared.first_time:
        raise InputError(
            f"--train_since must leave old events out. Received: {since}, and no event is "
            f"earlier. Fix: omit the flag, or name a later time, in seconds or as a date: {log}"
        )


def _number_items(raw_ids: list[str], counts: np.ndarray, titles: dict[str, str]) -> tuple[Vocabulary, np.ndarray]:
    """The vocabulary (by falling count, then by item id), and the integer id of each index of `raw_ids`."""
    order = np.argsort(-counts, kind="stable")  # `raw_ids` are sorted, so ties stay in the order of the ids
    ids = np.empty(len(raw_ids), np.int32)
    ids[order] = np.arange(NUM_SPECIAL_IDS, len(raw_ids) + NUM_SPECIAL_IDS)
    item_ids = tuple(raw_ids[index] for index in order)
    return Vocabulary(item_ids, counts[order], tuple(titles.get(item_id) for item_id in item_ids)), ids
