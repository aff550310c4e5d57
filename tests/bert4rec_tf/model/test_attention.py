"""Attention weights: over which slots they sum to 1, and what the distance biases add."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from bert4rec_tf.config import ModelConfig
from bert4rec_tf.model.attention import MultiHeadAttention, attend
from tests.support.small_models import CAUSAL, DISTANCES, SMALL, TWO_LAYERS

LENGTHS = np.array([5, 2, 0])
VALID = np.arange(5) < LENGTHS[:, None]


def hidden_states(size: int) -> tf.Tensor:
    return tf.constant(np.random.default_rng(3).normal(size=[3, 5, size]), tf.float32)


@pytest.mark.parametrize("config", [TWO_LAYERS, CAUSAL], ids=["bidirectional", "causal"])
def test_weights_are_shares_of_the_slots_that_may_be_seen(config: ModelConfig) -> None:
    hidden, attention = hidden_states(config.hidden_size), MultiHeadAttention(config, salt=1, seed=1)
    weights = attention.attention_weights(hidden, hidden, tf.constant(VALID)).numpy()
    assert weights.shape == (3, config.num_heads, 5, 5)
    np.testing.assert_allclose(weights.sum(axis=3), 1, atol=1e-5)
    may_see = np.broadcast_to(VALID[:, None, :], [3, 5, 5])
    if config.attention == "causal":
        may_see = may_see & np.tri(5, dtype=bool)
    for head in range(config.num_heads):
        assert np.all((weights[:2, head] > 0) == may_see[:2])
    assert np.isfinite(weights[2]).all(), "a row without an item"


@pytest.mark.parametrize("config", [SMALL, CAUSAL, DISTANCES], ids=["bidirectional", "causal", "distances"])
def test_some_queries_attend_as_all_do(config: ModelConfig) -> None:
    hidden, attention = hidden_states(config.hidden_size), MultiHeadAttention(config, salt=1, seed=1)
    every_slot = attention(hidden, hidden, tf.constant(VALID))
    positions = tf.constant([[4, 0], [1, 1], [0, 2]])
    queries = tf.gather(hidden, positions, batch_dims=1)
    found = attention(queries, hidden, tf.constant(VALID), positions)
    np.testing.assert_allclose(found, tf.gather(every_slot, positions, batch_dims=1), atol=1e-5)


def test_distance_biases_are_added_to_the_scores_and_shared_beyond_the_limit() -> None:
    config = dataclasses.replace(SMALL, relative_distances=2)
    hidden, attention = hidden_states(config.hidden_size), MultiHeadAttention(config, salt=1, seed=1)
    everywhere = tf.ones([3, 5], tf.bool)
    attention(hidden, hidden, everywhere)  # creates the weights; the biases start at 0
    plain = attention.attention_weights(hidden, hidden, everywhere).numpy()
    biases = np.random.default_rng(4).normal(size=[5, config.num_heads]).astype(np.float32)
    attention.distance_bias.assign(biases)
    distances = np.clip(np.arange(5) - np.arange(5)[:, None], -2, 2)
    expected = plain * np.exp(biases[distances + 2]).transpose(2, 0, 1)
    expected /= expected.sum(axis=3, keepdims=True)
    np.testing.assert_allclose(attention.attention_weights(hidden, hidden, everywhere), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
@pytest.mark.parametrize("drops", [True, False])
def test_attending_has_the_gradient_of_the_softmax(drops: bool, dtype: tf.DType) -> None:
    generator = np.random.default_rng(4)
    scores = tf.constant(generator.normal(0, 2, [2, 3, 4, 5]), tf.float32)
    scores += tf.constant([0, 0, -1e9, 0, -1e9])  # hidden slots
    value, of_result = (tf.cast(generator.normal(size=[2, 3, n, 6]), dtype) for n in (5, 4))
    factors = tf.cast(generator.integers(0, 2, [2, 3, 4, 5]) / 0.5, dtype) if drops else None

    def plain(scores: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
        weights = tf.cast(tf.nn.softmax(scores), dtype)
        return tf.matmul(weights if factors is None else weights * factors, value)

    found = []
    for function in (lambda *inputs: attend(*inputs, factors), plain):
        with tf.GradientTape() as tape:
            tape.watch([scores, value])
            result = function(scores, value)
        found.append([result, *tape.gradient(result, [scores, value], of_result)])
    for one, other in zip(*found, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(
            tf.cast(one, tf.float32), tf.cast(other, tf.float32), atol=1e-5 if dtype == tf.float32 else 0.1
        )
    np.testing.assert_array_equal(found[0][0], found[1][0])
