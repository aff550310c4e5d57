"""Seeded dropout: how much is dropped, how the rest is scaled, and what the draws depend on."""

import math

import numpy as np
import pytest
import tensorflow as tf

from bert4rec_tf.model.dropout import SeededDropout

SEED = tf.constant([3, 5, 0])


def mask(rate: float, salt: int = 1, seed: tuple[int, int] = (3, 5), size: int = 4000) -> np.ndarray:
    """The elements that are kept of `size` ones."""
    return SeededDropout(rate, salt)(tf.ones([size]), tf.constant([*seed, 0])).numpy() > 0


@pytest.mark.parametrize(("rate", "seed"), [(0.0, SEED), (0.5, None)])
def test_passes_through_without_a_rate_or_a_seed(rate: float, seed: tf.Tensor | None) -> None:
    inputs = tf.random.stateless_normal([3, 5], [1, 2])
    np.testing.assert_array_equal(SeededDropout(rate, salt=1)(inputs, seed), inputs)


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.2, 0.5, 0.9])
def test_kept_share_and_scale(rate: float) -> None:
    inputs = tf.random.stateless_normal([40, 50, 51], [1, 2])
    outputs = SeededDropout(rate, salt=1)(inputs, SEED).numpy()
    kept = outputs != 0
    np.testing.assert_allclose(outputs[kept], inputs.numpy()[kept] / (1 - rate), rtol=1e-6)
    deviation = math.sqrt(rate * (1 - rate) / kept.size)
    assert kept.mean() == pytest.approx(1 - rate, abs=4 * deviation)
    for axis in range(3):
        others = tuple({0, 1, 2} - {axis})
        spread = deviation * math.sqrt(kept.shape[axis])
        assert np.abs(kept.mean(axis=others) - (1 - rate)).max() < 4.5 * spread + 1e-3


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_expectation_is_the_input(rate: float) -> None:
    layer, draws = SeededDropout(rate, salt=1), 400
    outputs = np.stack([layer(tf.fill([25], 2.0), tf.constant([step, 9, 0])) for step in range(draws)])
    deviation = 2 * math.sqrt(rate / (1 - rate) / draws)
    np.testing.assert_allclose(outputs.mean(axis=0), 2.0, atol=4.5 * deviation)


def test_neighbours_are_independent() -> None:
    kept = mask(0.5, size=40_000)
    # Powers of two too: a weak hash shows there first.
    for distance in (1, 2, 3, 4, 8, 16, 50, 64, 128, 200, 256, 1024, 4096, 8192):
        equal = np.mean(kept[:-distance] == kept[distance:])
        assert equal == pytest.approx(0.5, abs=4.5 * 0.5 / math.sqrt(kept.size - distance))


def test_draws_of_consecutive_steps_are_not_shifted_copies() -> None:
    one, other = mask(0.5, size=40_000), mask(0.5, seed=(3, 6), size=40_000)
    for distance in range(1, 50):
        equal = np.mean(one[:-distance] == other[distance:])
        assert equal == pytest.approx(0.5, abs=4.5 * 0.5 / math.sqrt(one.size - distance))


def test_part_of_a_batch_draws_the_same_as_the_whole_batch() -> None:
    layer, inputs = SeededDropout(0.5, salt=2), tf.ones([6, 3, 4])
    whole = layer(inputs, tf.constant([3, 5, 0]))
    np.testing.assert_array_equal(layer(inputs[2:5], tf.constant([3, 5, 2])), whole[2:5])


def test_draws_depend_only_on_seed_and_salt() -> None:
    np.testing.assert_array_equal(mask(0.5), mask(0.5))
    for other in (mask(0.5, salt=2), mask(0.5, seed=(4, 5)), mask(0.5, seed=(3, 6))):
        assert np.mean(mask(0.5) == other) == pytest.approx(0.5, abs=4.5 * 0.5 / math.sqrt(other.size))


@pytest.mark.parametrize("shape", [[1], [2], [3], [5], [7, 3], [2, 3, 5], [0], [4, 0]])
def test_any_shape(shape: list[int]) -> None:
    outputs = SeededDropout(0.5, salt=1)(tf.ones(shape), SEED)
    assert outputs.shape == shape
    assert set(np.ravel(outputs)) <= {0.0, 2.0}


def test_xla_draws_the_same() -> None:
    layer, inputs = SeededDropout(0.3, salt=4), tf.random.stateless_normal([7, 9], [1, 2])
    compiled = tf.function(layer, jit_compile=True)
    np.testing.assert_allclose(compiled(inputs, SEED), layer(inputs, SEED), rtol=1e-6)


def test_dropped_elements_have_no_gradient() -> None:
    inputs = tf.ones([100])
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = SeededDropout(0.5, salt=1)(inputs, SEED)
    np.testing.assert_array_equal(tape.gradient(outputs, inputs), outputs)


def test_layer_can_be_made_from_its_config() -> None:
    layer = SeededDropout(0.25, salt=7)
    again = SeededDropout.from_config(layer.get_config())
    np.testing.assert_array_equal(again(tf.ones([50]), SEED), layer(tf.ones([50]), SEED))
