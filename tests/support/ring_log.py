"""A tiny log that a model can memorise, as one batch, with masked items or next items."""

import numpy as np

from tfrecords.vocabulary import MASK_ID, NUM_SPECIAL_IDS


def ring_batch() -> dict[str, np.ndarray]:
    """64 windows of 6 items, each followed by the next one of a ring of ten, with one masked slot each."""
    items = _ring_windows()
    positions = np.random.default_rng(5).integers(0, 6, [64, 1])
    shown = items.copy()
    np.put_along_axis(shown, positions, MASK_ID, axis=1)
    return {
        "item_ids": shown.astype(np.int32),
        "valid_mask": np.ones([64, 6], bool),
        "masked_positions": positions.astype(np.int32),
        "masked_item_ids": np.take_along_axis(items, positions, axis=1).astype(np.int32),
        "masked_weights": np.ones([64, 1], np.float32),
    }


def next_item_ring_batch() -> dict[str, np.ndarray]:
    """The same windows without their last item, each slot with the item after it to predict."""
    items = _ring_windows().astype(np.int32)
    return {
        "item_ids": items[:, :-1],
        "valid_mask": np.ones([64, 5], bool),
        "masked_item_ids": items[:, 1:],
        "masked_weights": np.ones([64, 5], np.float32),
    }


def _ring_windows() -> np.ndarray:
    starts = np.random.default_rng(4).integers(0, 10, 64)
    return NUM_SPECIAL_IDS + (starts[:, None] + np.arange(6)) % 10
