"""Masks drawn anew at training time: the same law as `pipelines.stages.masking`, as a graph over a padded batch.

The numbers are those of `tfrecords.hashed_random`, bit for bit, so what a record is masked with is a function of the
seed, the epoch and the record's place in the files, whatever the order in which records are read.
"""

import tensorflow as tf

from bert4rec_tf.inputs.hashed_random import draw_below, hashed_bits, hashed_uniform, sorted_bits
from tfrecords.config import MaskingConfig
from tfrecords.vocabulary import MASK_ID, NUM_SPECIAL_IDS, PAD_ID

# What a draw is for: those of `pipelines.stages.masking`, whether only the last item is masked, where a window is cut.
_RATE, _SLOT, _REPLACEMENT, _RANDOM_ITEM, _LAST_ONLY, _CUT = 1, 2, 3, 4, 5, 6


def max_predictions_of(length: int, masking: MaskingConfig) -> int:
    """The most slots that a window of at most `length` items can have masked."""
    if not masking.duplicate_factor:
        return 1
    most = max(1, round(length * max(masking.masking_rates)))
    return most if masking.max_predictions is None else min(most, masking.max_predictions)


def draw_masks(
    item_ids: tf.Tensor, keys: tf.Tensor, masking: MaskingConfig, vocabulary_size: int, predictions: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Masks windows by the configuration's law; an instance masks only the last item as often as stored ones do.

    Args:
        item_ids: int32 [B, L], padded with PAD_ID.
        keys: uint64 [B], of each row's draws.
        masking: rates, factors and replacement.
        vocabulary_size: V, for random replacement items.
        predictions: P, at least `max_predictions_of` of the longest window.

    Returns:
        item_ids int32 [B, L]; masked_positions and masked_item_ids int32 [B, P], padded with 0.
    """
    keys = keys[:, None]
    places = tf.range(tf.shape(item_ids)[1])[None, :]
    lengths = tf.reduce_sum(tf.cast(item_ids != PAD_ID, tf.int32), axis=1, keepdims=True)
    # In double precision, as NumPy does: where a number of slots ends in .5, single precision may round otherwise.
    rates = tf.gather(
        tf.constant(masking.masking_rates, tf.float64), draw_below(len(masking.masking_rates), keys, _RATE)
    )
    numbers = tf.maximum(tf.cast(tf.math.rint(tf.cast(lengths, tf.float64) * rates), tf.int32), 1)
    if masking.max_predictions is not None:
        numbers = tf.minimum(numbers, masking.max_predictions)

    slot_keys = hashed_bits(keys, _SLOT, places)
    slots = tf.where(places < lengths, slot_keys, tf.uint64.max)
    kth = tf.gather(sorted_bits(slots), numbers - 1, batch_dims=1)
    copies = masking.instances_per_window
    last_only = draw_below(copies, keys, _LAST_ONLY) >= masking.duplicate_factor
    masked = tf.where(last_only, places == lengths - 1, (slots <= kth) & (places < lengths))

    nowhere = tf.shape(item_ids)[1]
    positions = tf.sort(tf.where(masked, places, nowhere), axis=1)[:, :predictions]
    positions = tf.pad(positions, [[0, 0], [0, predictions - tf.shape(positions)[1]]], constant_values=1 << 30)
    there = positions < nowhere
    positions = tf.where(there, positions, 0)
    masked_item_ids = tf.where(there, tf.gather(item_ids, positions, batch_dims=1), PAD_ID)

    replacement = tf.fill(tf.shape(item_ids), MASK_ID)
    if masking.random_item_rate or masking.kept_item_rate:
        draw = hashed_uniform(slot_keys, _REPLACEMENT)
        random_items = NUM_SPECIAL_IDS + draw_below(vocabulary_size - NUM_SPECIAL_IDS, slot_keys, _RANDOM_ITEM)
        replacement = tf.where(draw < masking.random_item_rate + masking.kept_item_rate, item_ids, replacement)
        replacement = tf.where(draw < masking.random_item_rate, random_items, replacement)
    return {
        "item_ids": tf.where(masked, replacement, item_ids),
        "masked_positions": positions,
        "masked_item_ids": masked_item_ids,
    }


def draw_cut(length: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    """How many of a window's items are left, int32: from two (or one, of one) to `length`, any number as likely."""
    return length - draw_below(tf.maximum(length - 1, 1), key, _CUT)[0]
