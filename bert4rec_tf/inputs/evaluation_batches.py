"""Batches of evaluated users."""

import pathlib

import tensorflow as tf

from tfrecords.manifest import Manifest
from tfrecords.schema import EVALUATION_USER, parse_batch

_MAX_FULL_BATCH_LENGTH = 1 << 13  # longer histories are evaluated in smaller batches
_RECORDS_AT_ONCE = 256  # are parsed together
_HISTORY = tuple(feature for feature in EVALUATION_USER if feature.name == "item_ids")
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


@tf.autograph.experimental.do_not_convert  # there is nothing to convert, and to look for it takes a second
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
    boundaries = [round(2 ** (step / 2)) for step in range(4, 61)]
    # At most the slots of a full batch of histories of `_MAX_FULL_BATCH_LENGTH` items.
    sizes = [min(batch_size, max(1, batch_size * _MAX_FULL_BATCH_LENGTH // boundary)) for boundary in boundaries]
    batch_sizes = tf.constant([*sizes, 1], tf.int64)

    def with_bucket(records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        lengths = parse_batch(_HISTORY, records)["item_ids"].row_lengths()
        return tf.searchsorted(tf.constant(boundaries, tf.int64), lengths, "right", tf.int64), records

    files = [str(pathlib.Path(data_dir) / shard.file) for shard in manifest.shards(split) if shard.records]
    records = tf.data.TFRecordDataset(files)
    if max_users is not None:
        records = records.take(max_users)
    # Parsed in blocks, once for the lengths and once in their batch: one by one takes 7 times as long.
    batches = (
        records.batch(_RECORDS_AT_ONCE)
        .map(with_bucket)
        .unbatch()
        .group_by_window(
            lambda bucket, _: bucket,
            lambda bucket, users: users.batch(batch_sizes[bucket]),
            window_size_func=lambda bucket: batch_sizes[bucket],
        )
    )
    return batches.map(lambda _, users: _read_users(users, manifest.has_times, max_items)).prefetch(2)


def _read_users(records: tf.Tensor, has_times: bool, max_items: int | None) -> dict[str, tf.Tensor]:
    """The batch of `records`, string [B]."""
    users = parse_batch(EVALUATION_USER, records)
    histories = users["item_ids"]
    times = users["times"]
    if has_times:
        since_first = times - tf.expand_dims(times[:, :1].values, 1)
        history_times, target_times = since_first[:, :-1], since_first[:, -1:].values
    else:
        history_times = histories.with_values(tf.fill(tf.shape(histories.values), tf.constant(-1, tf.int64)))
        target_times = tf.fill(tf.shape(records), tf.constant(-1, tf.int64))
    newest = slice(None if max_items is None else -max_items, None)
    columns = users | {
        "item_ids": histories[:, newest],
        "times": history_times[:, newest],
        "target_time": target_times,
        "seen_item_ids": _distinct(histories),
        "history_length": tf.cast(histories.row_lengths(), tf.int32),
    }
    return {
        name: column.to_tensor() if isinstance(column, tf.RaggedTensor) else column for name, column in columns.items()
    }


def _distinct(rows: tf.RaggedTensor) -> tf.RaggedTensor:
    """Each id of a row once, in the order of their first places; int32 [B, any length]."""
    base = tf.constant(1 << 32, tf.int64)
    keys = tf.unique(rows.value_rowids() * base + tf.cast(rows.values, tf.int64)).y
    return tf.RaggedTensor.from_value_rowids(tf.cast(keys % base, tf.int32), keys // base, rows.nrows(), validate=False)
