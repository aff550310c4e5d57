"""Rows of different lengths in two flat arrays."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    pass


@dataclasses.dataclass(frozen=True)
class Ragged:
    """Rows of different lengths: row i is `values[offsets[i]:offsets[i + 1]]`.

    Attributes:
        values: int64 [sum of lengths].
        offsets: int64 [rows + 1], from 0, never falling.
    """

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_lengths(cls, values: np.ndarray, lengths: np.ndarray) -> "Ragged":
        """Rows of `lengths` [rows], one after the other in `values`."""
        return cls(values, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))

    @property
    def lengths(self) -> np.ndarray:
        """int64 [rows]."""
        return np.diff(self.offsets)

    def rows(self, places: np.ndarray) -> "Ragged":
        """The rows at `places`, in that order."""
        return take_slices(self.values, self.offsets[places], self.lengths[places])

    def __len__(self) -> int:
        return len(self.offsets) - 1


def take_slices(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> Ragged:
    """Rows `values[start:start + length]`, one for each start and length, without a loop."""
    rows = Ragged.from_lengths(values[:0], lengths)
    places = np.arange(rows.offsets[-1]) + np.repeat(starts - rows.offsets[:-1], lengths)
    return Ragged(values[places], rows.offsets)


def joined(first: Ragged, second: Ragged) -> Ragged:
    """Each row of one with that of the other behind it."""
    rows = np.concatenate([np.repeat(np.arange(len(ragged)), ragged.lengths) for ragged in (first, second)])
    values = np.concatenate([first.values, second.values])
    return Ragged.from_lengths(values[np.argsort(rows, kind="stable")], first.lengths + second.lengths)
