"""Exact search: scores every item for a query and takes the best."""

import tensorflow as tf

from bert4rec_tf.serving.item_scores import MISSING_SCORE, ItemScores, append_to_rows
from tfrecords.vocabulary import NUM_SPECIAL_IDS

_MIN_ITEMS_FOR_BLOCKS = 50_000
_BLOCK = 256  # items
_COPIED_ROWS = 1 << 16


class ExactIndex(tf.Module):
    """Scores every item and takes the best.

    The index keeps a transposed copy of the item table, with the output bias and the log popularity as two more rows.
    One product with a query reads the copy from start to end and gives the scores.

    Args:
        scores: the parameters of the items' scores.

    Attributes:
        floats_per_row: the size of the largest tensor that a search makes for one row.
    """

    def __init__(self, scores: ItemScores):
        super().__init__(name="exact_index")
        size = int(scores.item_table.shape[0])
        self.floats_per_row = size
        # `_top_k` needs a whole number of blocks.
        self._block = 1 if size < _MIN_ITEMS_FOR_BLOCKS else _BLOCK
        padding = -size % self._block
        self._columns = _columns(scores, size + padding)
        self._not_items = tf.concat([tf.range(NUM_SPECIAL_IDS), tf.range(size, size + padding)], axis=0)

    def top(
        self, query: tf.Tensor, known: tf.Tensor, dropped: tf.Tensor, k: tf.Tensor, row_k: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The k best items, without the dropped ones.

        Args:
            query: float32 [B, D].
            known: bool [B], whether the history has a known item; rows without one are ranked by popularity.
            dropped: int32 [B, S], ids to leave out; the special ids are always left out.
            k: int32, at most the number of items.
            row_k: unused, since every row is exact; see `InvertedFileIndex.top`.

        Returns:
            Scores, float32 [B, k], best first, and ids, int32 [B, k]; ties by the lower id. If fewer than k items are
            left, the rest has the score `MISSING_SCORE`.
        """
        choice = tf.cast(tf.stack([known, ~known], axis=1), tf.float32)
        scores = tf.matmul(tf.concat([query * choice[:, :1], choice], axis=1), self._columns)
        dropped = append_to_rows(dropped, self._not_items)
        rows = tf.repeat(tf.range(tf.shape(dropped)[0]), tf.shape(dropped)[1])
        scatter_indices = tf.stack([rows, tf.reshape(dropped, [-1])], axis=1)
        scores = tf.tensor_scatter_nd_update(scores, scatter_indices, tf.fill([tf.size(dropped)], MISSING_SCORE))
        return self._top_k(scores, k)

    def _top_k(self, scores: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`tf.math.top_k` of scores [B, V], ten times faster: the best k are in the k blocks with the best maxima."""
        if self._block == 1:
            best, ids = tf.math.top_k(scores, k)
            return best, ids
        blocks = tf.reshape(scores, [tf.shape(scores)[0], -1, self._block])
        maxima = tf.reduce_max(blocks, axis=2)
        _, chosen = tf.math.top_k(maxima, tf.minimum(k, tf.shape(maxima)[1]))
        chosen = tf.sort(chosen, axis=1)  # so that ties still go to the lower id
        candidates = tf.reshape(tf.gather(blocks, chosen, batch_dims=1), [tf.shape(scores)[0], -1])
        best, columns = tf.math.top_k(candidates, k)
        block = tf.gather(chosen, columns // self._block, batch_dims=1)
        return best, block * self._block + columns % self._block


def _columns(scores: ItemScores, width: int) -> tf.Variable:
    """The item table, the output bias and the log popularity as float32 [D + 2, width], filled up with zeros."""
    size, hidden_size = scores.item_table.shape
    columns = tf.Variable(tf.zeros([hidden_size + 2, width]), trainable=False, name="columns")
    for first in range(0, size, _COPIED_ROWS):  # in pieces, so that only one large tensor is made
        rows = slice(first, min(first + _COPIED_ROWS, size))
        vectors, others = scores.item_table[rows], (scores.output_bias[rows], scores.log_popularity[rows])
        # `columns[:, rows].assign` would read the variable, and copy it each time.
        tf.raw_ops.ResourceStridedSliceAssign(
            ref=columns.handle,
            begin=[0, rows.start],
            end=[hidden_size + 2, rows.stop],
            strides=[1, 1],
            value=tf.concat([tf.transpose(vectors), tf.stack(others)], axis=0),
        )
    tf.raw_ops.DisableCopyOnRead(resource=columns.handle)  # which the assignment to a slice has switched on
    return columns
