"""The model's Keras interface: fit, evaluate, predict, callbacks, copies, files, and refused arguments."""

import dataclasses
import json
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from bert4rec_tf.config import ModelConfig, TrainingConfig
from bert4rec_tf.model.bert4rec import Bert4Rec, build_model
from bert4rec_tf.model.sampled_loss import SampledLoss
from bert4rec_tf.training.optimizer import LazyAdamW, SelectiveAdamW, make_optimizer
from tests.support.command_line import ROOT
from tests.support.ring_log import ring_batch
from tests.support.small_models import (
    DROPPING,
    MAX_SEQ_LENGTH,
    SMALL,
    VOCABULARY_SIZE,
    example_batch,
    inputs_of,
    oracle_loss,
    paper_weights,
    random_model,
)
from tfrecords.errors import InputError

LOG_POPULARITY = np.log(np.arange(1, VOCABULARY_SIZE + 1) / 105).astype(np.float32)


def compiled(config: ModelConfig = SMALL, optimizer: Any = "sgd", **arguments: Any) -> Bert4Rec:
    model = random_model(config)
    model.compile(optimizer, **arguments)
    return model


def batches(batch: dict[str, np.ndarray], size: int) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(batch).batch(size)


def test_fit_reports_the_mean_over_the_masked_items_of_the_epoch() -> None:
    # Batches of 2, 2, 1 and 0 masked items, and no update: neither the last batch's mean nor the mean of the means.
    model, batch = compiled(optimizer=tf.keras.optimizers.SGD(0.0)), example_batch()
    expected = oracle_loss(paper_weights(model), batch, SMALL)
    history = model.fit(batches(batch, 1), validation_data=batches(batch, 3), epochs=2, verbose=0).history
    assert history["loss"] == pytest.approx([expected, expected], abs=1e-5)
    assert history["val_loss"] == pytest.approx([expected, expected], abs=1e-5)
    assert history["masked_items"] == [5 / 4, 5 / 4]
    assert history["items"] == [3, 3]


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_evaluate_is_the_loss_without_dropout(jit_compile: bool) -> None:
    model, batch = compiled(DROPPING, jit_compile=jit_compile), example_batch()
    expected = oracle_loss(paper_weights(model), batch, DROPPING)
    assert model.evaluate(batches(batch, 2), verbose=0) == pytest.approx(expected, abs=1e-5)
    assert model.evaluate(batch, batch_size=3, verbose=0, return_dict=True) == {
        "loss": pytest.approx(expected, abs=1e-5)
    }


def test_evaluate_of_a_sampled_loss_is_repeatable() -> None:
    training = TrainingConfig(loss="sampled_softmax", sampled_items=5000)
    model, batch = compiled(sampled_loss=SampledLoss(training, LOG_POPULARITY)), example_batch()
    sampled = model.evaluate(batches(batch, 2), verbose=0)
    assert model.evaluate(batches(batch, 4), verbose=0) == pytest.approx(sampled, abs=1e-5)
    assert sampled == pytest.approx(oracle_loss(paper_weights(model), batch, SMALL), abs=0.1)


def test_steps_on_one_batch() -> None:
    model, batch = compiled(), example_batch()
    loss = oracle_loss(paper_weights(model), batch, SMALL)
    assert model.test_on_batch(batch) == pytest.approx(loss, abs=1e-5)
    as_int64 = {name: value.astype(np.int64) if value.dtype == np.int32 else value for name, value in batch.items()}
    assert model.train_on_batch(as_int64) == pytest.approx([loss, 5, 12], abs=1e-5)
    assert model.test_on_batch(batch) < loss


def test_predict_takes_inputs_or_histories() -> None:
    model, batch = random_model(SMALL), example_batch()
    np.testing.assert_allclose(model.predict(batch, verbose=0), model(inputs_of(batch)), atol=1e-6)
    histories = np.array([[5, 9, 3], [7, 0, 0], [4, 8, 0]])
    expected = model.score_next_item(tf.constant(histories, tf.int32))
    for given in (histories, tf.ragged.constant([[5, 9, 3], [7], [4, 8]]), histories.tolist()):
        np.testing.assert_allclose(model.predict(given, batch_size=2, verbose=0), expected, atol=1e-6)


@pytest.mark.slow
def test_callbacks_see_the_validation_loss(tmp_path: pathlib.Path) -> None:
    model, batch = compiled(ModelConfig(hidden_size=8, num_layers=1), tf.keras.optimizers.Adam(0.003)), ring_batch()
    best = str(tmp_path / "best.keras")
    callbacks = [
        tf.keras.callbacks.EarlyStopping("val_loss"),
        tf.keras.callbacks.ModelCheckpoint(best, "val_loss", save_best_only=True),
    ]
    losses = model.fit(batch, validation_data=batch, epochs=3, callbacks=callbacks, verbose=0).history["val_loss"]
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == 3
    assert tf.keras.models.load_model(best).evaluate(batch, verbose=0) == pytest.approx(losses[-1], abs=1e-6)


