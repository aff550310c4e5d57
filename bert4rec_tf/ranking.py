"""Ranks of targets, and which items a history holds: what evaluation and serving must agree on."""

import tensorflow as tf

from bert4rec_tf.vocabulary import NUM_SPECIAL_IDS, PAD_ID


def full_ranks(scores: tf.Tensor, histories: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Rank among all items without those of the history.

    Args:
        scores: float32 [B, V].
        histories: int32 [B, L], padded with PAD_ID.
        targets: int32 [B].

    Returns:
        int32 [B], from 1.
    """
    open_items = ~items_in(histories, tf.shape(scores)[1]) & (tf.range(tf.shape(scores)[1]) >= NUM_SPECIAL_IDS)
    target_scores = tf.gather(scores, targets, batch_dims=1)[:, None]
    ids = tf.range(tf.shape(scores)[1])[None, :]
    ahead = (scores > target_scores) | ((scores == target_scores) & (ids < targets[:, None]))
    return 1 + tf.reduce_sum(tf.cast(ahead & open_items & (ids != targets[:, None]), tf.int32), axis=1)


def sampled_ranks(scores: tf.Tensor, targets: tf.Tensor, negatives: tf.Tensor) -> tf.Tensor:
    """Rank among the target and its negatives.

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
    """Which items a history holds: int32 [B, L] -> bool [B, V]."""
    batch, length = tf.shape(histories)[0], tf.shape(histories)[1]
    rows = tf.repeat(tf.range(batch), length)
    places = tf.stack([rows, tf.reshape(histories, [-1])], axis=1)
    counts = tf.scatter_nd(places, tf.ones([batch * length], tf.int32), [batch, vocabulary_size])
    return counts > 0
