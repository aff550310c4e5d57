"""Scores of given items against the equations, and the search among candidates against a sort."""

import numpy as np
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from bert4rec_tf.serving.item_scores import contains, top_candidates
from tests.support.made_up_items import KNOWN, NUM_ITEMS, QUERIES, SCORES, V, best_by_sort, found_ids
from tests.support.variable_reads import is_read_without_a_copy

id_lists = st.lists(st.integers(0, V - 1), max_size=30)


def test_scores_follow_the_equations() -> None:
    ids = np.random.default_rng(3).integers(0, V, [3, 20])
    scores = SCORES.score(tf.constant(QUERIES), tf.constant(KNOWN), tf.constant(ids))
    table, bias = SCORES.item_table.numpy(), SCORES.output_bias.numpy()
    for row, known in enumerate(KNOWN):
        expected = table[ids[row]] @ QUERIES[row] + bias[ids[row]] if known else -np.log(ids[row] + 1)
        np.testing.assert_allclose(scores[row], expected, rtol=1e-5, atol=1e-5)
    assert is_read_without_a_copy(SCORES.item_table), "a request would copy the whole table"
    assert is_read_without_a_copy(SCORES.output_bias)


@settings(max_examples=30)
@given(rows=st.tuples(id_lists, id_lists, id_lists), k=st.integers(1, NUM_ITEMS))
def test_top_candidates_equal_a_sort(rows: tuple[list[int], ...], k: int) -> None:
    width = max(map(len, rows))
    candidates = np.array([row + [0] * (width - len(row)) for row in rows], np.int32).reshape([3, width])
    nothing = np.zeros([3, 0], np.int32)
    found = top_candidates(candidates, tf.constant(QUERIES), tf.constant(KNOWN), nothing, k, SCORES)
    assert found_ids(found) == best_by_sort(np.zeros([3, 1], np.int32), k, allowed=candidates)


@given(held=st.lists(st.integers(0, 20), min_size=1), wanted=st.lists(st.integers(0, 20)))
def test_contains(held: list[int], wanted: list[int]) -> None:
    found = contains(tf.constant([sorted(held)]), tf.constant([wanted], tf.int32))
    assert found.numpy().tolist() == [[item in held for item in wanted]]