@pytest.mark.parametrize("loss", ["softmax", pytest.param("gbce", marks=pytest.mark.slow)])
def test_a_saved_model_resumes_training_to_the_bit(tmp_path: pathlib.Path, loss: str) -> None:
    training = TrainingConfig(loss=loss, learning_rate=0.01, warmup_steps=3, weight_decay=0.3, sampled_items=16)
    config = dataclasses.replace(SMALL, dropout=0.2)
    model = build_model(config, VOCABULARY_SIZE, MAX_SEQ_LENGTH, seed=3)
    sampled_loss = None if loss == "softmax" else SampledLoss(training, LOG_POPULARITY)
    model.compile(make_optimizer(training, tf.Variable(9, dtype=tf.int64)), sampled_loss=sampled_loss)
    model.fit(batches(ring_batch(), 32), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = tf.keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, Bert4Rec)
    assert type(loaded.optimizer) is (SelectiveAdamW if loss == "softmax" else LazyAdamW)
    histories = [one.fit(batches(ring_batch(), 32), verbose=0).history for one in (model, loaded)]
    assert histories[0] == histories[1]
    for weight, same in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(same, weight)


@pytest.mark.parametrize("copy", [tf.keras.models.clone_model, lambda model: Bert4Rec.from_config(model.get_config())])
def test_a_copy_has_the_same_starting_weights(copy: Callable[[Bert4Rec], Bert4Rec]) -> None:
    config = dataclasses.replace(SMALL, output_bias="log_popularity", attention="causal")
    model = Bert4Rec(config, VOCABULARY_SIZE, MAX_SEQ_LENGTH, LOG_POPULARITY, seed=4, name="mine")
    copied = copy(model)
    assert copied.get_config() == model.get_config()
    assert json.loads(model.to_json())["config"] == json.loads(json.dumps(model.get_config()))
    for weight, same in zip(model.weights, copied.weights, strict=True):
        assert same.name == weight.name
        np.testing.assert_array_equal(same, weight)
    histories = tf.constant([[5, 9, 3]])
    np.testing.assert_array_equal(copied.score_next_item(histories), model.score_next_item(histories))


@pytest.mark.parametrize("name", ["weights", "model.weights.h5", "old.h5"])
def test_weights_load_into_a_model_that_was_never_called(tmp_path: pathlib.Path, name: str) -> None:
    model = random_model(SMALL)
    model.save_weights(str(tmp_path / name))
    fresh = Bert4Rec(SMALL, VOCABULARY_SIZE, MAX_SEQ_LENGTH)
    fresh.load_weights(str(tmp_path / name))
    for weight, same in zip(model.get_weights(), fresh.get_weights(), strict=True):
        np.testing.assert_array_equal(same, weight)
    fresh.summary(print_fn=lambda *_, **__: None)


def test_a_checkpoint_holds_no_metric(tmp_path: pathlib.Path) -> None:
    plain, trained = random_model(SMALL), compiled()
    trained.train_on_batch(example_batch())
    assert [metric.name for metric in trained.metrics] == ["loss", "masked_items", "items"]
    stored = []
    for name, model in (("plain", plain), ("trained", trained)):
        path = tf.train.Checkpoint(model=model).write(str(tmp_path / name))
        stored.append([name for name, _ in tf.train.list_variables(path) if not name.startswith("model/optimizer")])
    assert stored[0] == stored[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["adam", "mse"], "Received: loss='mse'"),
        (["adam", None, ["accuracy"]], r"Received: metrics=\['accuracy'\]"),
        ({"optimizer": "adam", "loss": "mse"}, "Received: loss='mse'"),
        ({"optimizer": "adam", "weighted_metrics": ["mse"]}, "Received: weighted_metrics="),
        ({"optimizer": "adam", "learning_rate": 0.1}, "Received: learning_rate=0.1"),
        ({"optimizer": "adam", "jit_compile": "mse"}, "`jit_compile` must be True or False. Received: 'mse'"),
        ({"optimizer": "adam", "sampled_loss": "gbce"}, "`sampled_loss` must be a SampledLoss, or None"),
        ({"optimizer": ["adam"]}, "optimizer"),
        ({"optimizer": "adamm"}, "Unknown optimizer: 'adamm'"),
    ],
)
def test_compile_refuses_unsupported_arguments(arguments: list | dict, message: str) -> None:
    model = random_model(SMALL)
    with pytest.raises(ValueError, match=message):
        model.compile(**arguments) if isinstance(arguments, dict) else model.compile(*arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"metrics": [], "loss": None},
        *(pytest.param(each, marks=pytest.mark.slow) for each in ({"run_eagerly": True}, {"steps_per_execution": 2})),
    ],
)
def test_compile_supports_these_arguments(arguments: dict[str, Any]) -> None:
    model, batch = compiled(optimizer=tf.keras.optimizers.SGD(0.0), **arguments), example_batch()
    loss = oracle_loss(paper_weights(model), batch, SMALL)
    assert model.fit(batches(batch, 2), verbose=0).history["loss"] == [pytest.approx(loss, abs=1e-5)]


