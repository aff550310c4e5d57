"""Exact and approximate search, against NumPy and against tensorflow-recommenders."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_recommenders as tfrs
from hypothesis import given, settings
from hypothesis import strategies as st

from bert4rec_tf.serving import exact_index
from bert4rec_tf.serving.exact_index import ExactIndex
from bert4rec_tf.serving.item_scores import MISSING_SCORE, ItemScores, contains, top_of
from bert4rec_tf.serving.ivf_index import InvertedFileIndex
from tfrecords.vocabulary import NUM_SPECIAL_IDS

NUM_ITEMS, D = 200, 8
V = NUM_ITEMS + NUM_SPECIAL_IDS


def item_scores(clusters: int | None = None) -> ItemScores:
    random = np.random.default_rng(1)
    table = random.normal(size=[V, D])
    if clusters:
        table = random.normal(size=[clusters, D])[random.integers(clusters, size=V)] + 0.1 * table
    log_popularity = -np.log(np.arange(1, V + 1))  # falls with the id, as in a vocabulary
    return ItemScores(
        tf.Variable(table.astype(np.float32)),
        tf.Variable(random.normal(size=[V]).astype(np.float32)),
        log_popularity.astype(np.float32),
    )


SCORES = item_scores()
QUERIES = np.random.default_rng(2).normal(size=[3, D]).astype(np.float32)
KNOWN = np.array([True, False, True])


def by_hand(dropped: np.ndarray, k: int, allowed: np.ndarray | None = None) -> list[list[int]]:
    """The best ids, by a sort of everything."""
    table, bias = SCORES.item_table.numpy(), SCORES.output_bias.numpy()
    popular = -np.log(np.arange(1, V + 1)).astype(np.float32)
    found = []
    for row in range(len(QUERIES)):
        scores = table @ QUERIES[row] + bias if KNOWN[row] else popular
        ids = set(range(NUM_SPECIAL_IDS, V) if allowed is None else allowed[row].tolist())
        ids -= set(dropped[row].tolist()) | set(range(NUM_SPECIAL_IDS))
        found.append(sorted(ids, key=lambda item, of=scores: (-of[item], item))[:k])
    return found


def answered(top: tuple[tf.Tensor, tf.Tensor]) -> list[list[int]]:
    scores, ids = (values.numpy() for values in top)
    assert np.isfinite(scores).all()
    assert np.all(scores[:, :-1] >= scores[:, 1:])
    return [row[of > MISSING_SCORE].tolist() for of, row in zip(scores, ids, strict=True)]


id_lists = st.lists(st.integers(0, V - 1), max_size=30)


@settings(max_examples=30)
@given(rows=st.tuples(id_lists, id_lists, id_lists), k=st.integers(1, NUM_ITEMS))
def test_every_search_equals_a_sort(rows: tuple[list[int], ...], k: int) -> None:
    width = max(map(len, rows))
    padded = np.array([row + [0] * (width - len(row)) for row in rows], np.int32).reshape([3, width])
    arguments = (tf.constant(QUERIES), tf.constant(KNOWN))
    expected = by_hand(padded, k)
    assert answered(ExactIndex(SCORES).top(*arguments, padded, k)) == expected
    assert answered(blocked_index(SCORES).top(*arguments, padded, k)) == expected
    assert answered(INVERTED.top(*arguments, padded, k)) == expected
    of_the_rest = by_hand(np.zeros([3, 1], np.int32), k, allowed=padded)
    nothing = np.zeros([3, 0], np.int32)
    assert answered(top_of(padded, *arguments, nothing, k, SCORES)) == of_the_rest


def blocked_index(scores: ItemScores) -> ExactIndex:
    """The exact index as it is for a large catalogue, in blocks of 16."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(exact_index, "_FEW_ITEMS", 0)
        patched.setattr(exact_index, "_BLOCK", 16)
        return ExactIndex(scores)


INVERTED = InvertedFileIndex(SCORES, num_cells=10)  # and looks into all of them


