"""The head: special ids, the initial bias, and the tie to the item embedding."""

import numpy as np
import pytest
import tensorflow as tf

from bert4rec_tf.config import ModelConfig
from bert4rec_tf.model.bert4rec import build_model
from tests.support.small_models import (
    MAX_SEQ_LENGTH,
    SMALL,
    VOCABULARY_SIZE,
    example_batch,
    inputs_of,
    random_model,
)
from tfrecords.vocabulary import NUM_SPECIAL_IDS


def test_special_ids_score_minus_1e9() -> None:
    batch = example_batch()
    np.testing.assert_array_equal(random_model(SMALL)(inputs_of(batch))[..., :NUM_SPECIAL_IDS], np.float32(-1e9))


def test_item_embedding_is_tied_to_the_output() -> None:
    model, item = random_model(SMALL), 11
    history = tf.constant([[5, 9, 3], [5, item, 3]])
    before = model.score_next_item(history).numpy()
    table = model.embedding.item_table
    table.assign(tf.tensor_scatter_nd_add(table, [[item]], [np.linspace(-0.4, 0.5, SMALL.hidden_size)]))
    changed = np.abs(model.score_next_item(history).numpy() - before) > 1e-4
    assert np.flatnonzero(changed[0]).tolist() == [item], "not in the history: only its own logit"
    assert changed[1, NUM_SPECIAL_IDS:].all(), "in the history: all logits"
    assert sum(VOCABULARY_SIZE in variable.shape for variable in model.weights) == 2, "the table and the output bias"


@pytest.mark.parametrize("start", ["zeros", "log_popularity"])
def test_initial_output_bias_follows_the_configuration(start: str) -> None:
    log_popularity = np.linspace(-5, -1, VOCABULARY_SIZE).astype(np.float32)
    config = ModelConfig(hidden_size=8, output_bias=start)
    model = build_model(config, VOCABULARY_SIZE, MAX_SEQ_LENGTH, log_popularity)
    np.testing.assert_array_equal(model.head.output_bias, log_popularity if start == "log_popularity" else 0)
    scores = model.score_next_item(tf.zeros([1, 0], tf.int32)).numpy()[0, NUM_SPECIAL_IDS:]
    expected = log_popularity[NUM_SPECIAL_IDS:] if start == "log_popularity" else 0
    np.testing.assert_allclose(scores, expected, atol=0.02)