def without(name: str) -> dict[str, np.ndarray]:
    return {key: value for key, value in example_batch().items() if key != name}


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda model: model.fit(example_batch(), np.zeros(4), verbose=0), "Received: y or sample_weight"),
        (lambda model: model.fit(without("masked_weights"), verbose=0), "Received: none named masked_weights"),
        (lambda model: model.evaluate(without("valid_mask"), verbose=0), "Received: none named valid_mask"),
        (lambda model: model.evaluate(np.array([[3, 4]]), verbose=0), "The model takes a dict of item_ids"),
        (lambda model: model(tf.constant([[3, 4]])), "predict and score_next_item take histories"),
        (lambda model: model({**inputs_of(example_batch()), "mask_positions": 1}), "Received: mask_positions"),
        (lambda model: model.predict(without("item_ids"), verbose=0), "Received: none named item_ids"),
        (lambda model: model.predict(np.array([[3.0, 4.0]]), verbose=0), "`histories` must be int32"),
        (lambda model: model.predict(np.array([["3", "4"]]), verbose=0), "`histories` must be int32"),
        (lambda model: model.predict(np.array([3, 4]), verbose=0), "`histories` must be int32"),
        (lambda model: model.save("model"), "save\\(\\) writes a .keras file. Received: model"),
        (lambda model: model.save("model.h5"), "save\\(\\) writes a .keras file. Received: model.h5"),
    ],
)
def test_invalid_inputs_are_refused(use: Callable[[Bert4Rec], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        use(compiled())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"item_ids": np.full([4, 7], VOCABULARY_SIZE)}, "item_ids must be from 0 to below"),
        ({"item_ids": np.full([4, 7], -1)}, "item_ids must be from 0 to below"),
        ({"masked_item_ids": np.full([4, 2], VOCABULARY_SIZE)}, "masked_item_ids must be from 0 to below"),
        ({"masked_positions": np.full([4, 2], 7)}, "masked_positions must be from 0 to below"),
        (
            {"item_ids": np.full([4, MAX_SEQ_LENGTH + 1], 5), "valid_mask": np.ones([4, MAX_SEQ_LENGTH + 1], bool)},
            "the length of item_ids must be from 0 to below",
        ),
    ],
)
def test_ids_past_the_tables_are_refused_under_xla_too(changed: dict[str, np.ndarray], message: str) -> None:
    model = compiled(jit_compile=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        model.test_on_batch(example_batch() | changed)


@pytest.mark.slow
def test_keras_exports_windows_of_any_length(tmp_path: pathlib.Path) -> None:
    model, inputs = random_model(SMALL), inputs_of(example_batch())
    model.export(str(tmp_path / "exported"))
    loaded = tf.saved_model.load(str(tmp_path / "exported"))  # its weights live as long as it does
    np.testing.assert_allclose(loaded.serve(inputs), model(inputs), atol=1e-6)


ON_TWO_DEVICES = """
import json, sys
import tensorflow as tf
from bert4rec_tf.training.strategy import make_strategy
from bert4rec_tf.model.bert4rec import build_model
from tests.bert4rec_tf.model.test_keras_interface import batches
from tests.support.ring_log import ring_batch
from tests.support.small_models import DROPPING, MAX_SEQ_LENGTH, VOCABULARY_SIZE

strategy, batch = make_strategy(sys.argv[1]), ring_batch()
batch["masked_weights"][:40] = 0  # the replicas have unequally many masked items
with strategy.scope():
    model = build_model(DROPPING, VOCABULARY_SIZE, MAX_SEQ_LENGTH)
    model.compile(tf.keras.optimizers.SGD(0.1), jit_compile=True)
history = model.fit(batches(batch, 16), validation_data=batches(batch, 32), epochs=2, verbose=0).history
print(json.dumps([history, model.evaluate(batches(batch, 64), verbose=0), strategy.num_replicas_in_sync]))
"""


@pytest.mark.slow
def test_mirrored_replicas_report_the_same_as_one_device() -> None:
    results = []
    for strategy in ("default", "mirrored"):
        command = [sys.executable, "-c", f"import sys; sys.path.insert(0, '.')\n{ON_TWO_DEVICES}", strategy]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        results.append(json.loads(ended.stdout.splitlines()[-1]))
    (one, one_loss, _), (two, two_loss, replicas) = results
    assert replicas == 2
    assert two_loss == pytest.approx(one_loss, abs=1e-5)
    for name, values in one.items():
        assert two[name] == pytest.approx(values, abs=1e-5), name
