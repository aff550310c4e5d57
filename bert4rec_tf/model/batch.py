"""A batch of the model, and its slots without the padding."""

import tensorflow as tf

Batch = dict[str, tf.Tensor]
ENCODER_INPUTS = ("item_ids", "valid_mask", "masked_positions", "dropout_seed", "slots")
_PACKINGS = 8  # numbers of slots that a batch shape is computed with, for XLA compiles each


def pack_slots(batch: Batch) -> Batch:
    """Adds `slots`, int32 [M], and gives the masked items and weights of these alone, [1, M] instead of [B, P].

    Rows mask few or many items and are all padded to the most, P; what follows the last attention is computed for what
    is masked. M is rounded up, so that it takes few values; on a TPU, which takes but one, it is B x P.
    """
    weights = tf.reshape(batch["masked_weights"], [-1])
    all_slots = tf.range(tf.size(weights))
    on_tpu = isinstance(tf.distribute.get_strategy(), tf.distribute.TPUStrategy)
    slots = all_slots if on_tpu else tf.boolean_mask(all_slots, weights > 0)
    step = -(-tf.size(weights) // _PACKINGS)
    padding = [[0, tf.maximum(-(-tf.size(slots) // step), 1) * step - tf.size(slots)]]
    return batch | {
        "slots": tf.pad(slots, padding),
        "masked_item_ids": tf.pad(tf.gather(tf.reshape(batch["masked_item_ids"], [-1]), slots), padding)[None],
        "masked_weights": tf.pad(tf.gather(weights, slots), padding)[None],
    }
