"""The Cloze objective (paper section 3.6, equation 8), over all items or over a sample of them."""

import tensorflow as tf


def masked_item_loss(
    logits: tf.Tensor, masked_item_ids: tf.Tensor, masked_weights: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Negative log-likelihood of the items that were masked, summed.

    Departure from the paper: equation 8 averages over the masks of one sequence and then over sequences; here, as in
    the authors' code, every masked item of a batch counts the same. The division by the batch's number of masked items
    is left to the caller, who knows that number over all replicas.

    Args:
        logits: float32 [B, P, V].
        masked_item_ids: int32 [B, P].
        masked_weights: float32 [B, P], 0 if the slot is padding.

    Returns:
        The weighted sum in nats and the sum of the weights, float32 scalars.
    """
    negative_log_likelihood = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=masked_item_ids, logits=logits)
    return tf.reduce_sum(negative_log_likelihood * masked_weights), tf.reduce_sum(masked_weights)


def sampled_softmax_loss(
    positive_logits: tf.Tensor, negative_logits: tf.Tensor, log_expected_counts: tf.Tensor, weights: tf.Tensor
) -> tf.Tensor:
    """The negative log-likelihood with the softmax's denominator estimated from a sample, summed.

    The denominator sums exp(logit) / (expected number of draws of the item) over the drawn items, and adds exp(logit)
    of the positive item. This is the logQ correction (Bengio & Senecal, IEEE TNN 2008): the expected value is the full
    softmax's denominator. The positive item is not drawn but always there, so its logit is not corrected (as
    Khrylchenko et al., RecSys 2025, point out; their further weighting is not used). Not in the paper.

    Args:
        positive_logits: float32 [M], of the masked items.
        negative_logits: float32 [M, S], of the drawn ones; -1e9 if one is the masked item itself.
        log_expected_counts: float32 [S].
        weights: float32 [M], 0 if the slot is padding.

    Returns:
        float32 scalar, nats.
    """
    corrected = tf.concat([positive_logits[:, None], negative_logits - log_expected_counts], axis=1)
    return tf.reduce_sum((tf.reduce_logsumexp(corrected, axis=1) - positive_logits) * weights)


def gbce_loss(positive_logits: tf.Tensor, negative_logits: tf.Tensor, beta: float, weights: tf.Tensor) -> tf.Tensor:
    """Generalised binary cross-entropy, summed (Petrov & Macdonald, gSASRec, RecSys 2023). Not in the paper.

    -(beta log sigmoid(positive) + sum log(1 - sigmoid(negative))). Departures from gSASRec: the negatives are drawn
    once for a batch, not for each slot, and the sum is not divided by S + 1, because gradients that small vanish beside
    Adam's epsilon.

    Args:
        positive_logits: float32 [M], of the masked items.
        negative_logits: float32 [M, S], of the drawn ones; -1e9 if one is the masked item itself.
        beta: see `gbce_beta`.
        weights: float32 [M], 0 if the slot is padding.

    Returns:
        float32 scalar, nats.
    """
    positives = beta * tf.math.log_sigmoid(positive_logits)
    negatives = tf.reduce_sum(tf.math.log_sigmoid(-negative_logits), axis=1)
    return -tf.reduce_sum((positives + negatives) * weights)


def gbce_beta(calibration: float, negatives: int, items: int) -> float:
    """The power of the positive's sigmoid in gBCE; with `calibration` 1 it undoes the overconfidence of few negatives.

    beta = a (t (1 - 1 / a) + 1 / a), with t = `calibration` and a = negatives / (items - 1), the sampling rate.
    """
    share = min(1.0, negatives / max(items - 1, 1))
    return share * (calibration * (1 - 1 / share) + 1 / share)
