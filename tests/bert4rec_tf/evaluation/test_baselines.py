"""Baselines: the last item's transition probabilities, and popularity far below the optimum."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from bert4rec_tf.evaluation.baselines import KnownLog, baseline_scorer, popularity_scorer, transition_scorer
from bert4rec_tf.evaluation.metrics import ranking_metrics
from tests.support.evaluated_log import LOG, optimum, ranks_of
from tfrecords.errors import InputError
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

    popular = baseline_scorer("popularity", vocabulary, unknown)(history).numpy()[0, NUM_SPECIAL_IDS:]
    assert np.all(np.diff(popular) < 0)
    with pytest.raises(InputError, match="only known"):
        baseline_scorer("optimum", vocabulary, unknown)
    best = baseline_scorer("optimum", vocabulary, lambda: LOG)(history).numpy()[0, NUM_SPECIAL_IDS:]
    np.testing.assert_allclose(np.exp(best), LOG.transitions()[7 - NUM_SPECIAL_IDS], atol=1e-6)
