"""The Cloze objective's masked instances of training windows (paper sections 3.6 and 4.3)."""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from pipelines.stages.windows import Windows
from tfrecords.config import MaskingConfig
from tfrecords.hashed_random import hashed_bits, hashed_uniform
from tfrecords.ragged import Ragged
from tfrecords.vocabulary import MASK_ID, NUM_SPECIAL_IDS

# The purpose of a draw is part of its key, so that no two kinds of draws share their bits.
_RATE, _SLOT, _REPLACEMENT, _RANDOM_ITEM = 1, 2, 3, 4
_NO_SLOT = np.uint64(2**64 - 1)
_CHUNK = 2048  # instances masked at a time, so that the work fits in the processor's cache


@dataclasses.dataclass(frozen=True)
class MaskedWindows:
    """Windows and their masked instances; see `tfrecords.schema.MASKED_WINDOW`.

    Attributes:
        windows: int64 [windows], their indices.
        keys: uint64 [windows], random and distinct: sorting by them shuffles.
        item_ids: the windows' items.
        masked_counts: int64 [windows, instances per window], number of masked slots of each instance.
        masked_positions: the masked slots of each window's instances, concatenated.
        shown_item_ids: the ids that these slots show; a row is empty if all of its slots show [MASK].
    """

    windows: np.ndarray
    keys: np.ndarray
    item_ids: Ragged
    masked_counts: np.ndarray
    masked_positions: Ragged
    shown_item_ids: Ragged


def mask_windows(
    windows: Windows, sequence_keys: np.ndarray, masking: MaskingConfig, vocabulary_size: int, seed: int
) -> Iterator[MaskedWindows]:
    """Makes `duplicate_factor` randomly masked instances and `last_item_instances` of each window, in chunks.

    In an instance of n items, round(rate x n) are masked: at least one, at most `max_predictions`. The masks depend
    only on the seed, the sequence's key, the start of the window and the number of the instance.

    Args:
        windows: from `cut_windows`.
        sequence_keys: uint64 [sequences], a portable hash of each sequence's user id.
        masking: rates, factors and replacement.
        vocabulary_size: V, for random replacement items.
        seed: of the pipeline.
    """
    copies = masking.instances_per_window
    window_keys = hashed_bits(seed, sequence_keys[windows.sequences], windows.starts)
    last_only = np.arange(copies) >= masking.duplicate_factor
    at_once = max(1, _CHUNK // copies)
    for first in range(0, len(windows), at_once):
        chunk = np.arange(first, min(first + at_once, len(windows)))
        item_ids = windows.item_ids(chunk)
        keys = hashed_bits(window_keys[chunk, None], np.arange(copies)).ravel()
        masks = draw_masks(np.repeat(item_ids.lengths, copies), keys, np.tile(last_only, len(chunk)), masking)
        shown = np.zeros(0, np.int64)
        if masking.random_item_rate or masking.kept_item_rate:
            items = item_ids.values[item_ids.offsets[masks.rows // copies] + masks.positions]
            shown = draw_shown(items, masks.slot_keys, masking, vocabulary_size)
        counts = np.bincount(masks.rows, minlength=len(keys)).reshape(-1, copies)
        masked_per_window = counts.sum(axis=1)
        yield MaskedWindows(
            chunk,
            window_keys[chunk],
            item_ids,
            counts,
            Ragged.from_lengths(masks.positions, masked_per_window),
            Ragged.from_lengths(shown, masked_per_window if len(shown) else 0 * masked_per_window),
        )


class Masks(NamedTuple):
    """Masked slots, by instance and then rising: the index of the instance, the slot, and the slot's random key."""

    rows: np.ndarray
    positions: np.ndarray
    slot_keys: np.ndarray


def draw_masks(lengths: np.ndarray, keys: np.ndarray, last_only: np.ndarray, masking: MaskingConfig) -> Masks:
    """Draws the slots to mask.

    Args:
        lengths: int64 [instances], at least 1.
        keys: uint64 [instances].
        last_only: bool [instances], True if only the last item is masked.
        masking: rates and cap.
    """
    rates = np.array(masking.masking_rates)[hashed_bits(keys, _RATE) % np.uint64(len(masking.masking_rates))]
    numbers = np.maximum(np.rint(lengths * rates).astype(np.int64), 1)
    if masking.max_predictions is not None:
        numbers = np.minimum(numbers, masking.max_predictions)
    # The k smallest of n random numbers are a uniform draw of k slots: sort each row, and compare with its k-th.
    slot_indices = np.arange(lengths.max(initial=1))
    slots = np.where(slot_indices < lengths[:, None], hashed_bits(keys[:, None], _SLOT, slot_indices), _NO_SLOT)
    kth = np.take_along_axis(np.sort(slots, axis=1), numbers[:, None] - 1, axis=1)
    masked = np.where(last_only[:, None], slot_indices == lengths[:, None] - 1, slots <= kth)
    rows, positions = np.nonzero(masked)
    return Masks(rows, positions, slots[rows, positions])


def draw_shown(item_ids: np.ndarray, slot_keys: np.ndarray, masking: MaskingConfig, vocabulary_size: int) -> np.ndarray:
    """The ids that masked slots show: [MASK], a random item or the item itself; int64, as many as `item_ids`."""
    draw = hashed_uniform(slot_keys, _REPLACEMENT)
    random_items = hashed_bits(slot_keys, _RANDOM_ITEM) % np.uint64(vocabulary_size - NUM_SPECIAL_IDS)
    shown = np.where(draw < masking.random_item_rate + masking.kept_item_rate, item_ids, MASK_ID)
    return np.where(draw < masking.random_item_rate, random_items.astype(np.int64) + NUM_SPECIAL_IDS, shown)
