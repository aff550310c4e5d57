"""Averaged scores, against the scores of each model alone."""

import numpy as np
import pytest
import tensorflow as tf

from bert4rec_tf.model.averaged_model import AveragedModel
from bert4rec_tf.model.bert4rec import Bert4Rec, build_model
from tests.support.numpy_bert4rec import log_softmax
from tests.support.small_models import (
    CAUSAL,
    GATED,
    MAX_SEQ_LENGTH,
    PREFIX,
    PREFIX_TIMES,
    SMALL,
    VOCABULARY_SIZE,
    random_model,
    with_random_weights,
)
from tfrecords.vocabulary import NUM_SPECIAL_IDS

HISTORIES = tf.constant([[3, 5, 6, 0, 0], [0, 13, 0, 7, 4], [0, 0, 0, 0, 0], [8, 9, 10, 11, 12]])
ITEMS = slice(NUM_SPECIAL_IDS, None)


@pytest.fixture(scope="module")
def models() -> list[Bert4Rec]:
    """Models of each objective, with other sizes, and one with a shorter window than the histories."""
    short = with_random_weights(build_model(GATED, VOCABULARY_SIZE, max_seq_length=3), seed=4)
    return [random_model(config, seed) for seed, config in enumerate((SMALL, CAUSAL, PREFIX), 1)] + [short]


def log_probabilities(scores: np.ndarray) -> np.ndarray:
    return log_softmax(np.float64(scores[:, ITEMS]))


def test_the_scores_are_the_mean_of_the_models(models: list[Bert4Rec]) -> None:
    expected = np.mean([model.score_next_item(HISTORIES).numpy() for model in models], axis=0)
    found = AveragedModel(models).score_next_item(HISTORIES).numpy()
    np.testing.assert_allclose(found[:, ITEMS], expected[:, ITEMS], atol=1e-4)
    assert (found[:, :NUM_SPECIAL_IDS] < -1e8).all()


def test_their_softmax_is_the_geometric_mean_of_the_probabilities(models: list[Bert4Rec]) -> None:
    means = np.mean([log_probabilities(model.score_next_item(HISTORIES).numpy()) for model in models], axis=0)
    expected = np.exp(means) / np.exp(means).sum(axis=1, keepdims=True)
    found = np.exp(log_probabilities(AveragedModel(models).score_next_item(HISTORIES).numpy()))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not np.allclose(found, np.exp(log_probabilities(models[0].score_next_item(HISTORIES).numpy())), atol=0.05)


def test_a_query_and_an_item_vector_give_the_score(models: list[Bert4Rec]) -> None:
    averaged = AveragedModel(models)
    assert averaged.item_table.shape[1] == sum(model.config.hidden_size for model in models)
    scores = averaged.encode_next_item(HISTORIES).numpy() @ averaged.item_table.numpy().T + averaged.output_bias.numpy()
    found = averaged.score_next_item(HISTORIES).numpy()
    np.testing.assert_allclose(scores[:, ITEMS], found[:, ITEMS], atol=1e-4)


def test_attention_is_the_mean_of_each_models_layers_and_heads(models: list[Bert4Rec]) -> None:
    averaged = AveragedModel(models)
    found = averaged.attend_to_history(HISTORIES).numpy()
    assert found.shape[1:3] == averaged.attention_shape == (4, 1)
    for number, model in enumerate(models):
        np.testing.assert_allclose(
            found[:, number, 0], model.attend_to_history(HISTORIES).numpy().mean(axis=(1, 2)), atol=1e-6
        )


def test_what_one_model_needs_the_average_needs(models: list[Bert4Rec]) -> None:
    with_times = random_model(PREFIX_TIMES)
    averaged = AveragedModel([models[3], with_times])
    assert (averaged.uses_times, averaged.takes_request_time, averaged.max_seq_length) == (True, True, MAX_SEQ_LENGTH)
    assert not AveragedModel(models[:2]).uses_times
    times = tf.constant([[7, 8, 9 * 10**6, -1, -1]] * 4, tf.int64)
    asked = tf.constant([10**7] * 4, tf.int64)
    scores = [models[3].score_next_item(HISTORIES), with_times.score_next_item(HISTORIES, times, asked)]
    found = averaged.score_next_item(HISTORIES, times, asked)
    np.testing.assert_allclose(found[:, ITEMS], np.mean(scores, axis=0)[:, ITEMS], atol=1e-4)
    assert not np.allclose(found, averaged.score_next_item(HISTORIES), atol=1e-3), "the times change the scores"
    assert averaged.floats_per_history == models[3].floats_per_history + with_times.floats_per_history


def test_all_weights_are_saved(models: list[Bert4Rec]) -> None:
    saved = {variable.ref() for variable in AveragedModel(models).variables}
    assert {variable.ref() for model in models for variable in model.variables} < saved
    assert len(saved) == sum(len(model.variables) for model in models) + 2  # the joint table and bias
