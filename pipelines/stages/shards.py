"""Counts and writes one shard of users: the two units of work that an engine runs in its workers."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from pipelines.engines.base import ShardSequences
from pipelines.stages.masking import mask_windows
from pipelines.stages.negatives import Popularity, draw_negatives
from pipelines.stages.shuffle import ShuffledRecords
from pipelines.stages.splits import Split, Targets, split_sequences
from pipelines.stages.windows import cut_windows
from tfrecords.config import RecordsConfig
from tfrecords.manifest import LengthCount
from tfrecords.ragged import Ragged, joined
from tfrecords.schema import EVALUATION_USER, MASKED_WINDOW, Column, encode
from tfrecords.vocabulary import NUM_SPECIAL_IDS
from tfrecords.writer import Shard, shard_name, write_shard

SPLITS = ("train", "validation", "test")
_USERS_AT_ONCE = 1024  # users whose negatives are drawn together


@dataclasses.dataclass(frozen=True)
class ShardCounts:
    """The counts of one or several shards.

    Attributes:
        training_events: int64 [items], by index in the list of all item ids, including the events of old windows.
        instances: number of masked training instances; a record holds several.
        old_windows: windows that are not trained on, because all their events are earlier than `data.train_since`.
        validated_users, evaluated_users: numbers of records of validation and test.
        unseen_users: evaluated users without a training event.
        longest_history: number of events of the user with the most events.
    """

    training_events: np.ndarray
    instances: int = 0
    old_windows: int = 0
    validated_users: int = 0
    evaluated_users: int = 0
    unseen_users: int = 0
    longest_history: int = 0

    def __add__(self, other: "ShardCounts") -> "ShardCounts":
        return ShardCounts(
            self.training_events + other.training_events,
            self.instances + other.instances,
            self.old_windows + other.old_windows,
            self.validated_users + other.validated_users,
            self.evaluated_users + other.evaluated_users,
            self.unseen_users + other.unseen_users,
            max(self.longest_history, other.longest_history),
        )


def count_shard(users: ShardSequences, config: RecordsConfig, num_items: int, evaluated_share: float) -> ShardCounts:
    """Splits a shard's sequences and counts, but masks and writes nothing."""
    split = split_sequences(users.sequences, users.early_events, users.user_keys, config.data, evaluated_share)
    windows = cut_windows(split.training, config.data.max_seq_length, config.data.sliding_window)
    trained_on = windows.reaching(users.old_events)
    return ShardCounts(
        np.bincount(split.training.values, minlength=num_items),
        len(trained_on) * config.masking.instances_per_window,
        len(windows) - len(trained_on),
        len(split.validation.users),
        len(split.test.users),
        int(np.sum(split.training.lengths[split.test.users] == 0)),
        int(users.sequences.lengths.max(initial=0)),
    )


