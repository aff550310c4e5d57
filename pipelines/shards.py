"""One shard of users into its files: split, mask, encode, write. The unit of work that runs in a worker process."""

import dataclasses
from collections import Counter

import numpy as np

from bert4rec_tf.config import Config
from bert4rec_tf.vocabulary import NUM_SPECIAL_IDS
from pipelines.masking import cut_windows, mask_windows
from pipelines.negatives import draw_negatives
from pipelines.sequences import ShardSequences
from pipelines.splits import Targets, leave_one_out
from tfrecords.manifest import LengthCount
from tfrecords.schema import EVALUATION_USER, MASKED_INSTANCE, Column, encode
from tfrecords.writer import Shard, shard_name, write_shard

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class ShardBuilder:
    """What every shard is built with.

    Attributes:
        data_dir: where the files go.
        config: of the pipeline.
        num_shards: of each split.
        counts: int64 [V - 3], training events of each item.
    """

    data_dir: str
    config: Config
    num_shards: int
    counts: np.ndarray

    def build(self, users: ShardSequences) -> "BuiltShard":
        """Writes the shard's three files. Item ids of `users` are those of the vocabulary."""
        split = leave_one_out(users.sequences)
        data, vocabulary_size = self.config.data, len(self.counts) + NUM_SPECIAL_IDS
        windows = cut_windows(split.training, data.max_seq_length, data.sliding_window)
        records: list[bytes] = []
        keys = []
        histogram: Counter[int] = Counter()
        most_masked: Counter[int] = Counter()
        for chunk in mask_windows(windows, users.user_keys, self.config.masking, vocabulary_size, data.seed):
            records += encode(
                MASKED_INSTANCE,
                {
                    "item_ids": chunk.item_ids,
                    "masked_item_ids": chunk.masked_item_ids,
                    "masked_positions": chunk.masked_positions,
                },
            )
            keys.append(chunk.keys)
            for length, masked in zip(
                chunk.item_ids.lengths.tolist(), chunk.masked_positions.lengths.tolist(), strict=True
            ):
                histogram[length] += 1
                most_masked[length] = max(most_masked[length], masked)
        order = np.argsort(np.concatenate(keys), kind="stable").tolist() if keys else []
        return BuiltShard(
            files={
                "train": self._write("train", users.shard, [records[place] for place in order]),
                "validation": self._write_targets("validation", users, split.validation, data.seed),
                "test": self._write_targets("test", users, split.test, data.seed + 1),
            },
            histogram=[LengthCount(length, number, most_masked[length]) for length, number in histogram.items()],
        )

    def _write_targets(self, name: str, users: ShardSequences, targets: Targets, seed: int) -> Shard:
        negatives = draw_negatives(
            users.sequences, users.user_keys, self.counts, self.config.data.num_negatives, seed
        ).rows(targets.users)
        columns: dict[str, Column] = {
            "item_ids": targets.histories,
            "negative_item_ids": negatives,
            "target_item_id": targets.item_ids,
            "user_id": [users.user_ids[user] for user in targets.users],
        }
        return self._write(name, users.shard, encode(EVALUATION_USER, columns))

    def _write(self, split: str, shard: int, records: list[bytes]) -> Shard:
        return write_shard(self.data_dir, shard_name(split, shard, self.num_shards), records)


@dataclasses.dataclass(frozen=True)
class BuiltShard:
    """What one shard came to: its file in each split, and the lengths of its training records."""

    files: dict[str, Shard]
    histogram: list[LengthCount]


def merge_histograms(shards: list[BuiltShard]) -> tuple[LengthCount, ...]:
    """The lengths of all training records, rising."""
    merged: dict[int, LengthCount] = {}
    for row in (row for shard in shards for row in shard.histogram):
        old = merged.get(row.length, LengthCount(row.length, 0, 0))
        merged[row.length] = LengthCount(
            row.length, old.records + row.records, max(old.max_predictions, row.max_predictions)
        )
    return tuple(merged[length] for length in sorted(merged))
