"""Ranks and seen items against brute force in Python."""

import numpy as np
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from bert4rec_tf.evaluation.ranking_ops import best_items, full_ranks, items_in, sampled_ranks
from tfrecords.vocabulary import NUM_SPECIAL_IDS, PAD_ID

VOCABULARY_SIZE = 9
ITEMS = range(NUM_SPECIAL_IDS, VOCABULARY_SIZE)


@st.composite
def users(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scores [B, V] with many ties, histories [B, L] and negatives [B, M] with padding anywhere, targets [B].

    A target may be in its own history and among its own negatives; special ids often score best.
    """
    batch, length, number = draw(st.integers(1, 4)), draw(st.integers(0, 5)), draw(st.integers(0, 5))

    def array(values: st.SearchStrategy, *shape: int) -> list:
        if not shape:
            return draw(values)
        return [array(values, *shape[1:]) for _ in range(shape[0])]

    score = st.sampled_from([-1e9, -1.5, 0.0, 0.25, 7.0])
    scores = np.array(array(score, batch, VOCABULARY_SIZE), np.float32)
    histories = np.array(array(st.integers(0, VOCABULARY_SIZE - 1), batch, length), np.int32).reshape(batch, length)
    negatives = np.array(array(st.sampled_from([PAD_ID, *ITEMS]), batch, number), np.int32).reshape(batch, number)
    targets = np.array(array(st.sampled_from(ITEMS), batch), np.int32)
    return scores, histories, negatives, targets


def distinct(histories: np.ndarray) -> np.ndarray:
    """The histories with each item once; PAD_ID replaces the others."""
    repeats = [[item in row[:slot] for slot, item in enumerate(row)] for row in histories.tolist()]
    return np.where(np.array(repeats, bool).reshape(histories.shape), PAD_ID, histories).astype(np.int32)


def rank_among(row: np.ndarray, target: int, others: list[int]) -> int:
    """The target's rank when it and the others are sorted by falling score, then by id."""
    return sorted([target, *others], key=lambda item: (-row[item], item)).index(target) + 1


@settings(max_examples=80)
@given(users())
def test_full_ranks(drawn: tuple[np.ndarray, ...]) -> None:
    scores, histories, _, targets = drawn
    expected = [
        rank_among(row, target, [item for item in ITEMS if item not in history and item != target])
        for row, history, target in zip(scores, histories, targets, strict=True)
    ]
    ranks = full_ranks(tf.constant(scores), tf.constant(distinct(histories)), tf.constant(targets))
    assert ranks.dtype == tf.int32
    assert ranks.numpy().tolist() == expected


@settings(max_examples=80)
@given(users(), st.integers(1, 10))
def test_best_items(drawn: tuple[np.ndarray, ...], k: int) -> None:
    scores, histories, _, targets = drawn
    found = best_items(tf.constant(scores), tf.constant(histories), k)
    assert found.dtype == tf.int32
    ranks = full_ranks(tf.constant(scores), tf.constant(distinct(histories)), tf.constant(targets)).numpy()
    for row, history, target, rank, best in zip(scores, histories, targets, ranks, found.numpy().tolist(), strict=True):
        left = sorted((item for item in ITEMS if item not in history), key=lambda item: (-row[item], item))
        assert best == (left + [PAD_ID] * k)[:k]
        if target not in history:
            assert best[rank - 1 : rank] == ([target] if rank <= k else [])


@settings(max_examples=80)
@given(users())
def test_sampled_ranks(drawn: tuple[np.ndarray, ...]) -> None:
    scores, _, negatives, targets = drawn
    expected = [
        rank_among(row, target, [item for item in row_negatives if item not in (PAD_ID, target)])
        for row, row_negatives, target in zip(scores, negatives, targets, strict=True)
    ]
    ranks = sampled_ranks(tf.constant(scores), tf.constant(targets), tf.constant(negatives))
    assert ranks.dtype == tf.int32
    assert ranks.numpy().tolist() == expected


@settings(max_examples=50)
@given(users())
def test_items_in(drawn: tuple[np.ndarray, ...]) -> None:
    _, histories, _, _ = drawn
    expected = [[item in history for item in range(VOCABULARY_SIZE)] for history in histories.tolist()]
    assert items_in(tf.constant(histories), VOCABULARY_SIZE).numpy().tolist() == expected


def test_ranks_by_hand() -> None:
    # Ids 0 to 2 are special; 3 is in the history; 4 and 6 have the score of the target, 5; 4 is the lower id.
    scores = tf.constant([[9.0, 9.0, 9.0, 8.0, 1.0, 1.0, 1.0, 2.0]])
    history, target = tf.constant([[3, PAD_ID]]), tf.constant([5])
    assert full_ranks(scores, history, target).numpy().tolist() == [3]
    assert full_ranks(scores, tf.constant([[3, 5]]), target).numpy().tolist() == [3], "the target stays in the ranking"
    assert best_items(scores, history, 3).numpy().tolist() == [[7, 4, 5]]
    assert sampled_ranks(scores, target, tf.constant([[3, 6, PAD_ID]])).numpy().tolist() == [2]
    assert sampled_ranks(scores, target, tf.constant([[PAD_ID, PAD_ID]])).numpy().tolist() == [1]
