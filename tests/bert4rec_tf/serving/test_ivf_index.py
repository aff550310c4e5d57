"""Approximate search against the exact one and against a sort."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from bert4rec_tf.serving.exact_index import ExactIndex
from bert4rec_tf.serving.item_scores import MISSING_SCORE
from bert4rec_tf.serving.ivf_index import InvertedFileIndex
from tests.support.made_up_items import KNOWN, NUM_ITEMS, QUERIES, SCORES, D, V, best_by_sort, found_ids, item_scores
from tests.support.variable_reads import is_read_without_a_copy
from tfrecords.vocabulary import NUM_SPECIAL_IDS

INVERTED = InvertedFileIndex(SCORES, num_cells=10)  # probes all of its cells
id_lists = st.lists(st.integers(0, V - 1), max_size=30)


@settings(max_examples=30)
@given(rows=st.tuples(id_lists, id_lists, id_lists), k=st.integers(1, NUM_ITEMS))
def test_search_of_all_cells_equals_a_sort(rows: tuple[list[int], ...], k: int) -> None:
    width = max(map(len, rows))
    padded = np.array([row + [0] * (width - len(row)) for row in rows], np.int32).reshape([3, width])
    found = INVERTED.top(tf.constant(QUERIES), tf.constant(KNOWN), padded, k)
    assert found_ids(found) == best_by_sort(padded, k)


def test_recall_rises_with_probes_and_scores_are_exact() -> None:
    scores = item_scores(clusters=12)
    index = InvertedFileIndex(scores, num_cells=12)
    search = tf.function(index.top)
    queries, known = scores.item_table.numpy()[3:63], tf.ones([60], tf.bool)
    dropped = tf.constant(np.arange(3, 63)[:, None], tf.int32)
    exact = found_ids(ExactIndex(scores).top(queries, known, dropped, 10))
    recall = []
    for probes in (1, 2, 4, 12):
        index.probes.assign(probes)
        found_scores, ids_of_rows = search(queries, known, dropped, 10)
        found = found_ids((found_scores, ids_of_rows))
        for row, ids in enumerate(found):
            assert 3 + row not in ids
            assert len(set(ids)) == len(ids)
        is_item = found_scores.numpy() > MISSING_SCORE
        expected_scores = scores.score(queries, known, ids_of_rows).numpy()
        np.testing.assert_allclose(found_scores.numpy()[is_item], expected_scores[is_item], rtol=1e-4, atol=1e-4)
        unknown = tf.zeros([60], tf.bool)  # ranked by popularity, whatever `probes` is
        assert found_ids(search(queries, unknown, dropped, 10)) == found_ids(
            ExactIndex(scores).top(queries, unknown, dropped, 10)
        )
        recall.append(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, exact, strict=True)]))
    assert recall == sorted(recall)
    assert recall[0] > 0.4, "a cell groups items with similar scores"
    assert recall[-1] == 1


@settings(max_examples=30)
@given(
    k=st.integers(1, NUM_ITEMS),
    probes=st.integers(1, 10),
    num_dropped=st.sampled_from([0, 1, 30, NUM_ITEMS - 3, NUM_ITEMS]),
    seed=st.integers(0, 99),
)
def test_rows_are_filled_whatever_the_number_of_probes(k: int, probes: int, num_dropped: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    dropped = np.stack([NUM_SPECIAL_IDS + random.permutation(NUM_ITEMS)[:num_dropped] for _ in QUERIES])
    index = InvertedFileIndex(SCORES, num_cells=10)
    index.probes.assign(probes)
    found_scores, ids_of_rows = index.top(tf.constant(QUERIES), tf.constant(KNOWN), dropped.astype(np.int32), k)
    found = found_ids((found_scores, ids_of_rows))
    assert [len(row) for row in found] == [min(k, NUM_ITEMS - num_dropped)] * len(QUERIES)
    for row, ids in enumerate(found):
        assert len(set(ids)) == len(ids)
        assert not set(ids) & {0, 1, 2, *dropped[row].tolist()}
    expected_scores = SCORES.score(tf.constant(QUERIES), tf.constant(KNOWN), ids_of_rows).numpy()
    is_item = found_scores.numpy() > MISSING_SCORE
    np.testing.assert_allclose(found_scores.numpy()[is_item], expected_scores[is_item], rtol=1e-4, atol=1e-4)
    assert found[1] == best_by_sort(dropped, k)[1], "a row without a known item is ranked by popularity"


def test_no_search_copies_the_table_afterwards() -> None:
    index = InvertedFileIndex(item_scores(), num_cells=10)
    for probes in (1, 10):
        index.probes.assign(probes)
        index.top(tf.constant(QUERIES), tf.constant(KNOWN), np.zeros([3, 1], np.int32), 5)
    assert all(is_read_without_a_copy(variable) for variable in index.variables if variable is not index.probes)


def test_each_row_probes_for_its_own_k_and_dropped_items() -> None:
    INVERTED.probes.assign(1)
    try:
        queries, known = tf.constant(QUERIES[[0, 2]]), tf.constant([True, True])
        dropped = np.array([[0] * 150, [*range(3, 153)]], np.int32)
        _, together = INVERTED.top(queries, known, dropped, 150, tf.constant([5, 150]))
        _, alone = INVERTED.top(queries[:1], known[:1], dropped[:1, :0], 5)
        np.testing.assert_array_equal(together[0, :5], alone[0])
    finally:
        INVERTED.probes.assign(10)


def test_cells_follow_the_sampled_queries() -> None:
    # Queries use the first two dimensions only, so items that agree in these should share a cell.
    random = np.random.default_rng(4)
    scores = item_scores()
    table = scores.item_table.numpy()
    table[:, 2:] *= 4
    scores.item_table.assign(table)
    scores.output_bias.assign(tf.zeros([V]))
    queries = np.pad(random.normal(size=[200, 2]).astype(np.float32), [[0, 0], [0, D - 2]])
    known, nothing = tf.ones([200], tf.bool), tf.zeros([200, 0], tf.int32)
    exact = found_ids(ExactIndex(scores).top(queries, known, nothing, 10))
    recall = []
    for sample in (queries, None):
        index = InvertedFileIndex(scores, sample, num_cells=10)
        index.probes.assign(2)
        found = found_ids(tf.function(index.top)(queries, known, nothing, 10))
        recall.append(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, exact, strict=True)]))
    assert recall[0] > 0.7
    assert recall[1] < 0.4


def test_cells_hold_every_item_once() -> None:
    ids, ends = INVERTED._ids.numpy(), INVERTED._ends.numpy()
    assert sorted(ids.tolist()) == list(range(NUM_SPECIAL_IDS, V))
    assert ends[-1] == NUM_ITEMS
    assert (np.diff(ends) >= 0).all()
    np.testing.assert_array_equal(INVERTED._vectors.numpy()[:, :D], SCORES.item_table.numpy()[ids])


@pytest.mark.parametrize("num_cells", [1, NUM_ITEMS])
def test_one_cell_and_one_cell_for_each_item(num_cells: int) -> None:
    index = InvertedFileIndex(SCORES, num_cells=num_cells)
    dropped = np.array([[5], [6], [7]], np.int32)
    assert found_ids(index.top(QUERIES, tf.constant(KNOWN), dropped, 9)) == best_by_sort(dropped, 9)
