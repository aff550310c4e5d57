"""The encoder computes only the slots that are needed, with the values that all slots would have."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from bert4rec_tf.config import ModelConfig
from bert4rec_tf.model.encoder import Encoder
from tests.support.small_models import CAUSAL, DROPPING, PRE, TWO_LAYERS

VALID = np.arange(5) < np.array([[5], [3], [1]])
POSITIONS = np.array([[1, 4], [2, 0], [0, 0]], np.int32)


def hidden_states(config: ModelConfig) -> tf.Tensor:
    return tf.constant(np.random.default_rng(3).normal(size=[3, 5, config.hidden_size]), tf.float32)


@pytest.mark.parametrize("config", [TWO_LAYERS, PRE, CAUSAL], ids=["post", "pre", "causal"])
def test_chosen_slots_equal_those_of_the_whole_window(config: ModelConfig) -> None:
    encoder, hidden, valid = Encoder(config, seed=1), hidden_states(config), tf.constant(VALID)
    whole = encoder(hidden, valid, None)
    chosen = encoder(hidden, valid, tf.constant(POSITIONS))
    np.testing.assert_allclose(chosen, tf.gather(whole, POSITIONS, batch_dims=1), atol=1e-5)
    packed = encoder(hidden, valid, tf.constant(POSITIONS), packed_index=tf.constant([0, 3, 4]))
    np.testing.assert_allclose(packed[0], tf.gather(tf.reshape(chosen, [6, -1]), [0, 3, 4]), atol=1e-5)


def test_packed_slots_have_the_dropout_of_their_own_slots() -> None:
    config = dataclasses.replace(DROPPING, initializer_range=1.0)
    encoder, hidden, valid = Encoder(config, seed=1), hidden_states(config), tf.constant(VALID)
    seed = tf.constant([1, 2, 0])
    chosen = encoder(hidden, valid, tf.constant(POSITIONS), seed)
    packed = encoder(hidden, valid, tf.constant(POSITIONS), seed, tf.constant([5, 1]))
    np.testing.assert_allclose(packed[0], tf.gather(tf.reshape(chosen, [6, -1]), [5, 1]), atol=1e-5)
    assert np.abs(chosen - encoder(hidden, valid, tf.constant(POSITIONS))).max() > 0.01


def test_attention_weights_of_each_block() -> None:
    encoder, hidden, valid = Encoder(TWO_LAYERS, seed=1), hidden_states(TWO_LAYERS), tf.constant(VALID)
    whole = encoder.attention_weights(hidden, valid)
    chosen = encoder.attention_weights(hidden, valid, tf.constant(POSITIONS))
    assert [weights.shape for weights in whole] == [[3, TWO_LAYERS.num_heads, 5, 5]] * 2
    assert np.abs(whole[0] - whole[1]).max() > 1e-4
    for of_all, of_chosen in zip(whole, chosen, strict=True):
        by_head = tf.transpose(of_all, [0, 2, 1, 3])
        expected = tf.transpose(tf.gather(by_head, POSITIONS, batch_dims=1), [0, 2, 1, 3])
        np.testing.assert_allclose(of_chosen, expected, atol=1e-5)
