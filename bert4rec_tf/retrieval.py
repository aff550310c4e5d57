"""From a query to the best items: what an item scores, and the exact search over all of them."""

import numpy as np
import tensorflow as tf

from bert4rec_tf.vocabulary import NUM_SPECIAL_IDS

DROPPED = float("-inf")


class ItemScores(tf.Module):
    """What items score: query . embedding + bias (paper equation 7); log popularity where the history knows no item.

    Args:
        item_table: float32 [V, D], the model's item embedding.
        output_bias: float32 [V], the model's.
        log_popularity: float32 [V].
    """

    def __init__(self, item_table: tf.Variable, output_bias: tf.Variable, log_popularity: np.ndarray):
        super().__init__(name="item_scores")
        self.item_table = item_table
        self.output_bias = output_bias
        self._log_popularity = tf.constant(log_popularity)

    def of_all(self, query: tf.Tensor, known: tf.Tensor) -> tf.Tensor:
        """Scores of every item.

        Args:
            query: float32 [B, D], of `Bert4Rec.encode_next_item`.
            known: bool [B], whether the history holds an item that the model knows.

        Returns:
            float32 [B, V]; those of the special ids mean nothing.
        """
        # A product instead of tf.where over [B, V], which takes longer than the search itself.
        choice = tf.cast(tf.stack([known, ~known], axis=1), tf.float32)
        constant = tf.matmul(choice, tf.stack([self.output_bias, self._log_popularity]))
        return tf.matmul(query * choice[:, :1], self.item_table, transpose_b=True) + constant

    def of(self, query: tf.Tensor, known: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
        """Scores of some items, `ids`: int32 [B, C]. Returns float32 [B, C]."""
        scores = tf.linalg.matvec(tf.gather(self.item_table, ids), query) + tf.gather(self.output_bias, ids)
        return tf.where(known[:, None], scores, tf.gather(self._log_popularity, ids))


class ExactIndex(tf.Module):
    """Scores every item and takes the best.

    Args:
        scores: of the items.
    """

    def __init__(self, scores: ItemScores):
        super().__init__(name="exact_index")
        self._scores = scores

    def top(self, query: tf.Tensor, known: tf.Tensor, dropped: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The k best items but for the dropped ones.

        Args:
            query: float32 [B, D].
            known: bool [B]; rows without a known item are ordered by popularity.
            dropped: int32 [B, S], ids that are never answered; the special ids never are.
            k: int32, at most the number of items.

        Returns:
            Scores, float32 [B, k], best first, and ids, int32 [B, k]; ties by the lower id. Where fewer are left, the
            score is -inf.
        """
        scores = self._scores.of_all(query, known)
        dropped = _with_specials(dropped)
        rows = tf.repeat(tf.range(tf.shape(dropped)[0]), tf.shape(dropped)[1])
        places = tf.stack([rows, tf.reshape(dropped, [-1])], axis=1)
        scores = tf.tensor_scatter_nd_update(scores, places, tf.fill([tf.size(dropped)], DROPPED))
        return tf.math.top_k(scores, k)


def top_of(
    candidates: tf.Tensor, query: tf.Tensor, known: tf.Tensor, dropped: tf.Tensor, k: tf.Tensor, scores: ItemScores
) -> tuple[tf.Tensor, tf.Tensor]:
    """The k best of some items, `candidates`: int32 [B, C], any of them more than once; else as `ExactIndex.top`."""
    candidates = tf.sort(candidates, axis=1)
    repeated = tf.pad(candidates[:, 1:] == candidates[:, :-1], [[0, 0], [1, 0]])
    dropped = tf.sort(_with_specials(dropped), axis=1)
    found = tf.where(repeated | contains(dropped, candidates), DROPPED, scores.of(query, known, candidates))
    missing = tf.maximum(0, k - tf.shape(candidates)[1])
    found = tf.pad(found, [[0, 0], [0, missing]], constant_values=DROPPED)
    best, places = tf.math.top_k(found, k)
    return best, tf.gather(tf.pad(candidates, [[0, 0], [0, missing]]), places, batch_dims=1)


def contains(sorted_ids: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
    """Which of `ids`, int32 [B, C], are in `sorted_ids`, int32 [B, S] with S > 0, rising. Returns bool [B, C]."""
    places = tf.minimum(tf.searchsorted(sorted_ids, ids), tf.shape(sorted_ids)[1] - 1)
    return tf.gather(sorted_ids, places, batch_dims=1) == ids


def _with_specials(ids: tf.Tensor) -> tf.Tensor:
    specials = tf.tile(tf.range(NUM_SPECIAL_IDS)[None, :], [tf.shape(ids)[0], 1])
    return tf.concat([specials, ids], axis=1)
