"""The scores of items after a history."""

import numpy as np
import tensorflow as tf

from bert4rec_tf.model.averaged_model import NextItemModel
from tfrecords.vocabulary import NUM_SPECIAL_IDS, Vocabulary

# The score of an empty entry. It is finite, since JSON has no infinity, and below every real score. Unlike float32's
# lowest number, it stays within float32 when it is written with few digits (TF Serving writes -3.4e+38).
MISSING_SCORE = float(np.float32(-3.4e38))


class ItemScores(tf.Module):
    """Scores items: query . embedding + bias (paper equation 7), or log popularity for a history without a known item.

    Args:
        item_table: float32 [V, D], the model's.
        output_bias: float32 [V], the model's.
        log_popularity: float32 [V].
    """

    def __init__(self, item_table: tf.Variable, output_bias: tf.Variable, log_popularity: np.ndarray):
        super().__init__(name="item_scores")
        self.item_table = item_table
        self.output_bias = output_bias
        # A variable, since a constant would be stored in the graph.
        self.log_popularity = tf.Variable(log_popularity, trainable=False, name="log_popularity")

    def score(self, query: tf.Tensor, known: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
        """Scores the given items.

        Args:
            query: float32 [B, D], from `encode_next_item` of the model.
            known: bool [B], whether the history has an item that the model knows.
            ids: int32 [B, C].

        Returns:
            float32 [B, C]; the scores of special ids have no meaning.
        """
        # Rows of the tables' values, not of the variables: see `ItemAndPositionEmbedding.vectors_of`.
        table, bias, log_popularity = map(
            tf.convert_to_tensor, (self.item_table, self.output_bias, self.log_popularity)
        )
        scores = tf.linalg.matvec(tf.gather(table, ids), query) + tf.gather(bias, ids)
        return tf.where(known[:, None], scores, tf.gather(log_popularity, ids))

    def score_all(self, query: tf.Tensor, known: tf.Tensor) -> tf.Tensor:
        """Scores every item: query float32 [B, D] and known bool [B], as in `score`. Returns float32 [B, V]."""
        scores = tf.matmul(query, self.item_table, transpose_b=True) + self.output_bias
        return tf.where(known[:, None], scores, self.log_popularity)


def top_candidates(
    candidates: tf.Tensor, query: tf.Tensor, known: tf.Tensor, dropped: tf.Tensor, k: tf.Tensor, scores: ItemScores
) -> tuple[tf.Tensor, tf.Tensor]:
    """`ExactIndex.top` over `candidates` only, int32 [B, C]; they may repeat."""
    candidates = tf.sort(candidates, axis=1)
    repeated = tf.pad(candidates[:, 1:] == candidates[:, :-1], [[0, 0], [1, 0]])
    dropped = tf.sort(append_to_rows(dropped, tf.range(NUM_SPECIAL_IDS)), axis=1)
    found = tf.where(repeated | contains(dropped, candidates), MISSING_SCORE, scores.score(query, known, candidates))
    missing = tf.maximum(0, k - tf.shape(candidates)[1])
    found = tf.pad(found, [[0, 0], [0, missing]], constant_values=MISSING_SCORE)
    best, columns = tf.math.top_k(found, k)
    return best, tf.gather(tf.pad(candidates, [[0, 0], [0, missing]]), columns, batch_dims=1)


def contains(sorted_ids: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
    """Whether `ids`, int32 [B, C], are in `sorted_ids`, int32 [B, S] with S > 0, rising. Returns bool [B, C]."""
    columns = tf.minimum(tf.searchsorted(sorted_ids, ids), tf.shape(sorted_ids)[1] - 1)
    return tf.gather(sorted_ids, columns, batch_dims=1) == ids


def append_to_rows(ids: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """Puts the same `others` into every row: int32 [B, S] and [R] -> [B, R + S]."""
    return tf.concat([tf.tile(others[None, :], [tf.shape(ids)[0], 1]), ids], axis=1)


def item_scores(model: NextItemModel, vocabulary: Vocabulary) -> ItemScores:
    """The scores of a model's items."""
    return ItemScores(model.item_table, model.output_bias, vocabulary.log_popularity())


def has_known_item(histories: tf.Tensor) -> tf.Tensor:
    """Whether each history, int32 [B, L], has an item of the vocabulary. Returns bool [B]."""
    return tf.reduce_any(histories >= NUM_SPECIAL_IDS, axis=1)
