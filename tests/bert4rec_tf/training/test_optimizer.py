"""The learning-rate schedule, and AdamW compared with the textbook."""

import json
import math

import numpy as np
import pytest
import tensorflow as tf

from bert4rec_tf.config import ModelConfig, TrainingConfig
from bert4rec_tf.model.bert4rec import build_model
from bert4rec_tf.training.optimizer import WarmupThenDecay, make_optimizer


def rates(schedule: str, steps: list[int], warmup_steps: int = 4, total_steps: int = 12) -> list[float]:
    config = TrainingConfig(learning_rate=0.8, schedule=schedule, warmup_steps=warmup_steps)
    rate = WarmupThenDecay(config, tf.Variable(total_steps, dtype=tf.int64))
    return [float(rate(tf.constant(step, tf.int64))) for step in steps]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        # Steps 4 (the peak), 6, 8, 10, 12 (the end) and 20 (past it).
        ("linear", [0.8, 0.6, 0.4, 0.2, 0.0, 0.0]),
        ("cosine", [0.8, 0.4 + 0.4 * math.sqrt(0.5), 0.4, 0.4 - 0.4 * math.sqrt(0.5), 0.0, 0.0]),
        ("constant", [0.8] * 6),
    ],
)
def test_learning_rate_schedule(schedule: str, expected: list[float]) -> None:
    assert rates(schedule, [0, 1, 2, 3]) == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates(schedule, [4, 6, 8, 10, 12, 20]) == pytest.approx(expected, abs=1e-6)


def test_without_warmup_the_rate_starts_at_the_peak() -> None:
    assert rates("linear", [0, 6, 12], warmup_steps=0) == pytest.approx([0.8, 0.4, 0.0])


def test_a_warmup_longer_than_the_run_rises_to_its_end() -> None:
    assert rates("linear", [0, 5, 11, 12], warmup_steps=100) == pytest.approx([0.008, 0.048, 0.096, 0.0])


def test_moving_the_last_step_moves_the_schedule() -> None:
    total_steps = tf.Variable(12, dtype=tf.int64)
    config = TrainingConfig(learning_rate=0.8, warmup_steps=4)
    rate = tf.function(WarmupThenDecay(config, total_steps))
    assert float(rate(tf.constant(8, tf.int64))) == pytest.approx(0.4)
    total_steps.assign(20)
    assert float(rate(tf.constant(8, tf.int64))) == pytest.approx(0.6)
    total_steps.assign(9)
    assert float(rate(tf.constant(8, tf.int64))) == pytest.approx(0.16)


def test_weight_decay_spares_biases_and_layer_norms() -> None:
    model = build_model(ModelConfig(hidden_size=8, num_layers=2, layer_norm="pre"), 12, 8)
    for variable in model.trainable_variables:
        variable.assign(tf.fill(variable.shape, 0.5))
    config = TrainingConfig(learning_rate=0.1, schedule="constant", warmup_steps=0, weight_decay=0.3)
    optimizer = make_optimizer(config, tf.Variable(10, dtype=tf.int64))
    optimizer.apply_gradients([(tf.zeros(variable.shape), variable) for variable in model.trainable_variables])
    for variable in model.trainable_variables:
        # Matrices are the embeddings and the kernels; vectors are biases and layer norms.
        expected = 0.5 * (1 - 0.1 * 0.3) if len(variable.shape) == 2 else 0.5
        np.testing.assert_allclose(variable, expected, rtol=1e-6, err_msg=variable.name)


@pytest.mark.parametrize("clip_norm", [5.0, 1e6], ids=["clipped", "not clipped"])
def test_steps_equal_adamw_after_clipping_by_the_global_norm(clip_norm: float) -> None:
    config = TrainingConfig(
        learning_rate=0.1, warmup_steps=2, weight_decay=0.05, beta_1=0.8, beta_2=0.95, clip_norm=clip_norm
    )
    generator = np.random.default_rng(1)
    values = [generator.normal(size=shape) for shape in ([3, 4], [5])]
    variables = [tf.Variable(value, dtype=tf.float32, name=f"kernel_{index}") for index, value in enumerate(values)]
    total_steps = tf.Variable(6, dtype=tf.int64)
    optimizer = make_optimizer(config, total_steps)
    means, squares = [np.zeros_like(value) for value in values], [np.zeros_like(value) for value in values]
    for step in range(1, 5):
        gradients = [generator.normal(0, 3, value.shape) for value in values]
        as_tensors = [tf.constant(gradient, tf.float32) for gradient in gradients]
        optimizer.apply_gradients(zip(as_tensors, variables, strict=True))
        global_norm = math.sqrt(sum(np.sum(gradient**2) for gradient in gradients))
        assert global_norm > 5, "the small bound must clip"
        rate = 0.1 * min(step / 2, 1) * min((6 - (step - 1)) / 4, 1)
        for index, gradient in enumerate(gradients):
            clipped = gradient * min(1, clip_norm / global_norm)
            means[index] = 0.8 * means[index] + 0.2 * clipped
            squares[index] = 0.95 * squares[index] + 0.05 * clipped**2
            mean, square = means[index] / (1 - 0.8**step), squares[index] / (1 - 0.95**step)
            values[index] = values[index] - rate * (mean / (np.sqrt(square) + 1e-6) + 0.05 * values[index])
            # Keras adds epsilon before it corrects the bias, the textbook after: 1e-5 of a step.
            np.testing.assert_allclose(variables[index], values[index], atol=5e-5)


