"""Leave-one-out against lists."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from ragged_lists import lists, ragged

from pipelines.splits import MIN_EVALUATED_EVENTS, Targets, leave_one_out
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


@given(st.lists(st.integers(), min_size=1, max_size=9), st.data())
def test_take_slices_is_slicing(values: list[int], data: st.DataObject) -> None:
    places = st.integers(0, len(values))
    bounds = data.draw(st.lists(st.tuples(places, places).map(sorted), max_size=5))
    starts = np.array([start for start, _ in bounds], np.int64)
    ends = np.array([end for _, end in bounds], np.int64)
    taken = take_slices(np.array(values, dtype=object), starts, ends - starts)
    assert lists(taken) == [values[start:end] for start, end in bounds]
