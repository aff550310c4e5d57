"""Windows over training sequences, and the Cloze objective's masked instances (paper sections 3.6 and 4.3)."""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from pipelines.stages.windows import Windows
from tfrecords.config import MaskingConfig
from tfrecords.hashed_random import hashed_bits, hashed_uniform
from tfrecords.ragged import Ragged
from tfrecords.vocabulary import MASK_ID, NUM_SPECIAL_IDS

# What a draw is for; part of its key, so that no two kinds of draw ever see the same bits.
_RATE, _SLOT, _REPLACEMENT, _RANDOM_ITEM = 1, 2, 3, 4
_NO_SLOT = np.uint64(2**64 - 1)
_CHUNK = 2048  # instances masked at a time: the work stays in the processor's cache


@dataclasses.dataclass(frozen=True)
class MaskedWindows:
    """Windows and the masked instances made of them; see `tfrecords.schema.MASKED_WINDOW`.

    Attributes:
        keys: uint64 [windows], random and different: sorting by them shuffles.
        item_ids: the windows' items.
        masked_counts: int64 [windows, instances of each], how many slots each instance has masked.
        masked_positions: for each window the masked slots of its instances, one instance after the other.
        shown_item_ids: for each window what these slots show; rows without a value where all show [MASK].
    """

    keys: np.ndarray
    item_ids: Ragged
    masked_counts: np.ndarray
    masked_positions: Ragged
    shown_item_ids: Ragged


def mask_windows(
    windows: Windows, sequence_keys: np.ndarray, masking: MaskingConfig, vocabulary_size: int, seed: int
) -> Iterator[MaskedWindows]:
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
        of_window = counts.sum(axis=1)
        yield MaskedWindows(
            window_keys[chunk],
            item_ids,
            counts,
            Ragged.from_lengths(masks.positions, of_window),
            Ragged.from_lengths(shown, of_window if len(shown) else 0 * of_window),
        )


class Masks(NamedTuple):
    """Masked slots of instances, by instance and then rising: which instance, which slot, and the slot's random key."""

    rows: np.ndarray
    positions: np.ndarray
    slot_keys: np.ndarray


def draw_masks(lengths: np.ndarray, keys: np.ndarray, last_only: np.ndarray, masking: MaskingConfig) -> Masks:
    """Draws the slots to mask.

    Args:
        lengths: int64 [instances], at least 1.
        keys: uint64 [instances].
        last_only: bool [instances], whether only the last item is masked.
        masking: rates and cap.
    """
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
    return Masks(rows, positions, slots[rows, positions])


def draw_shown(item_ids: np.ndarray, slot_keys: np.ndarray, masking: MaskingConfig, vocabulary_size: int) -> np.ndarray:
    """What masked slots show: [MASK], a random item or the item itself; int64, one for each of `item_ids`."""
    draw = hashed_uniform(slot_keys, _REPLACEMENT)
    random_items = hashed_bits(slot_keys, _RANDOM_ITEM) % np.uint64(vocabulary_size - NUM_SPECIAL_IDS)
    shown = np.where(draw < masking.random_item_rate + masking.kept_item_rate, item_ids, MASK_ID)
    return np.where(draw < masking.random_item_rate, random_items.astype(np.int64) + NUM_SPECIAL_IDS, shown)