@pytest.mark.parametrize("loss", ["softmax", "gbce"])
def test_a_saved_optimizer_is_restored_exactly(loss: str) -> None:
    config = TrainingConfig(
        loss=loss, learning_rate=0.1, warmup_steps=0, weight_decay=0.3, clip_norm=2.0, schedule="cosine"
    )
    optimizer = make_optimizer(config, tf.Variable(10, dtype=tf.int64))
    saved = tf.keras.optimizers.serialize(optimizer)
    loaded = tf.keras.optimizers.deserialize(json.loads(json.dumps(saved)))
    assert type(loaded) is type(optimizer)
    assert loaded.get_config() == optimizer.get_config()
    names = ["kernel", "bias", "layer_norm/gamma", "item_table"]
    variables = [[tf.Variable(tf.ones([3, 2]), name=name) for name in names] for _ in range(2)]
    for one, of_one in zip((optimizer, loaded), variables, strict=True):
        for _ in range(3):
            one.apply_gradients([(tf.constant([[0.5, -1], [2, 0], [0, 3]]), variable) for variable in of_one])
    for variable, same in zip(*variables, strict=True):
        np.testing.assert_array_equal(same, variable, err_msg=variable.name)
    assert np.any(variables[0][0].numpy() != variables[0][1].numpy()), "the decay tells weights apart"


def plain_and_lazy(clip_norm: float) -> tuple[tf.keras.optimizers.Optimizer, tf.keras.optimizers.Optimizer]:
    """AdamW and LazyAdamW with the same settings."""
    made = []
    for loss in ("softmax", "gbce"):
        config = TrainingConfig(loss=loss, learning_rate=0.1, warmup_steps=0, weight_decay=0.05, clip_norm=clip_norm)
        made.append(make_optimizer(config, tf.Variable(100, dtype=tf.int64)))
    return made[0], made[1]


@pytest.mark.parametrize("clip_norm", [1.0, 1e6], ids=["clipped", "not clipped"])
@pytest.mark.parametrize("name", ["item_table", "position_table", "output_bias"])
def test_lazy_adamw_equals_adamw_if_every_row_is_touched(clip_norm: float, name: str) -> None:
    plain, lazy = plain_and_lazy(clip_norm)
    shape, generator = ([5] if name == "output_bias" else [5, 3]), np.random.default_rng(1)
    start = generator.normal(size=shape)
    variables = [tf.Variable(start, dtype=tf.float32, name=name) for _ in range(2)]
    others = [tf.Variable([0.5, -1.0], name="kernel") for _ in range(2)]
    for _ in range(4):
        # Some rows come several times.
        rows = np.concatenate([generator.permutation(5), [2, 2, 0]])
        values = generator.normal(0, 2, [8, *shape[1:]])
        dense = np.zeros(shape)
        np.add.at(dense, rows, values)
        sparse = tf.IndexedSlices(tf.constant(values, tf.float32), tf.constant(rows), tf.constant(shape, tf.int64))
        for optimizer, gradient, variable, other in zip(
            (plain, lazy), (tf.constant(dense, tf.float32), sparse), variables, others, strict=True
        ):
            optimizer.apply_gradients([(gradient, variable), (tf.constant([0.3, 0.2]), other)])
        np.testing.assert_allclose(variables[1], variables[0], atol=1e-5)
        np.testing.assert_allclose(others[1], others[0], atol=1e-6)
    assert np.abs(variables[0].numpy() - start).max() > 0.1


@pytest.mark.parametrize("name", ["item_table", "position_table"])
def test_lazy_adamw_leaves_untouched_rows_unchanged(name: str) -> None:
    _, lazy = plain_and_lazy(5.0)
    table = tf.Variable(tf.ones([4, 2]), name=name)
    lazy.apply_gradients([(tf.IndexedSlices(tf.ones([1, 2]), tf.constant([1]), tf.constant([4, 2], tf.int64)), table)])
    np.testing.assert_array_equal(table.numpy()[[0, 2, 3]], np.ones([3, 2]))
    # The first step of Adam is the learning rate; the decay is added to it.
    np.testing.assert_allclose(table[1], [1 - 0.1 - 0.1 * 0.05] * 2, rtol=1e-4)
