"""Runs the stages over a log: DuckDB sorts and counts, worker processes mask and write, the manifest comes last."""

import contextlib
import hashlib
import json
import multiprocessing
import pathlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor

import duckdb
import numpy as np

from bert4rec_tf.config import MOST_SHARDS, Config
from bert4rec_tf.errors import InputError
from bert4rec_tf.vocabulary import NUM_SPECIAL_IDS, VOCABULARY_FILE, Vocabulary
from pipelines.interactions import load_events
from pipelines.log_formats import LogSource
from pipelines.sequences import (
    ShardSequences,
    count,
    filter_sequences,
    order_sequences,
    read_item_ids,
    stream_shards,
)
from pipelines.shards import SPLITS, BuiltShard, ShardBuilder, merge_histograms
from pipelines.splits import MIN_EVALUATED_EVENTS, leave_one_out
from pipelines.staging import is_complete, staged, sweep, write_manifest
from pipelines.synthetic import MarkovLog
from pipelines.tfds_log import TfdsLog
from tfrecords.manifest import Manifest
from tfrecords.schema import Ragged

_LEAST_SHARDS = 8
_EVENTS_IN_A_SHARD = 1_000_000

Source = LogSource | MarkovLog | TfdsLog


def build_records(
    source: Source,
    titles: dict[str, str],
    config: Config,
    output_dir: str,
    *,
    num_workers: int = 1,
    memory_limit: str | None = None,
    overwrite: bool = False,
) -> tuple[Manifest, bool]:
    """Makes a data directory of a log. The same source, configuration and seed give the same bytes.

    Args:
        source: files, a published dataset, or the parameters of a synthetic log.
        titles: of items, by raw id.
        config: its sections `data` and `masking` are used.
        output_dir: where the records appear, whole.
        num_workers: processes that mask and write; 1 needs none beside this one.
        memory_limit: of the engine, e.g. "4GB"; past it, it spills into files beside `output_dir`.
        overwrite: replaces what `output_dir` holds.

    Returns:
        The manifest, and whether anything was built: the same call on a finished directory builds nothing.

    Raises:
        InputError: see `load_events`, `filter_sequences` and `staged`.
    """
    place = pathlib.Path(output_dir).resolve()
    config = Config(data=config.data, masking=config.masking)
    described = source.description()
    if titles:
        described["titles_sha256"] = hashlib.sha256(json.dumps(titles, sort_keys=True).encode()).hexdigest()
    if not overwrite and is_complete(place, config, described):
        sweep(place)
        return Manifest.load(place), False
    with _enough_memory(memory_limit), staged(place, overwrite) as building, duckdb.connect() as connection:
        _configure(connection, building, memory_limit)
        table = source if isinstance(source, LogSource) else source.interactions()
        counts = load_events(connection, table, config.data.min_rating)
        num_shards = config.data.num_shards or _enough_shards(count(connection, "events"))
        counts["duplicate_events_dropped"] = order_sequences(connection, config.data, num_shards)
        counts["rare_events_dropped"] = filter_sequences(connection, config.data)
        counts |= {"events": count(connection, "sequences"), "users": count(connection, "users")}
        raw_item_ids = read_item_ids(connection)

        def shards() -> Iterator[ShardSequences]:
            return stream_shards(connection, num_shards)

        training_counts, evaluated = _count_training_events(shards(), len(raw_item_ids))
        counts |= {
            "evaluated_users": evaluated,
            "items": len(raw_item_ids),
            "training_events": int(training_counts.sum()),
        }
        vocabulary, ids = _number_items(raw_item_ids, training_counts, titles)
        (building / VOCABULARY_FILE).write_bytes(vocabulary.to_bytes())
        builder = ShardBuilder(str(building), config, num_shards, vocabulary.counts)
        built = list(_build(builder, (_renumbered(shard, ids) for shard in shards()), num_workers))
        manifest = Manifest(
            config=config,
            source=described,
            counts=counts,
            length_histogram=merge_histograms(built),
            vocabulary_sha256=vocabulary.sha256(),
            splits={split: tuple(shard.files[split] for shard in built) for split in SPLITS},
        )
        write_manifest(building, manifest)
    return manifest, True


@contextlib.contextmanager
def _enough_memory(memory_limit: str | None) -> Iterator[None]:
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise InputError(
            f"--memory_limit must leave the engine room. Received: {memory_limit} ({str(error).splitlines()[0]})"
        ) from None


def _enough_shards(events: int) -> int:
    """So many that a worker, which holds one shard at a time, needs the same memory whatever the log."""
    return min(max(_LEAST_SHARDS, -(-events // _EVENTS_IN_A_SHARD)), MOST_SHARDS)


def _configure(connection: duckdb.DuckDBPyConnection, building: pathlib.Path, memory_limit: str | None) -> None:
    connection.execute("SET preserve_insertion_order = true")
    connection.execute("SET temp_directory = ?", [str(building.with_name(f"{building.name}.spill"))])
    if memory_limit:
        try:
            connection.execute("SET memory_limit = ?", [memory_limit])
        except duckdb.Error:
            raise InputError(f"--memory_limit must be a size such as 4GB. Received: {memory_limit!r}") from None


def _count_training_events(shards: Iterable[ShardSequences], num_items: int) -> tuple[np.ndarray, int]:
    """Training events of each item, and how many users are evaluated."""
    counts, evaluated = np.zeros(num_items, np.int64), 0
    for shard in shards:
        counts += np.bincount(leave_one_out(shard.sequences).training.values, minlength=num_items)
        evaluated += int(np.sum(shard.sequences.lengths >= MIN_EVALUATED_EVENTS))
    if evaluated == 0:
        raise InputError(
            f"Leave-one-out needs a user with at least {MIN_EVALUATED_EVENTS} events. Received: a log without "
            "one, after the filters. Fix: bring a longer log, or lower --min_item_events or --min_rating"
        )
    return counts, evaluated


def _number_items(raw_ids: list[str], counts: np.ndarray, titles: dict[str, str]) -> tuple[Vocabulary, np.ndarray]:
    """The vocabulary, by falling count and then by id, and the integer id of each item index."""
    order = np.argsort(-counts, kind="stable")  # `raw_ids` are sorted, so ties stay in the order of the ids
    ids = np.empty(len(raw_ids), np.int32)
    ids[order] = np.arange(NUM_SPECIAL_IDS, len(raw_ids) + NUM_SPECIAL_IDS)
    item_ids = tuple(raw_ids[index] for index in order)
    return Vocabulary(item_ids, counts[order], tuple(titles.get(item_id) for item_id in item_ids)), ids


def _renumbered(shard: ShardSequences, ids: np.ndarray) -> ShardSequences:
    sequences = Ragged(ids[shard.sequences.values], shard.sequences.offsets)
    return ShardSequences(shard.shard, shard.user_ids, shard.user_keys, sequences)


def _build(builder: ShardBuilder, shards: Iterator[ShardSequences], num_workers: int) -> Iterator[BuiltShard]:
    """Builds the shards, in their order, a few at a time."""
    if num_workers == 1:
        yield from map(builder.build, shards)
        return
    # Not fork: the engine's threads would be copied in an unknown state.
    with ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("forkserver")) as pool:
        running: deque[Future[BuiltShard]] = deque()
        for shard in shards:
            running.append(pool.submit(builder.build, shard))
            if len(running) > num_workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