def test_scores_of_some_are_the_equations() -> None:
    ids = np.random.default_rng(3).integers(0, V, [3, 20])
    some = SCORES.of(tf.constant(QUERIES), tf.constant(KNOWN), tf.constant(ids))
    table, bias = SCORES.item_table.numpy(), SCORES.output_bias.numpy()
    for row, known in enumerate(KNOWN):
        expected = table[ids[row]] @ QUERIES[row] + bias[ids[row]] if known else -np.log(ids[row] + 1)
        np.testing.assert_allclose(some[row], expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=30)
@given(k=st.integers(1, NUM_ITEMS), kinds=st.integers(1, 50), seed=st.integers(0, 99))
def test_blocks_find_what_a_sort_finds_ties_included(k: int, kinds: int, seed: int) -> None:
    # Scores of a few values only, so that ties go across blocks.
    random = np.random.default_rng(seed)
    bias = random.integers(kinds, size=V).astype(np.float32)
    scores = ItemScores(tf.Variable(tf.zeros([V, D])), tf.Variable(bias), np.zeros([V], np.float32))
    dropped = random.integers(0, V, [1, 40]).astype(np.int32)
    found = answered(blocked_index(scores).top(tf.zeros([1, D]), tf.constant([True]), dropped, k))
    left = [item for item in range(NUM_SPECIAL_IDS, V) if item not in dropped]
    assert found == [sorted(left, key=lambda item: (-bias[item], item))[:k]]


def test_exact_search_agrees_with_tensorflow_recommenders() -> None:
    # The bias as one more dimension, for TFRS knows inner products only. It is right where nothing is dropped.
    vectors = tf.concat([SCORES.item_table, SCORES.output_bias[:, None]], axis=1)[NUM_SPECIAL_IDS:]
    oracle = tfrs.layers.factorized_top_k.BruteForce(k=25).index(vectors, tf.range(NUM_SPECIAL_IDS, V))
    scores, ids = oracle(tf.pad(tf.constant(QUERIES), [[0, 0], [0, 1]], constant_values=1.0))
    found = ExactIndex(SCORES).top(tf.constant(QUERIES), tf.constant([True] * 3), tf.zeros([3, 0], tf.int32), 25)
    np.testing.assert_array_equal(found[1], ids)
    np.testing.assert_allclose(found[0], scores, rtol=1e-5)


def test_fewer_probes_find_less_and_nothing_wrong() -> None:
    scores = item_scores(clusters=12)
    index = InvertedFileIndex(scores, num_cells=12)
    search = tf.function(index.top)
    queries, known = scores.item_table.numpy()[3:63], tf.ones([60], tf.bool)
    dropped = tf.constant(np.arange(3, 63)[:, None], tf.int32)
    exact = answered(ExactIndex(scores).top(queries, known, dropped, 10))
    recall = []
    for probes in (1, 2, 4, 12):
        index.probes.assign(probes)
        found_scores, found_ids = search(queries, known, dropped, 10)
        found = answered((found_scores, found_ids))
        for row, ids in enumerate(found):
            assert 3 + row not in ids
            assert len(set(ids)) == len(ids)
        there = found_scores.numpy() > MISSING_SCORE
        theirs = scores.of(queries, known, found_ids).numpy()
        np.testing.assert_allclose(found_scores.numpy()[there], theirs[there], rtol=1e-4, atol=1e-4)
        unknown = tf.zeros([60], tf.bool)  # by popularity, whatever is probed
        assert answered(search(queries, unknown, dropped, 10)) == answered(
            ExactIndex(scores).top(queries, unknown, dropped, 10)
        )
        recall.append(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, exact, strict=True)]))
    assert recall == sorted(recall)
    assert recall[0] > 0.4, "the cells hold what belongs together"
    assert recall[-1] == 1


