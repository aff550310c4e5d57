"""What an engine is given and gives: a log in, shards of user sequences out."""

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
from tfrecords.config import DataConfig, RecordsConfig
from tfrecords.errors import InputError
from tfrecords.ragged import Ragged

Source = LogSource | MarkovLog | TfdsLog
T = TypeVar("T")


MAX_TIME = 1e29  # all that DECIMAL(38, 9) holds; no event comes later


@dataclasses.dataclass(frozen=True)
class ShardSequences:
    """The users of one shard.

    Attributes:
        shard: its number.
        user_ids: raw ids.
        user_keys: uint64 [users], hashes of the ids that do not depend on machine or engine.
        sequences: for each item of each user, oldest first, its place in the list of all item ids.
        early_events: int64 [users], how many of them came before `data.split_time`.
        old_events: int64 [users], how many of them came before `data.train_since`; 0 without it.
        also_met: the items of each user's dropped events, places in the same list; some may be in `sequences` too.
    """

    shard: int
    user_ids: list[str]
    user_keys: np.ndarray
    sequences: Ragged
    early_events: np.ndarray
    old_events: np.ndarray
    also_met: Ragged


@dataclasses.dataclass(frozen=True)
class PreparedLog:
    """What is left of the events, in order.

    Attributes:
        item_ids: raw ids, sorted by code point.
        users, events: how many.
        duplicates_dropped, rare_dropped: events that are gone.
        first_time, last_time: of the events.
    """

    item_ids: list[str]
    users: int
    events: int
    duplicates_dropped: int
    rare_dropped: int
    first_time: Decimal
    last_time: Decimal


def nothing_left(config: DataConfig, events: int) -> InputError:
    """The error for a log of which the filters leave nothing."""
    return InputError(
        f"A log must hold users with at least {config.min_user_events} events over items with at least "
        f"{config.min_item_events}. Received: {events} events that are no duplicates, none of them by such a user. "
        "Fix: lower --min_user_events, --min_item_events or --min_rating, or bring a longer log"
    )


def sql_before(moment: float | None) -> str:
    """SQL of whether an event's time is before a moment, compared exactly, to nine decimals; before None is nothing."""
    if moment is None:
        return "false"
    moment = max(-MAX_TIME, min(moment, MAX_TIME))
    return f"time < CAST('{moment:.9f}' AS DECIMAL(38, 9))"


class Engine(Protocol):
    """What reads, sorts and counts: DuckDB in this process, or Spark."""

    def load(
        self, source: Source, unit: str, config: RecordsConfig, bad_rows: pathlib.Path, progress: Progress
    ) -> LoadCounts:
        """Reads the log, its timestamps in `unit`.

        Rows that cannot be read go to the file `bad_rows`, in the order of the log.
        """

    def prepare(self, config: RecordsConfig, num_shards: int, progress: Progress) -> PreparedLog:
        """Drops duplicates and rare users and items, and orders what is left into sequences."""

    def map_shards(self, function: Callable[[ShardSequences], T]) -> Iterator[T]:
        """Calls a function, anywhere, with each of the shards, and gives its results in their order.

        Item ids are places in `PreparedLog.item_ids`.
        """


EngineMaker = Callable[[pathlib.Path], contextlib.AbstractContextManager[Engine]]
