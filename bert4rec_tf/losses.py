"""The Cloze objective (paper section 3.6, equation 8)."""

import tensorflow as tf


def masked_item_loss(
    logits: tf.Tensor, masked_item_ids: tf.Tensor, masked_weights: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Negative log-likelihood of the items that were masked, summed.

    Departure from the paper: equation 8 averages over the masks of one sequence and then over sequences; here, as in
    the authors' code, every masked item of a batch counts the same. The division by the batch's number of masked items
    is left to the caller, who alone knows that number over all replicas.

    Args:
        logits: float32 [B, P, V].
        masked_item_ids: int32 [B, P].
        masked_weights: float32 [B, P], 0 where a slot is padding.

    Returns:
        The weighted sum in nats and the sum of the weights, float32 scalars.
    """
    negative_log_likelihood = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=masked_item_ids, logits=logits)
    return tf.reduce_sum(negative_log_likelihood * masked_weights), tf.reduce_sum(masked_weights)