@settings(max_examples=30)
@given(
    k=st.integers(1, NUM_ITEMS),
    probes=st.integers(1, 10),
    num_dropped=st.sampled_from([0, 1, 30, NUM_ITEMS - 3, NUM_ITEMS]),
    seed=st.integers(0, 99),
)
def test_few_cells_fill_every_row_that_can_be_filled(k: int, probes: int, num_dropped: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    dropped = np.stack([NUM_SPECIAL_IDS + random.permutation(NUM_ITEMS)[:num_dropped] for _ in QUERIES])
    index = InvertedFileIndex(SCORES, num_cells=10)
    index.probes.assign(probes)
    found_scores, found_ids = index.top(tf.constant(QUERIES), tf.constant(KNOWN), dropped.astype(np.int32), k)
    found = answered((found_scores, found_ids))
    assert [len(row) for row in found] == [min(k, NUM_ITEMS - num_dropped)] * len(QUERIES)
    for row, ids in enumerate(found):
        assert len(set(ids)) == len(ids)
        assert not set(ids) & {0, 1, 2, *dropped[row].tolist()}
    theirs = SCORES.of(tf.constant(QUERIES), tf.constant(KNOWN), found_ids).numpy()
    there = found_scores.numpy() > MISSING_SCORE
    np.testing.assert_allclose(found_scores.numpy()[there], theirs[there], rtol=1e-4, atol=1e-4)
    assert found[1] == by_hand(dropped, k)[1], "without a known item, by popularity"


def test_a_row_probes_for_its_own_k_and_its_own_dropped_items() -> None:
    INVERTED.probes.assign(1)
    try:
        queries, known = tf.constant(QUERIES[[0, 2]]), tf.constant([True, True])
        dropped = np.array([[0] * 150, [*range(3, 153)]], np.int32)
        _, together = INVERTED.top(queries, known, dropped, 150, tf.constant([5, 150]))
        _, alone = INVERTED.top(queries[:1], known[:1], dropped[:1, :0], 5)
        np.testing.assert_array_equal(together[0, :5], alone[0])
    finally:
        INVERTED.probes.assign(10)


def test_cells_follow_the_queries_that_come() -> None:
    # Queries see the first two dimensions only: items that are alike in these belong together, whatever else they are.
    random = np.random.default_rng(4)
    scores = item_scores()
    table = scores.item_table.numpy()
    table[:, 2:] *= 4
    scores.item_table.assign(table)
    scores.output_bias.assign(tf.zeros([V]))
    queries = np.pad(random.normal(size=[200, 2]).astype(np.float32), [[0, 0], [0, D - 2]])
    known, nothing = tf.ones([200], tf.bool), tf.zeros([200, 0], tf.int32)
    exact = answered(ExactIndex(scores).top(queries, known, nothing, 10))
    recall = []
    for sample in (queries, None):
        index = InvertedFileIndex(scores, sample, num_cells=10)
        index.probes.assign(2)
        found = answered(tf.function(index.top)(queries, known, nothing, 10))
        recall.append(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, exact, strict=True)]))
    assert recall[0] > 0.7
    assert recall[1] < 0.4


def test_cells_hold_every_item_once() -> None:
    ids, ends = INVERTED._ids.numpy(), INVERTED._ends.numpy()
    assert sorted(ids.tolist()) == list(range(NUM_SPECIAL_IDS, V))
    assert ends[-1] == NUM_ITEMS
    assert (np.diff(ends) >= 0).all()
    np.testing.assert_array_equal(INVERTED._vectors[:, :D], tf.gather(SCORES.item_table, ids))


@pytest.mark.parametrize("num_cells", [1, NUM_ITEMS])
def test_as_many_cells_as_one_likes(num_cells: int) -> None:
    index = InvertedFileIndex(SCORES, num_cells=num_cells)
    dropped = np.array([[5], [6], [7]], np.int32)
    assert answered(index.top(QUERIES, tf.constant(KNOWN), dropped, 9)) == by_hand(dropped, 9)


@given(held=st.lists(st.integers(0, 20), min_size=1), asked=st.lists(st.integers(0, 20)))
def test_contains(held: list[int], asked: list[int]) -> None:
    found = contains(tf.constant([sorted(held)]), tf.constant([asked], tf.int32))
    assert found.numpy().tolist() == [[item in held for item in asked]]
