"""Mixed precision: the same model in half precision, with weights, softmaxes and losses in single precision."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from bert4rec_tf.config import ModelConfig, TrainingConfig
from bert4rec_tf.model.bert4rec import Bert4Rec
from bert4rec_tf.model.sampled_loss import SampledLoss
from bert4rec_tf.training.optimizer import make_optimizer
from tests.support.small_models import GATED, PREFIX_TIMES, SMALL, TIMES, UNIT, VOCABULARY_SIZE, random_model

POLICIES = {"mixed_bfloat16": (tf.bfloat16, 2.0**-8), "mixed_float16": (tf.float16, 2.0**-11)}
BATCH = {
    "item_ids": tf.constant([[3, 5, 1, 7], [4, 1, 0, 0]]),
    "valid_mask": tf.constant([[True, True, True, True], [True, True, False, False]]),
    "masked_positions": tf.constant([[2], [1]]),
    "masked_item_ids": tf.constant([[6], [9]]),
    "masked_weights": tf.constant([[1.0], [1.0]]),
}


def with_policy(policy: str, config: ModelConfig) -> Bert4Rec:
    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(policy)
    try:
        return random_model(config)
    finally:
        tf.keras.mixed_precision.set_global_policy(before)


def compiled(policy: str, config: ModelConfig, jit_compile: bool = False, **training: object) -> Bert4Rec:
    model = with_policy(policy, config)
    settings = TrainingConfig(precision=policy, warmup_steps=0, learning_rate=0.01, num_steps=100, **training)
    optimizer = make_optimizer(settings, tf.Variable(100, dtype=tf.int64))
    sampled_loss = None if settings.loss == "softmax" else SampledLoss(settings, np.zeros(VOCABULARY_SIZE))
    model.compile(optimizer, jit_compile=jit_compile, sampled_loss=sampled_loss)
    return model


@pytest.mark.parametrize(
    ("policy", "config"),
    [
        ("mixed_bfloat16", PREFIX_TIMES),
        ("mixed_float16", SMALL),
        *(
            pytest.param(policy, config, marks=pytest.mark.slow)
            for policy in POLICIES
            for config in (GATED, TIMES, UNIT)
        ),
    ],
)
def test_the_model_is_that_of_single_precision_up_to_rounding(policy: str, config: ModelConfig) -> None:
    half, step = POLICIES[policy]
    mixed, single = with_policy(policy, config), random_model(config)
    assert {variable.dtype for variable in mixed.trainable_variables} == {tf.float32}
    inputs = {name: BATCH[name] for name in ("item_ids", "valid_mask")}
    assert mixed.encode(*inputs.values(), None).dtype == half
    logits, expected = mixed(inputs), single(inputs)
    assert logits.dtype == tf.float32
    error = np.abs(logits - expected)[BATCH["valid_mask"]][:, 3:]
    size = np.abs(expected)[BATCH["valid_mask"]][:, 3:].max()
    assert 0 < error.max() < 16 * step * size
    histories = tf.constant([[3, 5, 7], [4, 0, 0]])
    query = mixed.encode_next_item(histories)
    assert query.dtype == tf.float32
    for weights in mixed.attention_weights(*inputs.values()):
        assert weights.dtype == tf.float32
        np.testing.assert_allclose(tf.reduce_sum(weights, axis=-1), 1, atol=1e-5)


@pytest.mark.parametrize(("policy", "loss"), [("mixed_bfloat16", "sampled_softmax"), ("mixed_float16", "softmax")])
def test_updates_are_those_of_single_precision_up_to_rounding(policy: str, loss: str) -> None:
    config = dataclasses.replace(SMALL, dropout=0.3)
    changes = {}
    for name in (policy, "float32"):
        model = compiled(name, config, loss=loss, sampled_items=64)
        before = [variable.numpy() for variable in model.trainable_variables]
        logs = model.update_weights(BATCH)
        after = [variable.numpy() for variable in model.trainable_variables]
        changes[name] = np.concatenate([(new - old).ravel() for new, old in zip(after, before, strict=True)])
        assert logs["loss"].dtype == tf.float32
    # Adam's first update is the gradient's sign.
    mixed, single = changes[policy], changes["float32"]
    assert np.corrcoef(mixed, single)[0, 1] > 0.97


def test_steps_whose_gradients_overflow_are_skipped() -> None:
    model = compiled("mixed_float16", SMALL)
    scale = model.optimizer._loss_scale.current_loss_scale
    scale.assign(2.0**40)
    before = [variable.numpy() for variable in model.trainable_variables]
    logs = model.update_weights(BATCH)
    assert np.isfinite(float(logs["loss"]))
    assert float(scale) == 2.0**39
    assert int(model.optimizer.iterations) == 1, "a step that is skipped counts"
    for variable, old in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable, old)
    scale.assign(1.0)
    model.update_weights(BATCH)
    assert int(model.optimizer.iterations) == 2
    assert all((variable.numpy() != old).any() for variable, old in zip(model.trainable_variables, before, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
def test_compiled_by_xla(policy: str) -> None:
    losses = [
        float(compiled(policy, PREFIX_TIMES, jit_compile).update_weights(BATCH)["loss"])
        for jit_compile in (True, False)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=16 * POLICIES[policy][1])
