"""The histories of the users of one part of the output."""

import dataclasses
import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from pipelines.engines.base import ShardSequences
from tfrecords.manifest import Manifest
from tfrecords.ragged import Ragged
from tfrecords.schema import EVALUATION_USER, parse_batch
from tfrecords.vocabulary import NUM_SPECIAL_IDS

_RECORDS_AT_ONCE = 1024


@dataclasses.dataclass(frozen=True)
class Histories:
    """Users and what they did, oldest first.

    Attributes:
        part: the number of the part.
        user_ids: raw ids.
        items: of each user, as indices into a list of raw item ids.
        times: int64 [events], in seconds since 1970; negative if unknown.
        also_met: items of each user that are not in the history, but count as seen.
    """

    part: int
    user_ids: list[str]
    items: Ragged
    times: np.ndarray
    also_met: Ragged

    @classmethod
    def of_shard(cls, shard: ShardSequences) -> "Histories":
        """The users of a log's shard; items are indices into `PreparedLog.item_ids`."""
        return cls(shard.shard, shard.user_ids, shard.sequences, shard.times, shard.also_met)

    def of_users(self, user_ids: set[str]) -> "Histories":
        """These users alone; those of them who have no event come last, with empty histories."""
        kept = np.array([row for row, user_id in enumerate(self.user_ids) if user_id in user_ids], np.int64)
        without_events = sorted(user_ids - {self.user_ids[row] for row in kept})
        items, met = self.items.rows(kept), self.also_met.rows(kept)
        times = Ragged(self.times, self.items.offsets).rows(kept).values
        nothing = np.zeros(len(without_events), np.int64)
        return Histories(
            self.part,
            [*(self.user_ids[row] for row in kept), *without_events],
            Ragged.from_lengths(items.values, np.concatenate([items.lengths, nothing])),
            times,
            Ragged.from_lengths(met.values, np.concatenate([met.lengths, nothing])),
        )


def read_tested_users(data_dir: str | pathlib.Path, manifest: Manifest) -> Iterator[Histories]:
    """The whole histories of the users to test, the target included, a part for each file.

    Items are indices into the vocabulary's items.
    """
    for part, shard in enumerate(manifest.shards("test")):
        users: list[str] = []
        items, lengths, times = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        files = [str(pathlib.Path(data_dir) / shard.file)] if shard.records else []
        records = tf.data.TFRecordDataset(files).batch(_RECORDS_AT_ONCE).map(_whole_histories)
        for batch in records.prefetch(1):
            users += [user_id.decode("utf-8") for user_id in batch["user_id"].numpy()]
            items.append(batch["item_ids"].values.numpy() - NUM_SPECIAL_IDS)
            lengths.append(batch["item_ids"].row_lengths().numpy())
            times.append(batch["times"].values.numpy())
        flat = np.concatenate(items)
        known_times = np.concatenate(times) if manifest.has_times else np.full(len(flat), -1, np.int64)
        nothing = Ragged.from_lengths(flat[:0], np.zeros(len(users), np.int64))
        yield Histories(part, users, Ragged.from_lengths(flat, np.concatenate(lengths)), known_times, nothing)


@tf.autograph.experimental.do_not_convert
def _whole_histories(records: tf.Tensor) -> dict[str, tf.Tensor | tf.RaggedTensor]:
    users = parse_batch(EVALUATION_USER, records)
    items = tf.concat([users["item_ids"], users["target_item_id"][:, None]], axis=1)
    return {"user_id": users["user_id"], "item_ids": items, "times": users["times"]}
