"""Vectors of items with features against a loop in NumPy, unknown items, and models with the features folded in."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from bert4rec_tf.config import ModelConfig, TrainingConfig
from bert4rec_tf.model.bert4rec import Bert4Rec, build_model
from bert4rec_tf.model.folding import fold_item_vectors
from bert4rec_tf.model.item_features import FeatureArrays
from bert4rec_tf.model.sampled_loss import SampledLoss
from tests.support.made_up_features import COUNTS, ITEMS, made_up_features, model_with_features, vectors_by_hand
from tests.support.small_models import (
    CAUSAL,
    DROPPING,
    MAX_SEQ_LENGTH,
    PREFIX,
    SMALL,
    UNIT,
    example_batch,
    random_model,
)
from tfrecords.errors import InputError
from tfrecords.vocabulary import MASK_ID, NUM_SPECIAL_IDS

COLD = np.concatenate([np.zeros(NUM_SPECIAL_IDS, bool), COUNTS == 0])
HISTORIES = tf.constant([[5, 9, 13], [4, 0, 0], [0, 0, 0], [12, 13, 11]])
SEED = tf.constant([4, 7, 0])


@pytest.mark.parametrize("kind", ["sum", "gated"])
def test_vectors_are_those_of_a_loop_over_items(kind: str) -> None:
    model = model_with_features(SMALL, kind)
    expected = vectors_by_hand(model, COLD)
    np.testing.assert_allclose(model.embedding.all_vectors(), expected, atol=1e-5)
    ids = tf.constant([[13, 3, 3], [0, 1, 8]])
    np.testing.assert_allclose(model.embedding.vectors_of(ids), expected[ids.numpy()], atol=1e-5)


@pytest.mark.parametrize("kind", ["sum", "gated"])
def test_in_training_dropped_items_are_known_by_their_features_alone(kind: str) -> None:
    model = model_with_features(SMALL, kind, item_id_dropout=0.5)
    vectors = [model.embedding.all_vectors(tf.constant([4, step, 0])).numpy() for step in range(200)]
    known, unknown = vectors_by_hand(model, COLD), vectors_by_hand(model, np.arange(ITEMS + NUM_SPECIAL_IDS) >= 3)
    dropped = np.array([np.abs(row - known).max(axis=1) > 1e-3 for row in vectors])
    for row, gone in zip(vectors, dropped, strict=True):
        np.testing.assert_allclose(row, np.where(gone[:, None], unknown, known), atol=1e-5)
    assert not dropped[:, :NUM_SPECIAL_IDS].any(), "special ids are never dropped"
    np.testing.assert_allclose(dropped[:, NUM_SPECIAL_IDS:-2].mean(axis=0), 0.5, atol=0.12)
    np.testing.assert_array_equal(model.all_biases(SEED)[: -COLD.sum()], model.head.output_bias[: -COLD.sum()])


def test_the_bias_of_cold_items_exceeds_the_mean_of_the_trained_ones_by_the_boost() -> None:
    model = model_with_features(SMALL, cold_item_boost=1.5)
    own = np.arange(ITEMS + NUM_SPECIAL_IDS, dtype=np.float32) ** 2
    model.head.output_bias.assign(own)
    trained = own[NUM_SPECIAL_IDS:][~COLD[NUM_SPECIAL_IDS:]]
    np.testing.assert_allclose(model.all_biases(), np.where(COLD, trained.mean() + 1.5, own), rtol=1e-6)
    np.testing.assert_array_equal(model._bias_of(tf.constant([13, 3])), model.all_biases().numpy()[[13, 3]])


def test_an_item_is_dropped_everywhere_in_a_step() -> None:
    model = model_with_features(SMALL, item_id_dropout=0.5)
    everywhere = model.embedding.all_vectors(SEED).numpy()
    ids = tf.constant([[5, 5, 9], [9, 3, 5]])
    for first_row in (0, 64):  # of another replica
        seed = tf.constant([4, 7, first_row])
        np.testing.assert_allclose(model.embedding.vectors_of(ids, seed), everywhere[ids.numpy()], atol=1e-6)


def test_cold_items_have_no_share_in_the_training_loss() -> None:
    model = model_with_features(SMALL)
    inputs = {name: tf.constant(value) for name, value in example_batch().items() if not name.startswith("masked_item")}
    inputs.pop("masked_weights")
    with_seed = model(inputs | {"dropout_seed": SEED}).numpy()
    assert (with_seed[..., COLD] == np.float32(-1e9)).all()
    assert (model(inputs).numpy()[..., COLD] > -100).all(), "they can be recommended"


@pytest.mark.parametrize("kind", ["sum", "gated"])
@pytest.mark.parametrize("config", [SMALL, CAUSAL, PREFIX], ids=["cloze", "causal", "prefix"])
def test_a_folded_model_scores_as_the_model_does(config: ModelConfig, kind: str) -> None:
    model = model_with_features(config, kind)
    folded = fold_item_vectors(model)
    assert folded.config.item_features == "none"
    assert folded.embedding.item_features is None
    np.testing.assert_allclose(folded.score_next_item(HISTORIES), model.score_next_item(HISTORIES), atol=1e-5)
    assert fold_item_vectors(folded) is folded


@pytest.mark.parametrize("config", [UNIT, dataclasses.replace(PREFIX, item_vectors="unit")], ids=["cloze", "prefix"])
def test_unit_vectors_are_folded_too(config: ModelConfig) -> None:
    for model in (random_model(config), model_with_features(config)):
        vectors = tf.convert_to_tensor(model.embedding.all_vectors()).numpy()
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
        folded = fold_item_vectors(model)
        assert (folded.config.item_vectors, folded.config.item_features) == ("free", "none")
        np.testing.assert_allclose(folded.score_next_item(HISTORIES), model.score_next_item(HISTORIES), atol=1e-5)


def test_new_items_are_folded_in_behind_the_others() -> None:
    known_items = 8
    features = made_up_features(known_items)
    config = dataclasses.replace(SMALL, item_features="sum")
    trained = build_model(
        config,
        known_items + NUM_SPECIAL_IDS,
        MAX_SEQ_LENGTH,
        item_features=FeatureArrays.of(features, np.full(known_items, 5)),
    )
    generator = np.random.default_rng(2)
    for variable in trained.trainable_variables:
        variable.assign(generator.uniform(-0.6, 0.6, variable.shape))
    # The new items are copies of items 0 and 2, so they differ from these in what their ids say alone.
    copies = [*range(known_items), 0, 2]
    arrays = FeatureArrays.of(features, np.full(known_items, 5))
    rows = [*range(NUM_SPECIAL_IDS), *(copy + NUM_SPECIAL_IDS for copy in copies)]
    extended = FeatureArrays(
        tuple(values[rows] for values in arrays.categories),
        arrays.category_rows,
        arrays.numbers[rows],
        arrays.numbers_present[rows],
        tuple(values[rows] for values in arrays.vectors),
        np.arange(len(rows)) >= known_items + NUM_SPECIAL_IDS,
    )
    folded = fold_item_vectors(trained, extended)
    table, before = folded.embedding.item_table.numpy(), trained.embedding.all_vectors().numpy()
    np.testing.assert_allclose(table[: len(before)], before, atol=1e-6)
    for new, old in ((11, 3), (12, 5)):
        own = trained.embedding.item_table.numpy()[old]
        expected = before[old] - own + trained.embedding.item_features.unknown_item.numpy()
        np.testing.assert_allclose(table[new], expected, atol=1e-5)
    history = tf.constant([[3, 6]])
    scores = folded.score_next_item(history).numpy()
    np.testing.assert_allclose(scores[:, :11], trained.score_next_item(history), atol=1e-5)
    assert scores.shape == (1, 13)


@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax"])
@pytest.mark.parametrize("kind", ["sum", "gated"])
def test_gradients_are_those_of_finite_differences(kind: str, loss: str) -> None:
    model = model_with_features(SMALL, kind, item_id_dropout=0.3)
    sampled = None
    if loss != "softmax":
        popularity = np.full(ITEMS + NUM_SPECIAL_IDS, -2.0, np.float32)
        sampled = SampledLoss(TrainingConfig(loss=loss, sampled_items=6), popularity)
    model.compile("sgd", sampled_loss=sampled)
    batch = {name: tf.constant(value) for name, value in example_batch().items()}
    batch |= {"dropout_seed": SEED, "masked_item_ids": tf.constant([[7, 11], [3, 6], [8, 0], [0, 0]])}
    batch |= {} if sampled is None else sampled.draw(tf.constant(3))

    def loss_of() -> float:
        return float(model._loss(batch)[0])

    with tf.GradientTape() as tape:
        value = model._loss(batch)[0]
    layer = model.embedding.item_features
    variables = [*layer.trainable_weights, model.embedding.item_table]
    gradients = tape.gradient(value, variables)
    assert len(variables) == {"sum": 7, "gated": 9}[kind]
    generator = np.random.default_rng(5)
    for variable, gradient in zip(variables, gradients, strict=True):
        direction = generator.choice([-1.0, 1.0], variable.shape).astype(np.float32)
        start, step = variable.numpy(), 4e-3
        variable.assign(start + step * direction)
        above = loss_of()
        variable.assign(start - step * direction)
        below = loss_of()
        variable.assign(start)
        expected = float(tf.reduce_sum(tf.convert_to_tensor(gradient) * direction))
        assert (above - below) / (2 * step) == pytest.approx(expected, abs=2e-2), variable.name


def test_replicas_and_compilation_change_nothing() -> None:
    results = []
    for jit_compile in (False, True):
        model = model_with_features(DROPPING, "gated", item_id_dropout=0.3)
        model.compile(tf.keras.optimizers.SGD(0.1), jit_compile=jit_compile)
        batch = {name: tf.constant(value) for name, value in example_batch().items()}
        batch["masked_item_ids"] = tf.constant([[7, 11], [3, 6], [8, 0], [0, 0]])
        for _ in range(3):
            model.update_weights(batch)
        results.append([weight.numpy() for weight in model.trainable_weights])
    for plain, compiled in zip(*results, strict=True):
        np.testing.assert_allclose(compiled, plain, atol=1e-5)


@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax"])
@pytest.mark.parametrize("index", range(4))
def test_a_single_feature_of_any_kind_is_trained(index: int, loss: str) -> None:
    features = dataclasses.replace(made_up_features(), features=made_up_features().features[index : index + 1])
    config = dataclasses.replace(SMALL, item_features="sum")
    arrays = FeatureArrays.of(features, COUNTS)
    model = build_model(config, ITEMS + NUM_SPECIAL_IDS, MAX_SEQ_LENGTH, item_features=arrays)
    sampled = None
    if loss != "softmax":
        popularity = np.full(ITEMS + NUM_SPECIAL_IDS, -2.0, np.float32)
        sampled = SampledLoss(TrainingConfig(loss=loss, sampled_items=6), popularity)
    model.compile(tf.keras.optimizers.SGD(1.0), sampled_loss=sampled)
    before = [weight.numpy() for weight in model.embedding.item_features.trainable_weights]
    batch = {name: tf.constant(value) for name, value in example_batch().items()}
    batch["masked_item_ids"] = tf.constant([[7, 11], [3, 6], [8, 0], [0, 0]])
    for _ in range(20):
        model.update_weights(batch)
    after = [weight.numpy() for weight in model.embedding.item_features.trainable_weights]
    assert all((old != new).any() for old, new in zip(before, after, strict=True))


def test_a_saved_model_keeps_its_features(tmp_path: Any) -> None:
    model = model_with_features(SMALL, "gated")
    model.save(tmp_path / "model.keras")
    loaded = tf.keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, Bert4Rec)
    np.testing.assert_array_equal(loaded.score_next_item(HISTORIES), model.score_next_item(HISTORIES))


def test_features_must_be_there() -> None:
    with pytest.raises(InputError, match=r"model.item_features=sum needs items with features"):
        build_model(dataclasses.replace(SMALL, item_features="sum"), 14, MAX_SEQ_LENGTH)


def test_without_features_nothing_is_added() -> None:
    model = build_model(SMALL, 14, MAX_SEQ_LENGTH, item_features=FeatureArrays.of(made_up_features(), COUNTS))
    assert model.embedding.item_features is None
    assert model.embedding.all_vectors() is model.embedding.item_table
    assert MASK_ID < NUM_SPECIAL_IDS
