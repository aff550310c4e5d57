"""Starting weights: their range, and what they depend on."""

import numpy as np
import pytest
import tensorflow as tf

from bert4rec_tf.config import ModelConfig
from bert4rec_tf.model.bert4rec import build_model
from tests.support.small_models import (
    MAX_SEQ_LENGTH,
    VOCABULARY_SIZE,
)


def test_weights_start_within_the_papers_range() -> None:
    model = build_model(ModelConfig(), VOCABULARY_SIZE, MAX_SEQ_LENGTH)
    matrices = [variable.numpy() for variable in model.weights if len(variable.shape) == 2]
    assert all(np.abs(matrix).max() <= 0.02 for matrix in matrices)
    assert max(np.abs(matrix).max() for matrix in matrices) > 0.019
    same_shape = [matrix for matrix in matrices if matrix.shape == (64, 64)]
    assert len(same_shape) == 5
    assert not np.array_equal(same_shape[0], same_shape[1])


def test_starting_weights_are_a_function_of_the_seed() -> None:
    config = ModelConfig(layer_norm="pre", dense_initializer="glorot", relative_distances=2)
    first, again, other = (
        build_model(config, VOCABULARY_SIZE, MAX_SEQ_LENGTH, seed=seed).get_weights() for seed in (5, 5, 6)
    )
    tf.random.set_seed(9)
    tf.random.normal([3])
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        mirrored = build_model(config, VOCABULARY_SIZE, MAX_SEQ_LENGTH, seed=5).get_weights()
    for weight, same, of_strategy, different in zip(first, again, mirrored, other, strict=True):
        np.testing.assert_array_equal(same, weight)
        np.testing.assert_array_equal(of_strategy, weight)
        assert np.ptp(weight) == 0 or np.mean(different == weight) < 0.01
    drawn = [weight for weight in first if np.ptp(weight) > 0]
    assert len(drawn) == 2 + 2 * 5 + 1
    for index, weight in enumerate(drawn):
        for earlier in drawn[:index]:
            assert weight.shape != earlier.shape or np.mean(weight == earlier) < 0.01, (
                "weights must not share their draws"
            )
    # Stored values: other processes and versions must start with the same weights.
    np.testing.assert_allclose(first[0][3, :3], [0.00271554221, -0.00444022007, -0.00541962497], rtol=1e-6)


def test_dense_layers_can_start_within_glorots_range() -> None:
    model = build_model(ModelConfig(dense_initializer="glorot"), VOCABULARY_SIZE, MAX_SEQ_LENGTH)
    assert np.abs(model.embedding.item_table.numpy()).max() <= 0.02
    kernels = [variable.numpy() for variable in model.weights if "kernel" in variable.name]
    assert len(kernels) == 2 * 5 + 1
    for kernel in kernels:
        limit = np.float32(np.sqrt(6 / sum(kernel.shape)))  # as it is drawn: in double precision it may be smaller
        assert 0.98 * limit < np.abs(kernel).max() <= limit
        assert np.std(kernel) == pytest.approx(limit / np.sqrt(3), rel=0.05)
