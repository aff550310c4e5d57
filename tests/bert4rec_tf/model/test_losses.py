"""The Cloze loss against a log-softmax in NumPy."""

import numpy as np
import tensorflow as tf

from bert4rec_tf.model.losses import masked_item_loss
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
