"""The interface of an engine, which turns a log into shards of user sequences."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Protocol, TypeVar

import numpy as np

from pipelines.progress import Progress
from pipelines.sources.load_events import LoadCounts
from pipelines.sources.log_source import LogSource
from pipelines.sources.synthetic import MarkovLog
from pipelines.sources.tfds_log import TfdsLog
from tfrecords.config import MAX_SHARDS, DataConfig, RecordsConfig
from tfrecords.errors import InputError
from tfrecords.ragged import Ragged

Source = LogSource | MarkovLog | TfdsLog
T = TypeVar("T")
_MIN_SHARDS = 8
_EVENTS_PER_SHARD = 1_000_000
MAX_TIME = 1e29  # the range of DECIMAL(38, 9); no event is later
# SQL for the time of an event in seconds. Times so large that they are no seconds are cut off.
_LARGEST_SECONDS = "CAST('9000000000000000' AS DECIMAL(38, 9))"
SQL_SECONDS = f"CAST(floor(greatest(least(time, {_LARGEST_SECONDS}), -{_LARGEST_SECONDS})) AS BIGINT)"


@dataclasses.dataclass(frozen=True)
class ShardSequences:
    """The user sequences of one shard.

    Attributes:
        shard: its number.
        user_ids: raw ids.
        user_keys: uint64 [users], hashes of the user ids that do not depend on machine or engine.
        sequences: the items of each user, oldest first, as indices into the list of all item ids.
        times: int64 [events], the time of each event of `sequences` in seconds, rounded down; see `SQL_SECONDS`.
        early_events: int64 [users], number of events before `data.split_time`.
        old_events: int64 [users], number of events before `data.train_since`; 0 if it is not set.
        also_met: the items of each user's dropped low-rated events, as indices into the same list; an item may be in
            `sequences` too.
    """

    shard: int
    user_ids: list[str]
    user_keys: np.ndarray
    sequences: Ragged
    times: np.ndarray
    early_events: np.ndarray
    old_events: np.ndarray
    also_met: Ragged


@dataclasses.dataclass(frozen=True)
class PreparedLog:
    """The events that remain, in order.

    Attributes:
        item_ids: raw ids, sorted by code point.
        users, events: their numbers.
        duplicates_dropped, rare_dropped: numbers of dropped events.
        first_time, last_time: times of the first and the last event.
    """

    item_ids: list[str]
    users: int
    events: int
    duplicates_dropped: int
    rare_dropped: int
    first_time: Decimal
    last_time: Decimal


def default_num_shards(events: int) -> int:
    """Grows with the log: a worker holds one shard at a time, and its memory then does not depend on the log's size."""
    return min(max(_MIN_SHARDS, -(-events // _EVENTS_PER_SHARD)), MAX_SHARDS)


def nothing_left(config: DataConfig, events: int) -> InputError:
    """The error for a log from which the filters drop all events."""
    return InputError(
        f"A log must hold users with at least {config.min_user_events} events over items with at least "
        f"{config.min_item_events}. Received: {events} events that are no duplicates, none of them by such a user. "
        "Fix: lower --min_user_events, --min_item_events or --min_rating, or use a longer log"
    )


def sql_before(time: float | None) -> str:
    """SQL for whether an event is earlier than a time, compared exactly to nine decimals; false for None."""
    if time is None:
        return "false"
    time = max(-MAX_TIME, min(time, MAX_TIME))
    return f"time < CAST('{time:.9f}' AS DECIMAL(38, 9))"


class Engine(Protocol):
    """Reads, sorts and counts: DuckDB in this process, or Spark."""

    def load(
        self, source: Source, unit: str, config: RecordsConfig, bad_rows: pathlib.Path, progress: Progress
    ) -> LoadCounts:
        """Reads the log, its timestamps in `unit`.

        Rows that cannot be read go to the file `bad_rows`, in the order of the log.
        """

    def prepare(self, config: RecordsConfig, num_shards: int, progress: Progress) -> PreparedLog:
        """Drops duplicates and rare users and items, and orders the remaining events into sequences."""

    def map_shards(self, function: Callable[[ShardSequences], T]) -> Iterator[T]:
        """Calls a function with each shard, possibly in another process, and yields its results in shard order.

        Items are indices into `PreparedLog.item_ids`.
        """

    def sum_shards(self, function: Callable[[ShardSequences], T]) -> T:
        """Calls a function with each shard, as `map_shards` does, and adds up its results.

        The results have `+`, and their sum does not depend on the order.
        """


EngineMaker = Callable[[pathlib.Path], contextlib.AbstractContextManager[Engine]]
