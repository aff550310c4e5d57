"""Ranking metrics against values by hand, their invariants and TensorFlow Recommenders."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from bert4rec_tf.evaluation.metrics import MISSED_RANK, NO_RANK, ranking_gains, ranking_metrics, sampled_metrics
from bert4rec_tf.evaluation.ranking_ops import full_ranks
from tfrecords.vocabulary import NUM_SPECIAL_IDS

NAMES = ["hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr"]


def test_values_by_hand() -> None:
    metrics = ranking_metrics(np.array([1, 3, 7, 11]))
    assert [metrics[name] for name in NAMES] == pytest.approx(
        [1 / 4, 2 / 4, 3 / 4, (1 + 1 / 2) / 4, (1 + 1 / 2 + 1 / 3) / 4, (1 + 1 / 3 + 1 / 7 + 1 / 11) / 4]
    )


def test_cutoffs_are_included() -> None:
    assert [ranking_metrics(np.array([rank]))["hr@5"] for rank in (5, 6)] == [1, 0]
    assert [ranking_metrics(np.array([rank]))["ndcg@10"] for rank in (10, 11)] == pytest.approx([1 / math.log2(11), 0])


def test_a_missed_target_adds_nothing() -> None:
    metrics = ranking_metrics(np.array([1, MISSED_RANK, MISSED_RANK, MISSED_RANK], np.int32))
    assert [metrics[name] for name in NAMES] == [0.25] * 6


def test_interval_by_hand() -> None:
    # 30 hits of 100: Wilson's score interval.
    metrics = ranking_metrics(np.array([1] * 30 + [99] * 70))
    z = 1.96
    centre, margin = 0.3 + z**2 / 200, z * math.sqrt(0.3 * 0.7 / 100 + z**2 / 40_000)
    ends = [(centre - margin) / (1 + z**2 / 100), (centre + margin) / (1 + z**2 / 100)]
    assert metrics["ci95"]["hr@10"] == pytest.approx(ends)
    assert ends == pytest.approx([0.2189, 0.3959], abs=1e-4)


@pytest.mark.parametrize(
    ("hits", "users", "ends"),
    [
        (0, 80, [0, 0.0458181295]),
        (7, 80, [0.0430320018, 0.1697679551]),
        (80, 80, [0.9541818705, 1]),
        (431, 6040, [0.0651344747, 0.0781256463]),
    ],
)
def test_intervals_of_hit_rates_equal_those_of_scipy(hits: int, users: int, ends: list[float]) -> None:
    """The expected values are those of `binomtest(hits, users).proportion_ci(method="wilson")` of SciPy 1.17.1."""
    metrics = ranking_metrics(np.array([1] * hits + [99] * (users - hits)))
    assert metrics["ci95"]["hr@10"] == pytest.approx(ends, abs=1e-5)


def test_intervals_have_a_width_without_hits_and_without_misses() -> None:
    none, all_ = ranking_metrics(np.array([99] * 50)), ranking_metrics(np.array([1] * 50))
    for name in ("hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10"):
        assert none[name] == 0
        assert none["ci95"][name] == pytest.approx([0, 1.96**2 / (50 + 1.96**2)])
    for name in NAMES:
        assert all_["ci95"][name] == pytest.approx([50 / (50 + 1.96**2), 1])


def test_intervals_of_many_users_are_near_the_standard_error() -> None:
    ranks = np.random.default_rng(1).geometric(0.1, 5000)
    metrics = ranking_metrics(ranks)
    for name, gains in ranking_gains(ranks).items():
        margin = 1.96 * gains.std() / math.sqrt(5000)
        assert metrics["ci95"][name] == pytest.approx(
            [metrics[name] - margin, metrics[name] + margin], abs=0.05 * margin
        )


def test_the_interval_of_one_user_is_everything() -> None:
    assert ranking_metrics(np.array([1]))["ci95"]["hr@1"] == [0, 1]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_invariants(ranks: list[int]) -> None:
    metrics = ranking_metrics(np.array(ranks, np.int32))
    assert list(metrics) == [*NAMES, "ci95"]
    assert list(metrics["ci95"]) == NAMES
    assert 0 <= metrics["hr@1"] <= metrics["hr@5"] <= metrics["hr@10"] <= 1
    assert metrics["hr@1"] <= metrics["ndcg@5"] <= metrics["hr@5"]
    assert metrics["ndcg@5"] <= metrics["ndcg@10"] <= metrics["hr@10"]
    assert metrics["hr@1"] <= metrics["mrr"] <= 1
    for name in NAMES:
        low, high = metrics["ci95"][name]
        assert 0 <= low <= metrics[name] <= high <= 1
        assert {type(low), type(high), type(metrics[name])} == {float}


@pytest.mark.parametrize("ranks", [[], [0], [1, 2, 0], [-1]])
def test_ranks_below_1_are_refused(ranks: list[int]) -> None:
    with pytest.raises(ValueError, match="from 1"):
        ranking_metrics(np.array(ranks, np.int32))


def test_users_without_a_sampled_rank_are_left_out_and_counted() -> None:
    metrics = sampled_metrics(np.array([1, NO_RANK, 3, NO_RANK, NO_RANK]))
    assert metrics == {**ranking_metrics(np.array([1, 3])), "users": 2, "users_left_out": 3}
    nobody = sampled_metrics(np.array([NO_RANK]))
    assert nobody == {
        **dict.fromkeys(NAMES),
        "ci95": {name: [None, None] for name in NAMES},
        "users": 0,
        "users_left_out": 1,
    }


def test_hit_rates_equal_those_of_tensorflow_recommenders() -> None:
    # Imported here: it touches tf.keras, for which bert4rec_tf must have chosen the version.
    import tensorflow_recommenders as tfrs

    users, items, size = 300, 40, 4
    generator = np.random.default_rng(1)
    queries = generator.normal(size=[users, size]).astype(np.float32)
    candidates = generator.normal(size=[items, size]).astype(np.float32)
    # The best item, with noise, for 70% of the users; a random item for the rest.
    best = np.argmax(queries @ candidates.T + generator.normal(size=[users, items]), axis=1)
    targets = np.where(generator.random(users) < 0.7, best, generator.integers(0, items, users)) + NUM_SPECIAL_IDS

    ids = np.arange(items, dtype=np.int32) + NUM_SPECIAL_IDS
    index = tfrs.layers.factorized_top_k.BruteForce(k=10).index(candidates, ids)
    by_tfrs = tfrs.metrics.FactorizedTopK(index, ks=(1, 5, 10))
    by_tfrs.update_state(queries, candidates[targets - NUM_SPECIAL_IDS], tf.constant(targets, tf.int32))
    expected = [float(value) for value in by_tfrs.result()]

    # The special ids score above all items, but are not items.
    scores = np.concatenate([np.full([users, NUM_SPECIAL_IDS], 1e3, np.float32), queries @ candidates.T], axis=1)
    ranks = full_ranks(tf.constant(scores), tf.zeros([users, 2], tf.int32), tf.constant(targets, tf.int32))
    metrics = ranking_metrics(ranks.numpy())
    assert [metrics["hr@1"], metrics["hr@5"], metrics["hr@10"]] == pytest.approx(expected)
    assert 0.1 < metrics["hr@1"] < metrics["hr@10"] < 0.95
