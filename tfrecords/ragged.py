"""Rows of different lengths in two flat arrays."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Ragged:
    """Rows of different lengths: row i is `values[offsets[i]:offsets[i + 1]]`.

    Attributes:
        values: int64 [sum of lengths].
        offsets: int64 [rows + 1], starts at 0 and never decreases.
    """

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_lengths(cls, values: np.ndarray, lengths: np.ndarray) -> "Ragged":
        """Rows of `lengths` [rows], concatenated in `values`."""
        return cls(values, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))

    @property
    def lengths(self) -> np.ndarray:
        """int64 [rows]."""
        return np.diff(self.offsets)

    def rows(self, indices: np.ndarray) -> "Ragged":
        """The rows at `indices`, in that order."""
        return take_slices(self.values, self.offsets[indices], self.lengths[indices])

    def __len__(self) -> int:
        return len(self.offsets) - 1


def take_slices(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> Ragged:
    """Rows `values[start:start + length]`, one per start and length, without a loop."""
    rows = Ragged.from_lengths(values[:0], lengths)
    indices = np.arange(rows.offsets[-1]) + np.repeat(starts - rows.offsets[:-1], lengths)
    return Ragged(values[indices], rows.offsets)


def joined(first: Ragged, second: Ragged) -> Ragged:
    """Concatenates the rows of two: row i is `first`'s row i followed by `second`'s row i."""
    rows = np.concatenate([np.repeat(np.arange(len(ragged)), ragged.lengths) for ragged in (first, second)])
    values = np.concatenate([first.values, second.values])
    return Ragged.from_lengths(values[np.argsort(rows, kind="stable")], first.lengths + second.lengths)