@dataclasses.dataclass(frozen=True)
class ShardBuilder:
    """Builds shards; what all of them share.

    Attributes:
        data_dir: the directory for the files.
        config: of the pipeline.
        num_shards: number of shards per split.
        ids: int32 [V - 3], the integer id of each index in the list of all item ids.
        counts: int64 [V - 3], training events of each item, in the order of the integer ids.
        evaluated_share: of the users, see `pipelines.stages.splits.evaluated_share`.
    """

    data_dir: str
    config: RecordsConfig
    num_shards: int
    ids: np.ndarray
    counts: np.ndarray
    evaluated_share: float

    def build(self, users: ShardSequences) -> "BuiltShard":
        """Writes the shard's three files."""
        items = self.ids[users.sequences.values]
        events = Ragged(np.arange(len(items)), users.sequences.offsets)
        split = split_sequences(events, users.early_events, users.user_keys, self.config.data, self.evaluated_share)
        met = joined(Ragged(items, events.offsets), Ragged(self.ids[users.also_met.values], users.also_met.offsets))
        records, histogram = self._mask(split, items, users)
        files, few_negatives = {"train": self._write("train", users.shard, records)}, {}
        for name, targets in (("validation", split.validation), ("test", split.test)):
            files[name], few_negatives[name] = self._write_targets(name, users, items, met, split, targets)
        return BuiltShard(files, histogram, len(items), few_negatives)

    def _mask(
        self, split: Split, items: np.ndarray, users: ShardSequences
    ) -> tuple[ShuffledRecords, list[LengthCount]]:
        """Masks the windows of the training events; `items`: int32 [events], as integer ids."""
        data, vocabulary_size = self.config.data, len(self.counts) + NUM_SPECIAL_IDS
        training = Ragged(items[split.training.values], split.training.offsets)
        times = users.times[split.training.values]
        windows = cut_windows(training, data.max_seq_length, data.sliding_window).reaching(users.old_events)
        records = ShuffledRecords(self.data_dir)
        histogram: Counter[int] = Counter()
        max_masked: Counter[int] = Counter()
        for chunk in mask_windows(windows, users.user_keys, self.config.masking, vocabulary_size, data.seed):
            number, copies = chunk.masked_counts.shape
            columns: dict[str, Column] = {
                "item_ids": chunk.item_ids,
                "masked_counts": Ragged.from_lengths(chunk.masked_counts.ravel(), np.full(number, copies)),
                "masked_positions": chunk.masked_positions,
                "shown_item_ids": chunk.shown_item_ids,
                "times": windows.slices(times, chunk.windows),
            }
            records.add(chunk.keys, encode(MASKED_WINDOW, columns))
            max_of_window = chunk.masked_counts.max(axis=1).tolist()
            for length, masked in zip(chunk.item_ids.lengths.tolist(), max_of_window, strict=True):
                histogram[length] += copies
                max_masked[length] = max(max_masked[length], masked)
        return records, [LengthCount(length, number, max_masked[length]) for length, number in histogram.items()]

    def _write_targets(
        self, name: str, users: ShardSequences, items: np.ndarray, met: Ragged, split: Split, targets: Targets
    ) -> tuple[Shard, int]:
        """Writes the evaluation users of a split; also returns how many have too few negatives."""
        data, few = self.config.data, 0
        popularity = Popularity(self.counts)

        def records() -> Iterator[bytes]:
            nonlocal few
            for first in range(0, len(targets.users), _USERS_AT_ONCE):
                some = targets.rows(first, first + _USERS_AT_ONCE)
                keys = users.user_keys[some.users]
                negatives = draw_negatives(met.rows(some.users), keys, popularity, data.num_negatives, data.seed, name)
                few += int(np.sum(negatives.lengths < data.num_negatives))
                histories, ends = some.histories, some.histories.offsets[1:]
                times = np.insert(users.times[histories.values], ends, users.times[some.targets])
                columns: dict[str, Column] = {
                    "item_ids": Ragged(items[histories.values], histories.offsets),
                    "negative_item_ids": negatives,
                    "target_item_id": items[some.targets],
                    "times": Ragged.from_lengths(times, histories.lengths + 1),
                    "trained_items": split.training.lengths[some.users],
                    "user_id": [users.user_ids[user] for user in some.users],
                }
                yield from encode(EVALUATION_USER, columns)

        shard = self._write(name, users.shard, records())
        return shard, few

    def _write(self, split: str, shard: int, records: Iterable[bytes]) -> Shard:
        return write_shard(self.data_dir, shard_name(split, shard, self.num_shards), records)


@dataclasses.dataclass(frozen=True)
class BuiltShard:
    """The result of one shard: its file in each split, and the lengths of its training instances.

    Attributes:
        files: by split.
        histogram: lengths of the training instances.
        events: number of its events.
        few_negatives: number of users with fewer than `data.num_negatives` negatives, by evaluation split.
    """

    files: dict[str, Shard]
    histogram: list[LengthCount]
    events: int
    few_negatives: dict[str, int]


def merge_histograms(shards: list[BuiltShard]) -> tuple[LengthCount, ...]:
    """The histogram of all training instances, by rising length."""
    merged: dict[int, LengthCount] = {}
    for row in (row for shard in shards for row in shard.histogram):
        old = merged.get(row.length, LengthCount(row.length, 0, 0))
        merged[row.length] = LengthCount(
            row.length, old.instances + row.instances, max(old.max_predictions, row.max_predictions)
        )
    return tuple(merged[length] for length in sorted(merged))
