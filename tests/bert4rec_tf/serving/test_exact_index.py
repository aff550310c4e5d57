"""Exact search against a sort and against tensorflow-recommenders."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_recommenders as tfrs
from hypothesis import given, settings
from hypothesis import strategies as st

from bert4rec_tf.serving import exact_index
from bert4rec_tf.serving.exact_index import ExactIndex
from bert4rec_tf.serving.item_scores import ItemScores
from tests.support.made_up_items import KNOWN, NUM_ITEMS, QUERIES, SCORES, D, V, best_by_sort, found_ids
from tests.support.variable_reads import is_read_without_a_copy
from tfrecords.vocabulary import NUM_SPECIAL_IDS

id_lists = st.lists(st.integers(0, V - 1), max_size=30)


def blocked_index(scores: ItemScores) -> ExactIndex:
    """An exact index with blocks, as for a large catalogue, of 16 items each."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(exact_index, "_MIN_ITEMS_FOR_BLOCKS", 0)
        patched.setattr(exact_index, "_BLOCK", 16)
        return ExactIndex(scores)


@settings(max_examples=30)
@given(rows=st.tuples(id_lists, id_lists, id_lists), k=st.integers(1, NUM_ITEMS))
def test_search_equals_a_sort(rows: tuple[list[int], ...], k: int) -> None:
    width = max(map(len, rows))
    padded = np.array([row + [0] * (width - len(row)) for row in rows], np.int32).reshape([3, width])
    arguments = (tf.constant(QUERIES), tf.constant(KNOWN))
    expected = best_by_sort(padded, k)
    assert found_ids(ExactIndex(SCORES).top(*arguments, padded, k)) == expected
    assert found_ids(blocked_index(SCORES).top(*arguments, padded, k)) == expected


def test_a_search_copies_no_table() -> None:
    for index in (ExactIndex(SCORES), blocked_index(SCORES)):
        index.top(tf.constant(QUERIES), tf.constant(KNOWN), tf.zeros([3, 0], tf.int32), 5)
        assert all(map(is_read_without_a_copy, index.variables))


@settings(max_examples=30)
@given(k=st.integers(1, NUM_ITEMS), kinds=st.integers(1, 50), seed=st.integers(0, 99))
def test_blocks_rank_ties_as_a_sort_does(k: int, kinds: int, seed: int) -> None:
    # Scores of a few values only, so that ties go across blocks.
    random = np.random.default_rng(seed)
    bias = random.integers(kinds, size=V).astype(np.float32)
    scores = ItemScores(tf.Variable(tf.zeros([V, D])), tf.Variable(bias), np.zeros([V], np.float32))
    dropped = random.integers(0, V, [1, 40]).astype(np.int32)
    found = found_ids(blocked_index(scores).top(tf.zeros([1, D]), tf.constant([True]), dropped, k))
    left = [item for item in range(NUM_SPECIAL_IDS, V) if item not in dropped]
    assert found == [sorted(left, key=lambda item: (-bias[item], item))[:k]]


def test_exact_search_agrees_with_tensorflow_recommenders() -> None:
    # TFRS has inner products only, so the bias is one more dimension. Its answers are comparable if nothing is dropped.
    vectors = tf.concat([SCORES.item_table, SCORES.output_bias[:, None]], axis=1)[NUM_SPECIAL_IDS:]
    oracle = tfrs.layers.factorized_top_k.BruteForce(k=25).index(vectors, tf.range(NUM_SPECIAL_IDS, V))
    scores, ids = oracle(tf.pad(tf.constant(QUERIES), [[0, 0], [0, 1]], constant_values=1.0))
    found = ExactIndex(SCORES).top(tf.constant(QUERIES), tf.constant([True] * 3), tf.zeros([3, 0], tf.int32), 25)
    np.testing.assert_array_equal(found[1], ids)
    np.testing.assert_allclose(found[0], scores, rtol=1e-5)
