"""From shards to batches: masked instances for training in a fixed small set of shapes, users for evaluation."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from bert4rec_tf.vocabulary import PAD_ID
from tfrecords.manifest import LengthCount, Manifest
from tfrecords.resample import draw_masks, hashed_bits, most_predictions, unmask
from tfrecords.schema import EVALUATION_USER, MASKED_INSTANCE, parse

_SHUFFLE_RECORDS = 20_000
_FILES_AT_ONCE = 8

# What `evaluation_batches` yields: batches of any size and length.
EVALUATION_BATCH = {
    "item_ids": tf.TensorSpec([None, None], tf.int32),
    "negative_item_ids": tf.TensorSpec([None, None], tf.int32),
    "target_item_id": tf.TensorSpec([None], tf.int32),
    "trained_items": tf.TensorSpec([None], tf.int32),
    "user_id": tf.TensorSpec([None], tf.string),
}


@dataclasses.dataclass(frozen=True)
class Bucket:
    """One batch shape: records up to `length` items are padded to it, their masked slots to `predictions`."""

    length: int
    predictions: int
    records: int


def choose_buckets(histogram: Sequence[LengthCount], number: int) -> list[Bucket]:
    """The at most `number` batch shapes that leave the least padding, by dynamic programming over the lengths."""
    lengths = np.array([row.length for row in histogram])
    records = np.concatenate([[0], np.cumsum([row.records for row in histogram])])
    # cost[i]: slots of the records up to the i-th length, with the buckets used so far; cut[i]: where the last starts.
    cost = np.concatenate([[0.0], np.full(len(lengths), np.inf)])
    cuts = []
    for _ in range(min(number, len(lengths))):
        # [i, j]: a last bucket that holds the lengths j to i - 1, all padded to the (i - 1)-th
        slots = np.concatenate([[0], lengths])[:, None] * (records[:, None] - records[None, :])
        total = np.where(np.tri(len(cost), k=0, dtype=bool), cost[None, :] + slots, np.inf)
        cuts.append(np.argmin(total, axis=1))
        cost = np.min(total, axis=1)
    buckets, end = [], len(lengths)
    for cut in reversed(cuts):
        start = int(cut[end])
        if start < end:
            rows = histogram[start:end]
            predictions = max(row.max_predictions for row in rows)
            buckets.append(Bucket(rows[-1].length, predictions, sum(row.records for row in rows)))
        end = start
    return buckets[::-1]


def steps_per_pass(buckets: Sequence[Bucket], batch_size: int) -> int:
    """Batches in one pass over the records: each bucket's last one is filled up with padding."""
    return sum(-(-bucket.records // batch_size) for bucket in buckets)


def training_batches(
    data_dir: str | pathlib.Path,
    manifest: Manifest,
    buckets: Sequence[Bucket],
    batch_size: int,
    seed: int,
    first_step: int = 0,
    vocabulary_size: int | None = None,
) -> tf.data.Dataset:
    """Batches without end; which records the n-th one holds is a function of the seed and n.

    Every pass has its own order (shards, then a shuffle buffer) and the same number of batches; batches have one of the
    shapes of `buckets`, filled up with empty rows at the end of a pass.

    Args:
        data_dir: of `manifest`.
        manifest: names the shards.
        buckets: from `choose_buckets`.
        batch_size: B.
        seed: of the order.
        first_step: batches to pass over, for a run that goes on.
        vocabulary_size: V, to mask every record anew in each pass, a function of the seed, the pass and the record;
            None: the masks of the records.

    Returns:
        Dicts of item_ids int32 [B, L], valid_mask bool [B, L], masked_positions and masked_item_ids int32 [B, P],
        masked_weights float32 [B, P].
    """
    files = [str(pathlib.Path(data_dir) / shard.file) for shard in manifest.splits["train"] if shard.records]
    steps = steps_per_pass(buckets, batch_size)
    lengths = tf.constant([bucket.length for bucket in buckets], tf.int64)
    predictions = tf.constant([bucket.predictions for bucket in buckets], tf.int64)
    masking = manifest.config.masking
    most_drawn = tf.constant([most_predictions(bucket.length, masking) for bucket in buckets])

    def one_pass(epoch: tf.Tensor) -> tf.data.Dataset:
        tf.compat.v1.set_random_seed(1)  # of this graph alone: shuffle() mixes the global one into its seed
        seeds = tf.random.stateless_uniform([2], [seed, tf.cast(epoch, tf.int32)], 0, tf.int32.max, tf.int32)
        order = tf.random.experimental.stateless_shuffle(tf.range(len(files)), seeds)
        records = tf.data.Dataset.from_tensor_slices(order).interleave(
            read_file, cycle_length=_FILES_AT_ONCE, num_parallel_calls=2, deterministic=True
        )
        records = records.shuffle(_SHUFFLE_RECORDS, tf.cast(seeds[0], tf.int64), reshuffle_each_iteration=False)
        records = records.map(
            lambda file, place, record: parse(MASKED_INSTANCE, record) | {"file": file, "place": place},
            num_parallel_calls=2,
        )
        batches = records.group_by_window(bucket_of, batch, window_size=batch_size)
        if vocabulary_size is None:
            return batches.map(without_places, num_parallel_calls=2)
        size = vocabulary_size
        return batches.map(lambda records: mask_anew(records, epoch, size), num_parallel_calls=2)

    def read_file(index: tf.Tensor) -> tf.data.Dataset:
        """The records of a file, with what identifies each."""
        records = tf.data.TFRecordDataset(tf.gather(files, index)).enumerate()
        return records.map(lambda place, record: (index, place, record))

    def without_places(records: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {name: value for name, value in records.items() if name not in ("file", "place")}

    def mask_anew(records: dict[str, tf.Tensor], epoch: tf.Tensor, size: int) -> dict[str, tf.Tensor]:
        item_ids = unmask(**without_places(records))
        keys = hashed_bits(seed, epoch, records["file"], records["place"])
        bucket = tf.searchsorted(lengths, tf.shape(item_ids, tf.int64)[1:])[0]
        return draw_masks(item_ids, keys, masking, size, most_drawn[bucket])

    def bucket_of(record: dict[str, tf.Tensor]) -> tf.Tensor:
        return tf.searchsorted(lengths, tf.size(record["item_ids"], tf.int64)[None], out_type=tf.int64)[0]

    def batch(bucket: tf.Tensor, window: tf.data.Dataset) -> tf.data.Dataset:
        shapes = {
            "item_ids": lengths[bucket, None],
            "masked_item_ids": predictions[bucket, None],
            "masked_positions": predictions[bucket, None],
            "file": [],
            "place": [],
        }
        padding = dict.fromkeys(shapes, PAD_ID) | {"place": tf.constant(0, tf.int64)}
        return window.padded_batch(batch_size, shapes, padding_values=padding)

    def complete(records: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        missing = batch_size - tf.shape(records["item_ids"])[0]
        filled = {name: tf.pad(value, [[0, missing], [0, 0]]) for name, value in records.items()}
        for value in filled.values():
            value.set_shape([batch_size, None])
        return filled | {
            "valid_mask": filled["item_ids"] != PAD_ID,
            "masked_weights": tf.cast(filled["masked_item_ids"] != PAD_ID, tf.float32),
        }

    passes = tf.data.Dataset.range(first_step // steps, np.iinfo(np.int64).max)
    batches = passes.flat_map(one_pass).skip(first_step % steps).map(complete, num_parallel_calls=2)
    options = tf.data.Options()
    options.deterministic = True
    return batches.with_options(options).prefetch(4)


def evaluation_batches(
    data_dir: str | pathlib.Path, manifest: Manifest, split: str, batch_size: int, max_users: int | None = None
) -> tf.data.Dataset:
    """The users of "validation" or "test", in the order of the files, those of similar history length together.

    Returns:
        Dicts of item_ids int32 [B, L] padded with PAD_ID, target_item_id int32 [B], negative_item_ids int32 [B, M]
        padded with PAD_ID, trained_items int32 [B], user_id string [B].
    """
    files = [str(pathlib.Path(data_dir) / shard.file) for shard in manifest.splits[split] if shard.records]
    users = tf.data.TFRecordDataset(files).map(lambda record: parse(EVALUATION_USER, record), num_parallel_calls=2)
    if max_users is not None:
        users = users.take(max_users)
    batches = users.bucket_by_sequence_length(
        lambda user: tf.size(user["item_ids"]),
        bucket_boundaries=(boundaries := [2**power for power in range(4, 14)]),
        bucket_batch_sizes=[batch_size] * (len(boundaries) + 1),
    )
    return batches.prefetch(2)
