"""Ragged columns from lists and back, for tests that compare with lists."""

from itertools import pairwise

import numpy as np

from tfrecords.ragged import Ragged


def ragged(rows: list[list[int]]) -> Ragged:
    values = [value for row in rows for value in row]
    return Ragged.from_lengths(np.array(values, np.int64), np.array([len(row) for row in rows], np.int64))


def lists(rows: Ragged) -> list[list[int]]:
    return [rows.values[start:end].tolist() for start, end in pairwise(rows.offsets)]
