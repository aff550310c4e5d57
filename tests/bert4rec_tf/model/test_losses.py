"""The Cloze loss against a log-softmax in NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from bert4rec_tf.model import losses
from bert4rec_tf.model.losses import masked_item_loss, masked_item_loss_in_blocks, num_blocks
from tests.support.numpy_bert4rec import log_softmax

GENERATOR = np.random.default_rng(1)
LOGITS = GENERATOR.normal(0, 3, [4, 3, 9])
ITEM_IDS = GENERATOR.integers(3, 9, [4, 3])
WEIGHTS = np.array([[1, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0]], np.float32)


def loss(logits: np.ndarray, item_ids: np.ndarray, weights: np.ndarray) -> tuple[tf.Tensor, tf.Tensor]:
    return masked_item_loss(tf.constant(logits, tf.float32), tf.constant(item_ids, tf.int32), tf.constant(weights))


def test_equals_the_negative_log_likelihood() -> None:
    chosen = np.take_along_axis(log_softmax(LOGITS), ITEM_IDS[..., None], axis=2)[..., 0]
    total, weight = loss(LOGITS, ITEM_IDS, WEIGHTS)
    np.testing.assert_allclose(total, -np.sum(chosen * WEIGHTS), rtol=1e-5)
    assert weight == 6


def test_loss_of_equal_logits_is_the_log_of_their_number() -> None:
    total, _ = loss(np.zeros([2, 1, 9]), np.full([2, 1], 4), np.ones([2, 1], np.float32))
    np.testing.assert_allclose(total, 2 * np.log(9), rtol=1e-6)


def test_slots_of_weight_zero_do_not_count() -> None:
    unused = WEIGHTS == 0
    other_logits = np.where(unused[..., None], 50.0, LOGITS)
    # Padding slots hold the id 0, which the model scores -1e9.
    other_ids = np.where(unused, 0, ITEM_IDS)
    other_logits[..., 0] = np.where(unused, -1e9, LOGITS[..., 0])
    total, weight = loss(LOGITS, ITEM_IDS, WEIGHTS)
    other_total, other_weight = loss(other_logits, other_ids, WEIGHTS)
    np.testing.assert_allclose(other_total, total, rtol=1e-6)
    assert other_weight == weight


def test_loss_and_gradient_are_zero_without_weights() -> None:
    logits = tf.Variable(LOGITS, dtype=tf.float32)
    with tf.GradientTape() as tape:
        total, weight = masked_item_loss(logits, tf.zeros([4, 3], tf.int32), tf.zeros([4, 3]))
    assert (float(total), float(weight)) == (0, 0)
    np.testing.assert_array_equal(tape.gradient(total, logits), np.zeros_like(LOGITS))


def test_gradient_is_the_softmax_minus_the_one_hot_target() -> None:
    logits = tf.Variable(LOGITS, dtype=tf.float32)
    with tf.GradientTape() as tape:
        total, _ = masked_item_loss(logits, tf.constant(ITEM_IDS, tf.int32), tf.constant(WEIGHTS))
    expected = (np.exp(log_softmax(LOGITS)) - np.eye(9)[ITEM_IDS]) * WEIGHTS[..., None]
    np.testing.assert_allclose(tape.gradient(total, logits), expected, atol=1e-6)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("slots", "block_slots"), [(12, 4), (13, 4), (3, 4), (1, 1), (0, 4)])
def test_blocks_give_the_loss_and_the_gradients_of_all_logits(
    slots: int, block_slots: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "_BLOCK_SLOTS", block_slots)
    monkeypatch.setattr(losses, "_BLOCK_LOGITS", 0)
    items, size = 9, 5
    generator = np.random.default_rng(slots)
    values = [generator.normal(0, 2, shape) for shape in ([slots, size], [items, size], [items])]
    values[2][:3] = -1e9  # the special ids
    inputs = [tf.constant(value, tf.float32) for value in values]
    item_ids, weights = generator.integers(3, items, slots), generator.integers(0, 2, slots).astype(np.float32)
    item_ids[weights == 0] = 0  # padding

    def with_gradients(queries: tf.Tensor, vectors: tf.Tensor, bias: tf.Tensor) -> tuple[tf.Tensor, ...]:
        with tf.GradientTape() as tape:
            tape.watch([queries, vectors, bias])
            masked = tf.constant(item_ids, tf.int32), tf.constant(weights)
            loss, total = masked_item_loss_in_blocks(queries, vectors, bias, *masked)
            scaled = 3.0 * loss
        return loss, total, *tape.gradient(scaled, [queries, vectors, bias])

    found = tf.function(with_gradients, jit_compile=compiled)(*inputs)
    queries, vectors, bias = values
    log_shares = log_softmax(queries @ vectors.T + bias) if slots else np.zeros([0, items])
    of_logits = 3 * (np.exp(log_shares) - np.eye(items)[item_ids]) * weights[:, None]
    chosen = log_shares[np.arange(slots), item_ids][weights == 1]
    expected = [-chosen.sum(), weights.sum(), of_logits @ vectors, of_logits.T @ queries, of_logits.sum(axis=0)]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("slots", "items", "expected"), [(0, 10, 1), (3000, 10, 1), (3000, 4096, 6), (3000, 50_000, 6), (512, 50_000, 1)]
)
def test_a_block_has_512_slots_or_as_many_as_the_cache_holds(slots: int, items: int, expected: int) -> None:
    assert num_blocks(tf.constant(slots), tf.constant(items)) == expected
