"""The Cloze objective (paper section 3.6, equation 8), over all items or over a sample of them."""

from collections.abc import Callable

import tensorflow as tf

_BLOCK_LOGITS = 1 << 21  # 8 MB: a block of logits stays in a processor's cache
_BLOCK_SLOTS = 512  # at least, since each block also adds to the gradients of all items


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


def masked_item_loss_in_blocks(
    queries: tf.Tensor, item_vectors: tf.Tensor, bias: tf.Tensor, masked_item_ids: tf.Tensor, masked_weights: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """`masked_item_loss` of the logits queries item_vectors^T + bias, of which only a block is ever in memory.

    For each block of slots the gradients are computed with the loss, so that its M x V logits are written once, to the
    cache of the processor. An accelerator, which needs larger products, is better served by `masked_item_loss`.

    Args:
        queries: float32 [M, D].
        item_vectors: float32 [V, D].
        bias: float32 [V].
        masked_item_ids: int32 [M].
        masked_weights: float32 [M], 0 if the slot is padding.

    Returns:
        As `masked_item_loss`.
    """
    slots, items, size = tf.shape(queries)[0], tf.shape(item_vectors)[0], queries.shape[1]
    block_count = num_blocks(slots, items)
    block_slots = -(-slots // block_count)

    def split(values: tf.Tensor) -> tf.Tensor:
        padding = [[0, block_count * block_slots - slots]] + [[0, 0]] * (len(values.shape) - 1)
        return tf.reshape(
            tf.pad(values, padding), tf.concat([[block_count, block_slots], tf.shape(values)[1:]], axis=0)
        )

    @tf.custom_gradient
    def loss(queries: tf.Tensor, item_vectors: tf.Tensor, bias: tf.Tensor) -> tuple[tf.Tensor, Callable[..., tuple]]:
        blocks, block_weights = split(queries), split(masked_weights)

        def add_block(
            block: tf.Tensor,
            log_sums: tf.TensorArray,
            of_queries: tf.TensorArray,
            of_items: tf.Tensor,
            of_bias: tf.Tensor,
        ) -> tuple[tf.Tensor, ...]:
            logits = tf.matmul(blocks[block], item_vectors, transpose_b=True) + bias
            highest = tf.reduce_max(logits, axis=1, keepdims=True)
            exponentials = tf.exp(logits - highest)
            sums = tf.reduce_sum(exponentials, axis=1, keepdims=True)
            of_logits = exponentials * (block_weights[block][:, None] / sums)  # of the softmax's denominator
            return (
                block + 1,
                log_sums.write(block, (tf.math.log(sums) + highest)[:, 0]),
                of_queries.write(block, tf.matmul(of_logits, item_vectors)),
                of_items + tf.matmul(of_logits, blocks[block], transpose_a=True),
                of_bias + tf.reduce_sum(of_logits, axis=0),
            )

        of_slots = [tf.TensorArray(tf.float32, block_count) for _ in range(2)]
        start = (0, *of_slots, tf.zeros_like(item_vectors), tf.zeros_like(bias))
        _, log_sums, of_queries, of_items, of_bias = tf.while_loop(
            lambda block, *_: block < block_count, add_block, start, maximum_iterations=block_count
        )
        masked_vectors = tf.gather(item_vectors, masked_item_ids)
        masked_logits = tf.reduce_sum(queries * masked_vectors, axis=1) + tf.gather(bias, masked_item_ids)
        log_sums = tf.reshape(log_sums.stack(), [-1])[:slots]
        weights, rows_of_items = masked_weights[:, None], masked_item_ids[:, None]
        of_queries = tf.reshape(of_queries.stack(), [-1, size])[:slots] - weights * masked_vectors
        of_items = tf.tensor_scatter_nd_sub(of_items, rows_of_items, weights * queries)
        of_bias = tf.tensor_scatter_nd_sub(of_bias, rows_of_items, masked_weights)

        def gradient(of_loss: tf.Tensor) -> tuple[tf.Tensor, ...]:
            return of_loss * of_queries, of_loss * of_items, of_loss * of_bias

        return tf.reduce_sum((log_sums - masked_logits) * masked_weights), gradient

    return loss(queries, item_vectors, bias), tf.reduce_sum(masked_weights)


def num_blocks(slots: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
    """In how many blocks `masked_item_loss_in_blocks` takes the given number of slots, at least 1."""
    return tf.maximum(1, -(-slots // tf.maximum(_BLOCK_SLOTS, _BLOCK_LOGITS // items)))


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
