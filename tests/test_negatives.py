"""The fixed negatives: unseen, different, drawn by popularity, and each user's own affair."""

import numpy as np
import pytest
from ragged_lists import lists, ragged

from bert4rec_tf.vocabulary import NUM_SPECIAL_IDS
from pipelines.hashed_random import hashed_bits
from pipelines.negatives import draw_negatives
from tfrecords.schema import Ragged

NUM_ITEMS = 60
COUNTS = np.concatenate([1000 // np.arange(1, NUM_ITEMS - 4), np.zeros(5, np.int64)])


def histories(users: int, generator: np.random.Generator) -> Ragged:
    lengths = generator.integers(1, 30, users)
    rows = [generator.choice(NUM_ITEMS, length, replace=False) + NUM_SPECIAL_IDS for length in lengths]
    return ragged([row.tolist() for row in rows])


def everyone_saw(items: list[int], users: int) -> Ragged:
    return ragged([items] * users)


def keys_of(users: int) -> np.ndarray:
    return hashed_bits(11, np.arange(users))


@pytest.mark.parametrize("number", [0, 1, 10, 40, NUM_ITEMS])
def test_negatives_are_unseen_different_and_as_many_as_there_can_be(number: int) -> None:
    sequences = histories(200, np.random.default_rng(1))
    negatives = draw_negatives(sequences, keys_of(200), COUNTS, number, seed=1)
    trained_on = set((np.flatnonzero(COUNTS) + NUM_SPECIAL_IDS).tolist())
    for history, drawn in zip(lists(sequences), lists(negatives), strict=True):
        assert len(set(drawn)) == len(drawn) == min(number, len(trained_on - set(history)))
        assert set(drawn) <= trained_on - set(history)


def test_a_draw_depends_on_seed_and_user_alone() -> None:
    sequences, keys = histories(200, np.random.default_rng(2)), keys_of(200)
    # 40 of at most 55: some users are drawn in one go, some in two, some by races
    together = lists(draw_negatives(sequences, keys, COUNTS, 40, seed=1))
    some = np.array([3, 199, 0, 77])
    alone = lists(draw_negatives(sequences.rows(some), keys[some], COUNTS, 40, seed=1))
    assert alone == [together[user] for user in some]
    assert lists(draw_negatives(sequences, keys, COUNTS, 40, seed=2)) != together
    assert lists(draw_negatives(sequences, keys + np.uint64(1), COUNTS, 40, seed=1)) != together


def assert_frequencies(drawn: np.ndarray, law: np.ndarray) -> None:
    draws = len(drawn)
    counts = np.bincount(drawn - NUM_SPECIAL_IDS, minlength=len(law))
    np.testing.assert_array_less(np.abs(counts - draws * law), 5 * np.sqrt(draws * law * (1 - law)) + 1e-9)


def test_frequencies_are_those_of_the_counts() -> None:
    users, seen = 20_000, [3, 10]
    negatives = draw_negatives(everyone_saw(seen, users), keys_of(users), COUNTS, 1, seed=1)
    law = COUNTS.astype(float)
    law[np.array(seen) - NUM_SPECIAL_IDS] = 0
    assert_frequencies(negatives.values, law / law.sum())


def test_the_second_item_is_drawn_among_those_left() -> None:
    counts, users = np.array([6, 3, 1]), 20_000
    negatives = draw_negatives(everyone_saw([3 + len(counts)], users), keys_of(users), np.append(counts, 1), 2, seed=1)
    second = negatives.values.reshape(users, 2)[:, 1]
    # P(second = j) = sum over i != j of p_i p_j / (1 - p_i)
    share = counts / counts.sum()
    law = share * (np.sum(share / (1 - share)) - share / (1 - share))
    assert_frequencies(second, np.append(law, 0))


def test_who_saw_all_that_is_popular_gets_the_rare_by_the_same_law() -> None:
    # One of 3e17 draws with replacement would meet a rare item: all of these come out of the exponential races.
    counts, users = np.array([10**17, 10**17, 10**17, 1, 2, 3, 0]), 5_000
    negatives = draw_negatives(everyone_saw([3, 4, 5], users), keys_of(users), counts, 1, seed=1)
    assert negatives.lengths.tolist() == [1] * users
    assert_frequencies(negatives.values, np.array([0, 0, 0, 1, 2, 3, 0]) / 6)
    all_rare = draw_negatives(everyone_saw([3, 4, 5], 3), keys_of(3), counts, 100, seed=1)
    assert [sorted(row) for row in lists(all_rare)] == [[6, 7, 8]] * 3


def test_who_saw_all_gets_none() -> None:
    negatives = draw_negatives(everyone_saw([3, 4], 2), keys_of(2), np.array([5, 5, 0]), 4, seed=1)
    assert lists(negatives) == [[], []]
    assert lists(draw_negatives(everyone_saw([3], 2), keys_of(2), np.array([0, 0]), 4, seed=1)) == [[], []]
