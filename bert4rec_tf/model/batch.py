"""A batch of the model, and how its masked slots are packed without padding."""

import tensorflow as tf

Batch = dict[str, tf.Tensor]
ENCODER_INPUTS = (
    "item_ids", "valid_mask", "masked_positions", "dropout_seed", "packed_index", "prefix_lengths", "times",
)  # fmt: skip
_PACKED_SIZES = 8  # values of M for one batch shape; XLA compiles the step once for each


def pack_masked_slots(batch: Batch) -> Batch:
    """Adds `packed_index`, int32 [M], and packs masked_item_ids and masked_weights to [1, M] instead of [B, P].

    All rows are padded to P masked slots. The index names the slots of the B x P that have a weight, so that the layers
    after the last attention compute only those. M is rounded up to one of a few values. On a TPU, which needs one
    fixed shape, M is B x P.
    """
    weights = tf.reshape(batch["masked_weights"], [-1])
    all_slots = tf.range(tf.size(weights))
    on_tpu = isinstance(tf.distribute.get_strategy(), tf.distribute.TPUStrategy)
    used = all_slots if on_tpu else tf.boolean_mask(all_slots, weights > 0)
    step = -(-tf.size(weights) // _PACKED_SIZES)
    padding = [[0, tf.maximum(-(-tf.size(used) // step), 1) * step - tf.size(used)]]
    return batch | {
        "packed_index": tf.pad(used, padding),
        "masked_item_ids": tf.pad(tf.gather(tf.reshape(batch["masked_item_ids"], [-1]), used), padding)[None],
        "masked_weights": tf.pad(tf.gather(weights, used), padding)[None],
    }
