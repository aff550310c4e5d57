"""From a query to the best items: what an item scores, and the exact search over all of them."""

import numpy as np
import tensorflow as tf

from tfrecords.vocabulary import NUM_SPECIAL_IDS

# The score where there is no item: finite, since JSON has no infinity, and below every real score. Unlike float32's
# lowest number, it stays within float32 when it is written with few digits (TF Serving writes -3.4e+38).
MISSING_SCORE = float(np.float32(-3.4e38))
_FEW_ITEMS = 50_000
_BLOCK = 256


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
        # No constant, which would lie in the graph.
        self.log_popularity = tf.Variable(log_popularity, trainable=False, name="log_popularity")

    def of(self, query: tf.Tensor, known: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
        """Scores of some items.

        Args:
            query: float32 [B, D], of `Bert4Rec.encode_next_item`.
            known: bool [B], whether the history holds an item that the model knows.
            ids: int32 [B, C].

        Returns:
            float32 [B, C]; those of the special ids mean nothing.
        """
        scores = tf.linalg.matvec(tf.gather(self.item_table, ids), query) + tf.gather(self.output_bias, ids)
        return tf.where(known[:, None], scores, tf.gather(self.log_popularity, ids))


class ExactIndex(tf.Module):
    """Scores every item and takes the best.

    It keeps a copy of the item table, an item a column, with output bias and log popularity as two rows more: the
    product with a query reads it once, from end to end, and is the score.

    Args:
        scores: of the items.

    Attributes:
        floats_per_row: the size of the largest tensor that a search makes for a row.
    """

    def __init__(self, scores: ItemScores):
        super().__init__(name="exact_index")
        size = int(scores.item_table.shape[0])
        self.floats_per_row = size
        # Whole blocks: see `_top_k`.
        self._block = 1 if size < _FEW_ITEMS else _BLOCK
        padding = -size % self._block
        columns = [scores.item_table, scores.output_bias[:, None], scores.log_popularity[:, None]]
        self._columns = tf.Variable(
            tf.pad(tf.transpose(tf.concat(columns, axis=1)), [[0, 0], [0, padding]]), trainable=False, name="columns"
        )
        self._never = tf.concat([tf.range(NUM_SPECIAL_IDS), tf.range(size, size + padding)], axis=0)

    def top(
        self, query: tf.Tensor, known: tf.Tensor, dropped: tf.Tensor, k: tf.Tensor, row_k: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The k best items but for the dropped ones.

        Args:
            query: float32 [B, D].
            known: bool [B]; rows without a known item are ordered by popularity.
            dropped: int32 [B, S], ids that are never answered; the special ids never are.
            k: int32, at most the number of items.
            row_k: not used, since every row is exact; see `InvertedFileIndex.top`.

        Returns:
            Scores, float32 [B, k], best first, and ids, int32 [B, k]; ties by the lower id. Where fewer are left, the
            score is `MISSING_SCORE`.
        """
        choice = tf.cast(tf.stack([known, ~known], axis=1), tf.float32)
        scores = tf.matmul(tf.concat([query * choice[:, :1], choice], axis=1), self._columns)
        dropped = _and_each(dropped, self._never)
        rows = tf.repeat(tf.range(tf.shape(dropped)[0]), tf.shape(dropped)[1])
        places = tf.stack([rows, tf.reshape(dropped, [-1])], axis=1)
        scores = tf.tensor_scatter_nd_update(scores, places, tf.fill([tf.size(dropped)], MISSING_SCORE))
        return self._top_k(scores, k)

    def _top_k(self, scores: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Of [B, V]: the best k are in the k blocks with the best maxima, which are ten times faster to find."""
        if self._block == 1:
            best, ids = tf.math.top_k(scores, k)
            return best, ids
        blocks = tf.reshape(scores, [tf.shape(scores)[0], -1, self._block])
        maxima = tf.reduce_max(blocks, axis=2)
        _, chosen = tf.math.top_k(maxima, tf.minimum(k, tf.shape(maxima)[1]))
        chosen = tf.sort(chosen, axis=1)  # so that ties still go to the lower id
        candidates = tf.reshape(tf.gather(blocks, chosen, batch_dims=1), [tf.shape(scores)[0], -1])
        best, places = tf.math.top_k(candidates, k)
        block = tf.gather(chosen, places // self._block, batch_dims=1)
        return best, block * self._block + places % self._block


def top_of(
    candidates: tf.Tensor, query: tf.Tensor, known: tf.Tensor, dropped: tf.Tensor, k: tf.Tensor, scores: ItemScores
) -> tuple[tf.Tensor, tf.Tensor]:
    """The k best of some items, `candidates`: int32 [B, C], any of them more than once; else as `ExactIndex.top`."""
    candidates = tf.sort(candidates, axis=1)
    repeated = tf.pad(candidates[:, 1:] == candidates[:, :-1], [[0, 0], [1, 0]])
    dropped = tf.sort(_and_each(dropped, tf.range(NUM_SPECIAL_IDS)), axis=1)
    found = tf.where(repeated | contains(dropped, candidates), MISSING_SCORE, scores.of(query, known, candidates))
    missing = tf.maximum(0, k - tf.shape(candidates)[1])
    found = tf.pad(found, [[0, 0], [0, missing]], constant_values=MISSING_SCORE)
    best, places = tf.math.top_k(found, k)
    return best, tf.gather(tf.pad(candidates, [[0, 0], [0, missing]]), places, batch_dims=1)


def contains(sorted_ids: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
    """Which of `ids`, int32 [B, C], are in `sorted_ids`, int32 [B, S] with S > 0, rising. Returns bool [B, C]."""
    places = tf.minimum(tf.searchsorted(sorted_ids, ids), tf.shape(sorted_ids)[1] - 1)
    return tf.gather(sorted_ids, places, batch_dims=1) == ids


def _and_each(ids: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """int32 [B, S] and [R] -> [B, R + S], `others` in every row."""
    return tf.concat([tf.tile(others[None, :], [tf.shape(ids)[0], 1]), ids], axis=1)
