"""Baselines: the last item's transition probabilities, and popularity far below the optimum."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from bert4rec_tf.evaluation.baselines import KnownLog, baseline_scorer, popularity_scorer, transition_scorer
from bert4rec_tf.evaluation.metrics import ranking_metrics
from tests.support.evaluated_log import LOG, optimum, ranks_of
from tfrecords.errors import InputError
from tfrecords.item_features import CategoricalFeature, ItemFeatures
from tfrecords.vocabulary import NUM_SPECIAL_IDS, Vocabulary


def test_the_optimum_beats_popularity_by_far(data_dir: pathlib.Path) -> None:
    vocabulary = Vocabulary.load(data_dir)
    popular = ranking_metrics(ranks_of(data_dir, popularity_scorer(vocabulary)).full)
    best = ranking_metrics(ranks_of(data_dir, optimum(vocabulary)).full)
    assert popular["ndcg@10"] < 0.15
    assert best["ndcg@10"] > 0.5


def test_transition_scorer_ignores_unknown_items() -> None:
    vocabulary = Vocabulary(("b", "new", "a"), np.array([3, 2, 1]), (None,) * 3)
    transition_matrix = np.array([[0.0, 0.75, 0.25], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    scorer = transition_scorer(transition_matrix, vocabulary, ["a", "b", "unknown"])
    b, new, a = range(NUM_SPECIAL_IDS, vocabulary.size)
    scores = scorer(tf.constant([[new, a, 0], [a, b, 0], [a, b, new]])).numpy()
    assert np.exp(scores[0, [b, a, new]]) == pytest.approx([0.75, 0, 0])
    assert np.exp(scores[1, [b, a, new]]) == pytest.approx([0, 1, 0])
    assert np.isfinite(scores).all()
    assert np.ptp(scores[2]) == 0


def test_only_the_optimum_reads_the_log() -> None:
    vocabulary = Vocabulary(tuple(LOG.item_ids()), np.arange(LOG.num_items, 0, -1), (None,) * LOG.num_items)
    history = tf.constant([[3, 7]])

    def unknown() -> KnownLog:
        raise InputError("The optimum is only known for a synthetic log")

    popular = baseline_scorer("popularity", vocabulary, unknown, lambda: None)(history).numpy()[0, NUM_SPECIAL_IDS:]
    assert np.all(np.diff(popular) < 0)
    with pytest.raises(InputError, match="only known"):
        baseline_scorer("optimum", vocabulary, unknown, lambda: None)
    best = baseline_scorer("optimum", vocabulary, lambda: LOG, lambda: None)(history).numpy()[0, NUM_SPECIAL_IDS:]
    np.testing.assert_allclose(np.exp(best), LOG.transitions()[7 - NUM_SPECIAL_IDS], atol=1e-6)


def test_category_popularity_sorts_by_shared_categories_and_then_by_popularity() -> None:
    vocabulary = Vocabulary(("a", "b", "c", "d"), np.array([9, 5, 2, 0]), (None,) * 4)
    genres = CategoricalFeature.from_cells("genres", [["War"], ["War", "Drama"], ["Drama"], ["War", "Drama"]])
    brand = CategoricalFeature.from_cells("brand", [["X"], [], ["X"], []])
    scorer = baseline_scorer(
        "category_popularity", vocabulary, lambda: LOG, lambda: ItemFeatures(vocabulary.item_ids, (genres, brand))
    )
    a, b, c, d = range(NUM_SPECIAL_IDS, vocabulary.size)
    scores = scorer(tf.constant([[b, a, 0], [a, b, d]])).numpy()
    assert (np.argsort(-scores, kind="stable")[:, :4] == [[a, b, c, d], [b, d, a, c]]).all()
    assert np.floor(scores[0]).tolist() == [0, 0, 0, 2, 1, 1, 1]
    assert np.floor(scores[1]).tolist() == [0, 0, 0, 1, 2, 1, 2]


def test_category_popularity_needs_categories() -> None:
    vocabulary = Vocabulary(("a",), np.array([9]), (None,))
    with pytest.raises(InputError, match=r"needs items with categories\. Received: records without"):
        baseline_scorer("category_popularity", vocabulary, lambda: LOG, lambda: None)
