"""Ragged rows against lists."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.support.ragged_lists import lists, ragged
from tfrecords.ragged import Ragged, joined, take_slices

ROW = st.lists(st.integers(-9, 9), max_size=4)
ROWS = st.lists(ROW, max_size=6)


@given(ROWS)
def test_lists_become_rows(rows: list[list[int]]) -> None:
    found = ragged(rows)
    assert isinstance(found, Ragged)
    assert len(found) == len(rows)
    assert found.lengths.tolist() == [len(row) for row in rows]
    assert lists(found) == rows


@given(ROWS.filter(bool), st.data())
def test_rows_are_taken_by_index(rows: list[list[int]], data: st.DataObject) -> None:
    indices = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8))
    assert lists(ragged(rows).rows(np.array(indices, np.int64))) == [rows[index] for index in indices]


@given(st.lists(st.tuples(ROW, ROW), max_size=5))
def test_joined_rows_are_concatenated(pairs: list[tuple[list[int], list[int]]]) -> None:
    firsts, seconds = [first for first, _ in pairs], [second for _, second in pairs]
    assert lists(joined(ragged(firsts), ragged(seconds))) == [first + second for first, second in pairs]


@given(st.lists(st.integers(), min_size=1, max_size=9), st.data())
def test_take_slices_is_slicing(values: list[int], data: st.DataObject) -> None:
    ends = st.integers(0, len(values))
    bounds = data.draw(st.lists(st.tuples(ends, ends).map(sorted), max_size=5))
    starts = np.array([start for start, _ in bounds], np.int64)
    lengths = np.array([end - start for start, end in bounds], np.int64)
    taken = take_slices(np.array(values, dtype=object), starts, lengths)
    assert lists(taken) == [values[start:end] for start, end in bounds]
