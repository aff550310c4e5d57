"""Windows of at most N items, cut from training sequences (paper section 4.1)."""

import dataclasses

import numpy as np

from tfrecords.ragged import Ragged, take_slices


@dataclasses.dataclass(frozen=True)
class Windows:
    """Slices of training sequences, at most N items long.

    Attributes:
        training: the sequences; windows overlap, so their items are copied only a few windows at a time.
        sequences: int64 [windows], the row that each window is a slice of.
        starts: int64 [windows], the offset of the window in that row.
        lengths: int64 [windows].
    """

    training: Ragged
    sequences: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    def item_ids(self, windows: np.ndarray) -> Ragged:
        """The items of the windows at some indices."""
        return self.slices(self.training.values, windows)

    def slices(self, values: np.ndarray, windows: np.ndarray) -> Ragged:
        """The rows of the windows at some indices, of values that run parallel to those of `training`."""
        starts = self.training.offsets[self.sequences[windows]] + self.starts[windows]
        return take_slices(values, starts, self.lengths[windows])

    def reaching(self, offsets: np.ndarray) -> "Windows":
        """The windows with an item at or after an offset of their sequence; `offsets` is int64 [sequences]."""
        kept = self.starts + self.lengths > offsets[self.sequences]
        return Windows(self.training, self.sequences[kept], self.starts[kept], self.lengths[kept])

    def __len__(self) -> int:
        return len(self.sequences)


def cut_windows(training: Ragged, max_seq_length: int, sliding_window: float) -> Windows:
    """Cuts sequences longer than N into windows of N that step back from the newest item; the oldest starts at 0.

    The step is `sliding_window` x N, as in the authors' code (gen_data_fin.py). A `sliding_window` of 0 keeps only the
    newest window. Empty sequences have no window.
    """
    lengths = training.lengths
    step = max(1, int(sliding_window * max_seq_length))
    excess = np.maximum(lengths - max_seq_length, 0)
    counts = np.where(lengths > 0, 1 + (-(-excess // step) if sliding_window else 0), 0)
    sequences = np.repeat(np.arange(len(training)), counts)
    last_of_sequence = np.repeat(np.cumsum(counts), counts) - 1
    steps_back = last_of_sequence - np.arange(len(sequences))
    starts = np.maximum(excess[sequences] - steps_back * step, 0)
    return Windows(training, sequences, starts, np.minimum(lengths[sequences], max_seq_length))
