"""Windows over training sequences, and the Cloze objective's masked instances (paper sections 3.6 and 4.3)."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from bert4rec_tf.config import MaskingConfig
from bert4rec_tf.vocabulary import MASK_ID, NUM_SPECIAL_IDS
from pipelines.hashed_random import hashed_bits, hashed_uniform
from tfrecords.schema import Ragged, take_slices

# What a draw is for; part of its key, so that no two kinds of draw ever see the same bits.
_RATE, _SLOT, _REPLACEMENT, _RANDOM_ITEM = 1, 2, 3, 4
_NO_SLOT = np.uint64(2**64 - 1)
_CHUNK = 2048  # instances masked at a time: the work stays in the processor's cache


@dataclasses.dataclass(frozen=True)
class Windows:
    """Cuts of training sequences, at most N items long.

    Attributes:
        training: the sequences; windows overlap, so their items are taken out a few at a time.
        sequences: int64 [windows], the row that each was cut from.
        starts: int64 [windows], where in that row.
        lengths: int64 [windows].
    """

    training: Ragged
    sequences: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    def item_ids(self, windows: np.ndarray) -> Ragged:
        """The items of some windows."""
        starts = self.training.offsets[self.sequences[windows]] + self.starts[windows]
        return take_slices(self.training.values, starts, self.lengths[windows])

    def __len__(self) -> int:
        return len(self.sequences)


@dataclasses.dataclass(frozen=True)
class MaskedInstances:
    """Instances as they are stored; see `tfrecords.schema.MASKED_INSTANCE`.

    Attributes:
        keys: uint64 [instances], random and different: sorting by them shuffles.
        item_ids, masked_positions, masked_item_ids: rows of different lengths.
    """

    keys: np.ndarray
    item_ids: Ragged
    masked_positions: Ragged
    masked_item_ids: Ragged


def cut_windows(training: Ragged, max_seq_length: int, sliding_window: float) -> Windows:
    """Cuts sequences longer than N into windows of N that step back from the newest item; the oldest starts at 0.

    The step is `sliding_window` x N, and the windows those of the authors' code (gen_data_fin.py); with a
    `sliding_window` of 0 there is the newest one alone. Empty sequences give none.
    """
    step = max(1, int(sliding_window * max_seq_length))
    lengths = training.lengths
    excess = np.maximum(lengths - max_seq_length, 0)
    counts = np.where(lengths > 0, 1 + (-(-excess // step) if sliding_window else 0), 0)
    sequences = np.repeat(np.arange(len(training)), counts)
    last_of_sequence = np.repeat(np.cumsum(counts), counts) - 1
    steps_back = last_of_sequence - np.arange(len(sequences))
    starts = np.maximum(excess[sequences] - steps_back * step, 0)
    return Windows(training, sequences, starts, np.minimum(lengths[sequences], max_seq_length))


def mask_windows(
    windows: Windows, sequence_keys: np.ndarray, masking: MaskingConfig, vocabulary_size: int, seed: int
) -> Iterator[MaskedInstances]:
    """Makes `duplicate_factor` randomly masked instances and `last_item_instances` of each window, in chunks.

    Of an instance of n items, round(rate x n) are masked: at least one, at most `max_predictions`. What is masked
    depends on the seed, the sequence's key, where the window starts and which duplicate it is, and on nothing else.

    Args:
        windows: from `cut_windows`.
        sequence_keys: uint64 [sequences], a portable hash of each sequence's user id.
        masking: rates, factors and replacement.
        vocabulary_size: V, for random replacement items.
        seed: of the pipeline.
    """
    copies = masking.duplicate_factor + masking.last_item_instances
    window_keys = hashed_bits(seed, sequence_keys[windows.sequences], windows.starts)
    for first in range(0, len(windows) * copies, _CHUNK):
        instances = np.arange(first, min(first + _CHUNK, len(windows) * copies))
        of_window, copy = instances // copies, instances % copies
        item_ids = windows.item_ids(of_window)
        keys = hashed_bits(window_keys[of_window], copy)
        yield _mask(item_ids, keys, copy >= masking.duplicate_factor, masking, vocabulary_size)


def _mask(
    item_ids: Ragged, keys: np.ndarray, last_only: np.ndarray, masking: MaskingConfig, vocabulary_size: int
) -> MaskedInstances:
    lengths = item_ids.lengths
    rates = np.array(masking.masking_rates)[hashed_bits(keys, _RATE) % np.uint64(len(masking.masking_rates))]
    numbers = np.maximum(np.rint(lengths * rates).astype(np.int64), 1)
    if masking.max_predictions is not None:
        numbers = np.minimum(numbers, masking.max_predictions)

    # The k smallest of n random numbers are a uniform draw of k slots: sort each row, and compare with its k-th.
    places = np.arange(lengths.max(initial=1))
    slots = np.where(places < lengths[:, None], hashed_bits(keys[:, None], _SLOT, places), _NO_SLOT)
    kth = np.take_along_axis(np.sort(slots, axis=1), numbers[:, None] - 1, axis=1)
    masked = np.where(last_only[:, None], places == lengths[:, None] - 1, slots <= kth)

    rows, positions = np.nonzero(masked)
    at = item_ids.offsets[rows] + positions
    masked_item_ids = item_ids.values[at]
    shown = item_ids.values.copy()
    shown[at] = MASK_ID
    if masking.random_item_rate or masking.kept_item_rate:
        slot_keys = slots[rows, positions]
        draw = hashed_uniform(slot_keys, _REPLACEMENT)
        replaced = draw < masking.random_item_rate
        kept = ~replaced & (draw < masking.random_item_rate + masking.kept_item_rate)
        random_items = hashed_bits(slot_keys, _RANDOM_ITEM) % np.uint64(vocabulary_size - NUM_SPECIAL_IDS)
        shown[at[replaced]] = random_items[replaced].astype(shown.dtype) + NUM_SPECIAL_IDS
        shown[at[kept]] = masked_item_ids[kept]
    offsets = np.concatenate([[0], np.cumsum(masked.sum(axis=1))])
    return MaskedInstances(
        keys, Ragged(shown, item_ids.offsets), Ragged(positions, offsets), Ragged(masked_item_ids, offsets)
    )
