"""Batches of evaluated users."""

import pathlib

import tensorflow as tf

from tfrecords.manifest import Manifest
from tfrecords.schema import EVALUATION_USER, parse

_MAX_FULL_BATCH_LENGTH = 1 << 13  # longer histories are evaluated in smaller batches
# The element spec of `evaluation_batches`: batches of any size and length.
EVALUATION_BATCH = {
    "history_length": tf.TensorSpec([None], tf.int32),
    "item_ids": tf.TensorSpec([None, None], tf.int32),
    "negative_item_ids": tf.TensorSpec([None, None], tf.int32),
    "seen_item_ids": tf.TensorSpec([None, None], tf.int32),
    "target_item_id": tf.TensorSpec([None], tf.int32),
    "target_time": tf.TensorSpec([None], tf.int64),
    "times": tf.TensorSpec([None, None], tf.int64),
    "trained_items": tf.TensorSpec([None], tf.int32),
    "user_id": tf.TensorSpec([None], tf.string),
}


def evaluation_batches(
    data_dir: str | pathlib.Path,
    manifest: Manifest,
    split: str,
    batch_size: int,
    max_users: int | None = None,
    max_items: int | None = None,
) -> tf.data.Dataset:
    """The users of "validation" or "test" in the order of the files, grouped by similar history length.

    A batch has at most `batch_size` users. It has fewer if histories are longer than 8,192 items, so that it has no
    more slots than `batch_size` histories of that length. A history with more slots than that is a batch of its own.

    Args:
        data_dir: of `manifest`.
        manifest: names the shards.
        split: "validation" or "test".
        batch_size: the largest B.
        max_users: stop after this many users; None: all.
        max_items: keep only this many newest items of a history in `item_ids`; None: all. A model of N items needs
            N - 1.

    Returns:
        Dicts of item_ids int32 [B, L], the histories, and seen_item_ids int32 [B, S], each item of the whole history
        once, both padded with PAD_ID; history_length int32 [B], of the whole history; target_item_id int32 [B];
        times int64 [B, L] and target_time int64 [B], in seconds since the user's first event, -1 if the records have no
        times; negative_item_ids int32 [B, M] padded with PAD_ID; trained_items int32 [B]; user_id string [B].
    """

    def read_user(record: tf.Tensor) -> dict[str, tf.Tensor]:
        user = parse(EVALUATION_USER, record)
        history = user["item_ids"]
        if manifest.has_times:
            times = user["times"] - user["times"][0]
        else:
            times = tf.fill([tf.size(history) + 1], tf.constant(-1, tf.int64))
        newest = slice(None if max_items is None else -max_items, None)
        return user | {
            "item_ids": history[newest],
            "times": times[:-1][newest],
            "target_time": times[-1],
            "seen_item_ids": tf.unique(history).y,
            "history_length": tf.size(history),
        }

    files = [str(pathlib.Path(data_dir) / shard.file) for shard in manifest.shards(split) if shard.records]
    users = tf.data.TFRecordDataset(files).map(read_user, num_parallel_calls=2)
    if max_users is not None:
        users = users.take(max_users)
    boundaries = [round(2 ** (step / 2)) for step in range(4, 61)]
    batches = users.bucket_by_sequence_length(
        lambda user: user["history_length"],
        bucket_boundaries=boundaries,
        # At most the slots of a full batch of histories of `_MAX_FULL_BATCH_LENGTH` items.
        bucket_batch_sizes=[
            *(min(batch_size, max(1, batch_size * _MAX_FULL_BATCH_LENGTH // boundary)) for boundary in boundaries),
            1,
        ],
    )
    return batches.prefetch(2)
