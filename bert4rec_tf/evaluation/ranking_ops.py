"""Ranks of targets, and membership of items in a history: evaluation and serving must agree on both."""

import tensorflow as tf

from tfrecords.vocabulary import NUM_SPECIAL_IDS, PAD_ID


def full_ranks(scores: tf.Tensor, seen: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """The target's rank among all items, without the items of the history.

    Args:
        scores: float32 [B, V].
        seen: int32 [B, S], the items of each history, each once, padded with PAD_ID.
        targets: int32 [B].

    Returns:
        int32 [B], from 1.
    """
    ids = tf.range(tf.shape(scores)[1])[None, :]
    special = ids[:, :NUM_SPECIAL_IDS]
    # Counted among all ids, and then those that do not compete are taken off: they are few, and a mask of all ids takes
    # longer than the comparison itself.
    ahead = _number(_is_ahead(scores, ids, scores, targets))
    special_ahead = _number(_is_ahead(scores[:, :NUM_SPECIAL_IDS], special, scores, targets))
    seen_scores = tf.gather(scores, seen, batch_dims=1)
    seen_ahead = _number(_is_ahead(seen_scores, seen, scores, targets) & (seen >= NUM_SPECIAL_IDS))
    return 1 + ahead - special_ahead - seen_ahead


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
    negative_scores = tf.gather(scores, negatives, batch_dims=1)
    return 1 + _number(_is_ahead(negative_scores, negatives, scores, targets) & (negatives != PAD_ID))


def items_in(histories: tf.Tensor, vocabulary_size: tf.Tensor | int) -> tf.Tensor:
    """Whether each history holds each item: int32 [B, L] -> bool [B, V]."""
    batch, length = tf.shape(histories)[0], tf.shape(histories)[1]
    rows = tf.repeat(tf.range(batch), length)
    scatter_indices = tf.stack([rows, tf.reshape(histories, [-1])], axis=1)
    counts = tf.scatter_nd(scatter_indices, tf.ones([batch * length], tf.int32), [batch, vocabulary_size])
    return counts > 0


def _is_ahead(candidate_scores: tf.Tensor, candidates: tf.Tensor, scores: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Whether each candidate, int32 [B or 1, C], ranks before its row's target; equal scores rank by the lower id."""
    targets = targets[:, None]
    target_scores = tf.gather(scores, targets, batch_dims=1)
    return (candidate_scores > target_scores) | ((candidate_scores == target_scores) & (candidates < targets))


def _number(flags: tf.Tensor) -> tf.Tensor:
    """How many of each row are true: bool [B, C] -> int32 [B]."""
    return tf.reduce_sum(tf.cast(flags, tf.int32), axis=1)


def _allowed_items(histories: tf.Tensor, vocabulary_size: tf.Tensor) -> tf.Tensor:
    return ~items_in(histories, vocabulary_size) & (tf.range(vocabulary_size) >= NUM_SPECIAL_IDS)
