"""Both splits against lists."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from ragged_lists import lists, ragged

from bert4rec_tf.config import DataConfig
from pipelines.splits import MIN_EVALUATED_EVENTS, Targets, leave_one_out, split_sequences, temporal
from tfrecords.schema import take_slices


@given(st.lists(st.lists(st.integers(3, 99), min_size=1, max_size=7), max_size=6))
@example([[5], [5, 6], [5, 6, 7]])
@example([[5], [5, 6]])
@example([])
def test_leave_one_out_is_that_of_lists(sequences: list[list[int]]) -> None:
    split = leave_one_out(ragged(sequences))
    evaluated = [user for user, items in enumerate(sequences) if len(items) >= MIN_EVALUATED_EVENTS]
    assert lists(split.training) == [items[:-2] if len(items) >= 3 else items for items in sequences]
    for targets, cut in ((split.validation, 2), (split.test, 1)):
        assert isinstance(targets, Targets)
        assert targets.users.tolist() == evaluated
        assert targets.item_ids.tolist() == [sequences[user][-cut] for user in evaluated]
        assert lists(targets.histories) == [sequences[user][:-cut] for user in evaluated]


@given(st.lists(st.tuples(st.lists(st.integers(3, 99), min_size=1, max_size=7), st.integers(0, 7)), max_size=6))
@example([([5], 0), ([5], 1), ([5, 6], 1), ([5, 6], 2), ([5, 6, 7], 0)])
@example([])
def test_temporal_is_that_of_lists(users: list[tuple[list[int], int]]) -> None:
    sequences, early = [items for items, _ in users], [min(place, len(items)) for items, place in users]
    split = temporal(ragged(sequences), np.array(early, np.int64))
    pairs = list(zip(sequences, early, strict=True))
    assert lists(split.training) == [items[: place - 1] if place >= 2 else items[:place] for items, place in pairs]
    validated = [user for user, place in enumerate(early) if place >= 2]
    assert split.validation.users.tolist() == validated
    assert split.validation.item_ids.tolist() == [sequences[user][early[user] - 1] for user in validated]
    assert lists(split.validation.histories) == [sequences[user][: early[user] - 1] for user in validated]
    tested = [user for user, (items, place) in enumerate(pairs) if place < len(items) > 1]
    assert split.test.users.tolist() == tested
    assert split.test.item_ids.tolist() == [sequences[user][-1] for user in tested]
    assert lists(split.test.histories) == [sequences[user][:-1] for user in tested]


def test_the_configuration_chooses_the_split() -> None:
    sequences, early = ragged([[5, 6, 7, 8]]), np.array([2])
    assert lists(split_sequences(sequences, early, DataConfig()).training) == [[5, 6]]
    by_time = split_sequences(sequences, early, DataConfig(split="temporal", split_time=9.0))
    assert lists(by_time.training) == [[5]]
    assert lists(by_time.test.rows(0, 9).histories) == [[5, 6, 7]]
    assert lists(by_time.test.rows(1, 2).histories) == []


@given(st.lists(st.integers(), min_size=1, max_size=9), st.data())
def test_take_slices_is_slicing(values: list[int], data: st.DataObject) -> None:
    places = st.integers(0, len(values))
    bounds = data.draw(st.lists(st.tuples(places, places).map(sorted), max_size=5))
    starts = np.array([start for start, _ in bounds], np.int64)
    ends = np.array([end for _, end in bounds], np.int64)
    taken = take_slices(np.array(values, dtype=object), starts, ends - starts)
    assert lists(taken) == [values[start:end] for start, end in bounds]
