"""Ragged rows against lists."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.support.ragged_lists import lists
from tfrecords.ragged import take_slices


@given(st.lists(st.integers(), min_size=1, max_size=9), st.data())
def test_take_slices_is_slicing(values: list[int], data: st.DataObject) -> None:
    places = st.integers(0, len(values))
    bounds = data.draw(st.lists(st.tuples(places, places).map(sorted), max_size=5))
    starts = np.array([start for start, _ in bounds], np.int64)
    ends = np.array([end for _, end in bounds], np.int64)
    taken = take_slices(np.array(values, dtype=object), starts, ends - starts)
    assert lists(taken) == [values[start:end] for start, end in bounds]
