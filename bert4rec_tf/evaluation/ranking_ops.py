"""Ranks of targets, and membership of items in a history: evaluation and serving must agree on both."""

import tensorflow as tf

from tfrecords.vocabulary import NUM_SPECIAL_IDS, PAD_ID


def full_ranks(scores: tf.Tensor, histories: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """The target's rank among all items, without the items of the history.

    Args:
        scores: float32 [B, V].
        histories: int32 [B, L], padded with PAD_ID.
        targets: int32 [B].

    Returns:
        int32 [B], from 1.
    """
    allowed = _allowed_items(histories, tf.shape(scores)[1])
    target_scores = tf.gather(scores, targets, batch_dims=1)[:, None]
    ids = tf.range(tf.shape(scores)[1])[None, :]
    ahead = (scores > target_scores) | ((scores == target_scores) & (ids < targets[:, None]))
    return 1 + tf.reduce_sum(tf.cast(ahead & allowed & (ids != targets[:, None]), tf.int32), axis=1)


def best_items(scores: tf.Tensor, histories: tf.Tensor, k: int) -> tf.Tensor:
    """The k best items without the items of the history, in the order of `full_ranks`: ties by the lower id.

    Args:
        scores: float32 [B, V], finite.
        histories: int32 [B, L], padded with PAD_ID.
        k: K.

    Returns:
        int32 [B, K], best first; filled up with PAD_ID if fewer items are left.
    """
    vocabulary_size = tf.shape(scores)[1]
    allowed_scores = tf.where(_allowed_items(histories, vocabulary_size), scores, float("-inf"))
    best, ids = tf.math.top_k(allowed_scores, tf.minimum(k, vocabulary_size))
    ids = tf.where(tf.math.is_finite(best), ids, PAD_ID)
    return tf.pad(ids, [[0, 0], [0, k - tf.shape(ids)[1]]], constant_values=PAD_ID)


def sampled_ranks(scores: tf.Tensor, targets: tf.Tensor, negatives: tf.Tensor) -> tf.Tensor:
    """The target's rank among itself and its negatives.

    Args:
        scores: float32 [B, V].
        targets: int32 [B].
        negatives: int32 [B, M], padded with PAD_ID.

    Returns:
        int32 [B], from 1.
    """
    target_scores = tf.gather(scores, targets, batch_dims=1)[:, None]
    negative_scores = tf.gather(scores, negatives, batch_dims=1)
    ahead = (negative_scores > target_scores) | ((negative_scores == target_scores) & (negatives < targets[:, None]))
    return 1 + tf.reduce_sum(tf.cast(ahead & (negatives != PAD_ID), tf.int32), axis=1)


def items_in(histories: tf.Tensor, vocabulary_size: tf.Tensor | int) -> tf.Tensor:
    """Whether each history holds each item: int32 [B, L] -> bool [B, V]."""
    batch, length = tf.shape(histories)[0], tf.shape(histories)[1]
    rows = tf.repeat(tf.range(batch), length)
    scatter_indices = tf.stack([rows, tf.reshape(histories, [-1])], axis=1)
    counts = tf.scatter_nd(scatter_indices, tf.ones([batch * length], tf.int32), [batch, vocabulary_size])
    return counts > 0


def _allowed_items(histories: tf.Tensor, vocabulary_size: tf.Tensor) -> tf.Tensor:
    return ~items_in(histories, vocabulary_size) & (tf.range(vocabulary_size) >= NUM_SPECIAL_IDS)
