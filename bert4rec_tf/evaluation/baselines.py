"""Scorers to compare a model with: popularity, and the optimum of a synthetic log."""

from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from bert4rec_tf.evaluation.evaluate import Scorer
from tfrecords.vocabulary import NUM_SPECIAL_IDS, PAD_ID, Vocabulary


def popularity_scorer(vocabulary: Vocabulary) -> Scorer:
    """POP of the paper: every user gets the items by falling training count."""
    log_popularity = tf.constant(vocabulary.log_popularity())
    return lambda histories: tf.tile(log_popularity[None, :], [tf.shape(histories)[0], 1])


def last_item_scorer(law: np.ndarray, vocabulary: Vocabulary, item_ids: Iterable[str]) -> Scorer:
    """Scores by the known law of the item after the last one.

    Args:
        law: float [items, items], row i that of the item after item i.
        vocabulary: of the records.
        item_ids: the raw id of each row and column.
    """
    ids = np.array(vocabulary.ids_of(list(item_ids)))
    known = ids >= NUM_SPECIAL_IDS
    scores = np.full([vocabulary.size, vocabulary.size], np.log(1e-30), np.float32)
    scores[np.ix_(ids[known], ids[known])] = np.log(np.maximum(law[np.ix_(known, known)], 1e-30))
    table = tf.constant(scores)

    def score(histories: tf.Tensor) -> tf.Tensor:
        lengths = tf.reduce_sum(tf.cast(histories != PAD_ID, tf.int32), axis=1)
        return tf.gather(table, tf.gather(histories, lengths - 1, batch_dims=1))

    return score
