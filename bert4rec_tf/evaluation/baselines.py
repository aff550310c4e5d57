"""Scorers to compare a model with: popularity, and the optimum of a synthetic log."""

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np
import tensorflow as tf

from bert4rec_tf.evaluation.evaluate import Scorer
from tfrecords.vocabulary import NUM_SPECIAL_IDS, PAD_ID, Vocabulary

BASELINES = ("popularity", "optimum")
_MIN_PROBABILITY = 1e-30  # keeps logarithms finite


class KnownLog(Protocol):
    """A log whose next-item probabilities are known, such as `pipelines.sources.synthetic.MarkovLog`."""

    def transitions(self) -> np.ndarray:
        """float64 [items, items]: row i holds the probabilities of the item after item i."""

    def item_ids(self) -> list[str]:
        """The raw id of each row and column of `transitions`."""


def baseline_scorer(name: str, vocabulary: Vocabulary, read_known_log: Callable[[], KnownLog]) -> Scorer:
    """The scorer of a baseline.

    Args:
        name: one of `BASELINES`.
        vocabulary: of the records.
        read_known_log: called for "optimum" only; raises `InputError` if the log's probabilities are unknown.
    """
    if name == "popularity":
        return popularity_scorer(vocabulary)
    log = read_known_log()
    return transition_scorer(log.transitions(), vocabulary, log.item_ids())


def popularity_scorer(vocabulary: Vocabulary) -> Scorer:
    """POP of the paper: every user gets the items by falling training count."""
    log_popularity = tf.constant(vocabulary.log_popularity())
    return lambda histories: tf.tile(log_popularity[None, :], [tf.shape(histories)[0], 1])


def transition_scorer(transition_matrix: np.ndarray, vocabulary: Vocabulary, item_ids: Iterable[str]) -> Scorer:
    """Scores each item by the log of its known probability to follow the last item of the history.

    Args:
        transition_matrix: float [items, items], row i holds the probabilities of the item after item i.
        vocabulary: of the records.
        item_ids: the raw id of each row and column.
    """
    ids = np.array(vocabulary.ids_of(list(item_ids)))
    known = ids >= NUM_SPECIAL_IDS
    scores = np.full([vocabulary.size, vocabulary.size], np.log(_MIN_PROBABILITY), np.float32)
    probabilities = transition_matrix[np.ix_(known, known)]
    scores[np.ix_(ids[known], ids[known])] = np.log(np.maximum(probabilities, _MIN_PROBABILITY))
    table = tf.constant(scores)

    def score(histories: tf.Tensor) -> tf.Tensor:
        lengths = tf.reduce_sum(tf.cast(histories != PAD_ID, tf.int32), axis=1)
        return tf.gather(table, tf.gather(histories, lengths - 1, batch_dims=1))

    return score
