"""The random draws of training instances: masks, cuts and prefixes, by graphs over windows.

The random numbers are those of `tfrecords.hashed_random`, bit for bit, and masks are drawn as in
`pipelines.stages.masking`. The draws for a record are a function of the seed, the epoch and the record's file and
number; the order in which records are read does not matter.
"""

import tensorflow as tf

from bert4rec_tf.inputs.hashed_random import draw_below, hashed_bits, hashed_uniform, smallest_bits
from tfrecords.config import MaskingConfig
from tfrecords.vocabulary import MASK_ID, NUM_SPECIAL_IDS, PAD_ID

# What a draw is for, which is a part of its key. The first four draws are those of `pipelines.stages.masking`.
_RATE, _SLOT, _REPLACEMENT, _RANDOM_ITEM, _LAST_ONLY, _CUT, _PREFIX, _EMPTY_PREFIX = range(1, 9)


def max_predictions_of(length: int, masking: MaskingConfig) -> int:
    """The largest number of masked slots in an instance of at most `length` items."""
    if not masking.duplicate_factor:
        return 1
    predictions = max(1, round(length * max(masking.masking_rates)))
    return predictions if masking.max_predictions is None else min(predictions, masking.max_predictions)


def draw_masks(
    item_ids: tf.Tensor, keys: tf.Tensor, masking: MaskingConfig, vocabulary_size: int, predictions: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Masks windows by the configuration. As in the records, a share of the instances has only the last item masked.

    Args:
        item_ids: int32 [B, L], padded with PAD_ID.
        keys: uint64 [B], of each row's draws.
        masking: rates, factors and replacement.
        vocabulary_size: V, for random replacement items.
        predictions: int32 scalar, P: at least `max_predictions_of` the longest window.

    Returns:
        item_ids int32 [B, L]; masked_positions and masked_item_ids int32 [B, P], padded with 0.
    """
    keys = keys[:, None]
    width = tf.shape(item_ids)[1]
    slot_index = tf.range(width)[None, :]
    lengths = tf.reduce_sum(tf.cast(item_ids != PAD_ID, tf.int32), axis=1, keepdims=True)
    # In double precision, as in NumPy: single precision may round differently if length x rate ends in .5.
    rates = tf.gather(
        tf.constant(masking.masking_rates, tf.float64), draw_below(len(masking.masking_rates), keys, _RATE)
    )
    numbers = tf.maximum(tf.cast(tf.math.rint(tf.cast(lengths, tf.float64) * rates), tf.int32), 1)
    if masking.max_predictions is not None:
        numbers = tf.minimum(numbers, masking.max_predictions)

    # The k smallest of a window's random keys are a uniform draw of k slots: compare each key with the k-th smallest.
    slot_keys = hashed_bits(keys, _SLOT, slot_index)
    item_keys = tf.where(slot_index < lengths, slot_keys, tf.uint64.max)
    most = tf.maximum(tf.reduce_max(numbers), 1)  # a batch may have no row for this process
    kth = tf.gather(smallest_bits(item_keys, most), numbers - 1, batch_dims=1)
    last_only = draw_below(masking.instances_per_window, keys, _LAST_ONLY) >= masking.duplicate_factor
    masked = tf.where(last_only, slot_index == lengths - 1, (item_keys <= kth) & (slot_index < lengths))

    places = tf.where(masked)
    rows = tf.shape(item_ids, tf.int64)[0]
    positions = tf.RaggedTensor.from_value_rowids(tf.cast(places[:, 1], tf.int32), places[:, 0], rows, validate=False)
    masked_item_ids = positions.with_values(tf.gather_nd(item_ids, places))

    def padded(values: tf.RaggedTensor) -> tf.Tensor:
        found = values.to_tensor(0)[:, :predictions]
        return tf.pad(found, [[0, 0], [0, predictions - tf.shape(found)[1]]])

    replacement = tf.fill(tf.shape(item_ids), MASK_ID)
    if masking.random_item_rate or masking.kept_item_rate:
        draw = hashed_uniform(slot_keys, _REPLACEMENT)
        random_items = NUM_SPECIAL_IDS + draw_below(vocabulary_size - NUM_SPECIAL_IDS, slot_keys, _RANDOM_ITEM)
        replacement = tf.where(draw < masking.random_item_rate + masking.kept_item_rate, item_ids, replacement)
        replacement = tf.where(draw < masking.random_item_rate, random_items, replacement)
    return {
        "item_ids": tf.where(masked, replacement, item_ids),
        "masked_positions": padded(positions),
        "masked_item_ids": padded(masked_item_ids),
    }


def draw_lengths(lengths: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    """How many items of each window are left after a random cut.

    Args:
        lengths: int32 [R], items of each window.
        keys: uint64 [R], of each row's draw.

    Returns:
        int32 [R] from 2 to the window's length, each number equally likely; 1 if the window has one item.
    """
    return lengths - draw_below(tf.maximum(lengths - 1, 1), keys, _CUT)


def draw_prefixes(lengths: tf.Tensor, causal_rows: float, keys: tf.Tensor) -> tf.Tensor:
    """How many slots of each row form its prefix.

    Args:
        lengths: int32 [R], slots of each row.
        causal_rows: chance of an empty prefix.
        keys: uint64 [R], of each row's draws.

    Returns:
        int32 [R]: 0, or from 1 to the row's length, each number equally likely.
    """
    prefixes = tf.minimum(1 + draw_below(tf.maximum(lengths, 1), keys, _PREFIX), lengths)
    return tf.where(hashed_uniform(keys, _EMPTY_PREFIX) < causal_rows, 0, prefixes)
