"""Both splits against slices of lists."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.stages.splits import (
    MIN_EVALUATED_EVENTS,
    Targets,
    evaluated_share,
    leave_one_out,
    split_sequences,
    temporal,
)
from tests.support.ragged_lists import lists, ragged
from tfrecords.config import DataConfig
from tfrecords.hashed_random import hashed_bits


@given(
    st.lists(st.tuples(st.lists(st.integers(3, 99), min_size=1, max_size=7), st.booleans(), st.booleans()), max_size=6)
)
@example([([5], True, True), ([5, 6], True, True), ([5, 6, 7], True, True), ([5, 6, 7], False, True)])
@example([([5, 6, 7], True, False), ([5, 6, 7], False, False)])
@example([([5], True, True), ([5, 6], True, True)])
@example([])
def test_leave_one_out_equals_slices_of_lists(users: list[tuple[list[int], bool, bool]]) -> None:
    sequences, drawn = [items for items, *_ in users], [is_drawn for _, is_drawn, _ in users]
    evaluated = [is_evaluated for *_, is_evaluated in users]
    split = leave_one_out(ragged(sequences), np.array(evaluated, bool), np.array(drawn, bool))
    tested = [user for user, items in enumerate(sequences) if len(items) >= MIN_EVALUATED_EVENTS and evaluated[user]]
    validated = [user for user in tested if drawn[user]]
    kept = [-2 if user in validated else -1 if user in tested else None for user in range(len(users))]
    assert lists(split.training) == [items[:end] for items, end in zip(sequences, kept, strict=True)]
    for targets, expected_users, cut in ((split.validation, validated, 2), (split.test, tested, 1)):
        assert isinstance(targets, Targets)
        assert targets.users.tolist() == expected_users
        assert targets.targets.tolist() == [sequences[user][-cut] for user in expected_users]
        assert lists(targets.histories) == [sequences[user][:-cut] for user in expected_users]


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(3, 99), min_size=1, max_size=7), st.integers(0, 7), st.booleans(), st.booleans()
        ),
        max_size=6,
    )
)
@example([([5], 0, True, True), ([5], 1, True, True), ([5, 6], 1, True, True), ([5, 6], 2, True, True)])
@example([([5, 6, 7], 0, True, True), ([5, 6, 7], 1, True, False)])
@example([([5, 6], 2, False, True)])
@example([])
def test_temporal_split_equals_slices_of_lists(users: list[tuple[list[int], int, bool, bool]]) -> None:
    sequences, early = [items for items, *_ in users], [min(number, len(items)) for items, number, *_ in users]
    drawn, evaluated = [is_drawn for *_, is_drawn, _ in users], [is_evaluated for *_, is_evaluated in users]
    split = temporal(ragged(sequences), np.array(early, np.int64), np.array(evaluated, bool), np.array(drawn, bool))
    pairs = list(zip(sequences, early, strict=True))
    validated = [user for user, number in enumerate(early) if number >= 2 and drawn[user]]
    assert lists(split.training) == [
        items[: number - (user in validated)] for user, (items, number) in enumerate(pairs)
    ]
    assert split.validation.users.tolist() == validated
    assert split.validation.targets.tolist() == [sequences[user][early[user] - 1] for user in validated]
    assert lists(split.validation.histories) == [sequences[user][: early[user] - 1] for user in validated]
    tested = [user for user, (items, number) in enumerate(pairs) if number < len(items) > 1 and evaluated[user]]
    assert split.test.users.tolist() == tested
    assert split.test.targets.tolist() == [sequences[user][-1] for user in tested]
    assert lists(split.test.histories) == [sequences[user][:-1] for user in tested]


def test_the_configuration_chooses_the_split() -> None:
    sequences, early, keys = ragged([[5, 6, 7, 8]]), np.array([2]), np.array([11], np.uint64)
    assert lists(split_sequences(sequences, early, keys, DataConfig()).training) == [[5, 6]]
    by_time = split_sequences(sequences, early, keys, DataConfig(split="temporal", split_time=9.0))
    assert lists(by_time.training) == [[5]]
    assert lists(by_time.test.rows(0, 9).histories) == [[5, 6, 7]]
    assert lists(by_time.test.rows(1, 2).histories) == []


def test_validated_users_are_drawn_by_user_and_seed() -> None:
    keys = hashed_bits(11, np.arange(10_000))
    sequences, early = ragged([[5, 6, 7]] * 10_000), np.full(10_000, 3)

    def validated(share: float, seed: int, users: slice = slice(None)) -> set[int]:
        data = DataConfig(validation_share=share, seed=seed)
        some = np.arange(10_000)[users]
        split = split_sequences(sequences.rows(some), early[some], keys[some], data)
        assert len(split.test.users) == len(some)
        return set(some[split.validation.users].tolist())

    few = validated(0.1, seed=1)
    assert 900 < len(few) < 1100  # binomial: 30 is a standard deviation
    assert few < validated(0.3, seed=1)
    # A draw does not depend on the other users of a shard.
    assert few & set(range(5_000)) == validated(0.1, seed=1, users=slice(5_000))
    assert len(few & validated(0.1, seed=2)) < 200  # 100 are expected
    assert validated(1.0, seed=1) == set(range(10_000))


def test_a_share_of_the_users_is_evaluated_and_all_else_is_trained_on() -> None:
    sequences, keys = ragged([[5, 6, 7, 8]] * 2000), hashed_bits(np.arange(2000))
    data = DataConfig(evaluation_users=500, validation_share=0.5)
    assert evaluated_share(data, 2000) == 0.25
    assert evaluated_share(data, 100) == evaluated_share(DataConfig(), 100) == 1.0
    split = split_sequences(sequences, np.zeros(2000, np.int64), keys, data, 0.25)
    tested, validated = set(split.test.users.tolist()), set(split.validation.users.tolist())
    assert abs(len(tested) - 500) < 4 * (2000 * 0.25 * 0.75) ** 0.5
    assert abs(len(validated) - len(tested) / 2) < 4 * (len(tested) / 4) ** 0.5
    assert validated < tested
    expected = [4 - (user in tested) - (user in validated) for user in range(2000)]
    assert split.training.lengths.tolist() == expected
