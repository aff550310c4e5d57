"""Scorers to compare a model with: popularity, alone and by category, and the optimum of a synthetic log."""

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np
import tensorflow as tf

from bert4rec_tf.evaluation.evaluate import Scorer
from tfrecords.errors import InputError
from tfrecords.item_features import ItemFeatures
from tfrecords.vocabulary import NUM_SPECIAL_IDS, PAD_ID, Vocabulary

BASELINES = ("popularity", "category_popularity", "optimum")
_MIN_PROBABILITY = 1e-30  # keeps logarithms finite


class KnownLog(Protocol):
    """A log whose next-item probabilities are known, such as `pipelines.sources.synthetic.MarkovLog`."""

    def transitions(self) -> np.ndarray:
        """float64 [items, items]: row i holds the probabilities of the item after item i."""

    def item_ids(self) -> list[str]:
        """The raw id of each row and column of `transitions`."""


def baseline_scorer(
    name: str,
    vocabulary: Vocabulary,
    read_known_log: Callable[[], KnownLog],
    read_features: Callable[[], ItemFeatures | None],
) -> Scorer:
    """The scorer of a baseline.

    Args:
        name: one of `BASELINES`.
        vocabulary: of the records.
        read_known_log: called for "optimum" only; raises `InputError` if the log's probabilities are unknown.
        read_features: called for "category_popularity" only; returns the features of the vocabulary's items.

    Raises:
        InputError: "category_popularity" for items without categories.
    """
    if name == "popularity":
        return popularity_scorer(vocabulary)
    if name == "category_popularity":
        return category_scorer(vocabulary, read_features())
    log = read_known_log()
    return transition_scorer(log.transitions(), vocabulary, log.item_ids())


def popularity_scorer(vocabulary: Vocabulary) -> Scorer:
    """POP of the paper: every user gets the items by falling training count."""
    log_popularity = tf.constant(vocabulary.log_popularity())
    return lambda histories: tf.tile(log_popularity[None, :], [tf.shape(histories)[0], 1])


def category_scorer(vocabulary: Vocabulary, features: ItemFeatures | None) -> Scorer:
    """Every user gets the items that share most categories with the last one, the more popular ones first.

    Raises:
        InputError: the items have no categories.
    """
    categorical = () if features is None else features.categorical()
    if not categorical:
        raise InputError(
            "The baseline category_popularity needs items with categories. Received: records without. Fix: build them "
            "with --item_features"
        )
    indices, columns = [], 0
    for feature in categorical:
        items = np.repeat(np.arange(len(feature.values)), feature.values.lengths)
        indices.append(np.stack([items + NUM_SPECIAL_IDS, feature.values.values + columns], axis=1))
        columns += len(feature.categories)
    pairs = np.concatenate(indices)
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    has = tf.SparseTensor(pairs, np.ones(len(pairs), np.float32), [vocabulary.size, columns])
    log_popularity = vocabulary.log_popularity()
    below_one = tf.constant((log_popularity - log_popularity.min()) / (np.ptp(log_popularity) + 1), tf.float32)

    def score(histories: tf.Tensor) -> tf.Tensor:
        last = tf.one_hot(_last_items(histories), vocabulary.size, axis=0)
        of_last = tf.sparse.sparse_dense_matmul(has, last, adjoint_a=True)
        return tf.transpose(tf.sparse.sparse_dense_matmul(has, of_last)) + below_one

    return score


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
        return tf.gather(table, _last_items(histories))

    return score


def _last_items(histories: tf.Tensor) -> tf.Tensor:
    lengths = tf.reduce_sum(tf.cast(histories != PAD_ID, tf.int32), axis=1)
    return tf.gather(histories, lengths - 1, batch_dims=1)
