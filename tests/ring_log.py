"""A tiny log that can be learnt by heart, as one batch."""

import numpy as np

from bert4rec_tf.vocabulary import MASK_ID, NUM_SPECIAL_IDS


def ring_batch() -> dict[str, np.ndarray]:
    """64 windows of 6 items, each followed by the next one of a ring of ten, with one masked slot each."""
    starts = np.random.default_rng(4).integers(0, 10, 64)
    items = NUM_SPECIAL_IDS + (starts[:, None] + np.arange(6)) % 10
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
