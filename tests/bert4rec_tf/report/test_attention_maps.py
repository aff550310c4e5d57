"""The attention in the report, against the NumPy implementation."""

import numpy as np
import pytest
import tensorflow as tf

from bert4rec_tf.config import ModelConfig
from bert4rec_tf.report.attention_maps import attention_maps, attention_weights
from tests.support.numpy_bert4rec import attention_of_blocks
from tests.support.small_models import CAUSAL, DISTANCES, NEWEST, PRE, SMALL, TWO_LAYERS, paper_weights, random_model
from tfrecords.vocabulary import MASK_ID, PAD_ID, UNK_ID

# The model's windows have at most 8 slots: of the second history the newest 7 items count, of the third the known ones.
HISTORIES = [np.array(row) for row in ([5, 3, 9, 4], [7, 7, 4, 6, 3, 8, 9, 13, 12], [4, UNK_ID, 5, PAD_ID, 6])]
WINDOWS = [np.array([*row, MASK_ID]) for row in ([5, 3, 9, 4], [4, 6, 3, 8, 9, 13, 12], [4, 5, 6])]
CONFIGS = pytest.mark.parametrize(
    "config", [SMALL, TWO_LAYERS, PRE, NEWEST, DISTANCES], ids=["post", "two", "pre", "newest", "distances"]
)


@CONFIGS
def test_weights_equal_the_papers(config: ModelConfig) -> None:
    model = random_model(config)
    positions = np.array([[0, 4], [2, 7], [3, 1]])
    found = attention_weights(model, WINDOWS, positions)
    assert len(found) == config.num_layers
    for row, window in enumerate(WINDOWS):
        expected = attention_of_blocks(paper_weights(model), window, config.layer_norm)
        for weights, block in zip(found, expected, strict=True):
            assert weights.shape == (3, config.num_heads, 2, 8)
            np.testing.assert_allclose(weights[row, :, :, : len(window)], block[:, positions[row]], atol=1e-5)
            assert not weights[row, :, :, len(window) :].any(), "padding"
            np.testing.assert_allclose(weights[row].sum(axis=-1), 1, atol=1e-6)


@CONFIGS
@pytest.mark.parametrize(("slots", "size"), [(3, 3), (20, 4)])
def test_maps_are_means_over_users_of_the_newest_slots(config: ModelConfig, slots: int, size: int) -> None:
    model = random_model(config)
    maps = attention_maps(model, HISTORIES, slots)
    assert maps.users == 3
    assert maps.weights.shape == (config.num_layers, config.num_heads, size, size)
    blocks = [attention_of_blocks(paper_weights(model), window, config.layer_norm) for window in WINDOWS]
    for layer in range(config.num_layers):
        mean = np.mean([of[layer][:, -size:, -size:] for of in blocks], axis=0)
        np.testing.assert_allclose(maps.weights[layer], mean, atol=1e-5)
        np.testing.assert_allclose(maps.shown[layer], mean[:, -1].sum(axis=-1), atol=1e-5)


def test_causal_attention_predicts_from_the_newest_item() -> None:
    model = random_model(CAUSAL)
    maps = attention_maps(model, HISTORIES, slots=3)
    windows = [window[:-1] for window in WINDOWS]
    blocks = [attention_of_blocks(paper_weights(model), window, CAUSAL.layer_norm, prefix=0) for window in windows]
    for layer in range(CAUSAL.num_layers):
        mean = np.mean([of[layer][:, -3:, -3:] for of in blocks], axis=0)
        np.testing.assert_allclose(maps.weights[layer], mean, atol=1e-5)
    assert maps.predicts_next_items
    assert not np.triu(maps.weights, 1).any()


def test_more_users_than_a_batch() -> None:
    model = random_model(TWO_LAYERS)
    many, once = attention_maps(model, HISTORIES * 13, 4), attention_maps(model, HISTORIES, 4)
    assert many.users == 39
    np.testing.assert_allclose(many.weights, once.weights, atol=1e-6)


def test_attention_maps_do_not_change_the_model() -> None:
    model = random_model(TWO_LAYERS)
    histories, names = tf.constant([[5, 3, 9, 4]]), [weight.name for weight in model.weights]
    layers = [block.attention.dropout for block in model.encoder.blocks]
    before = model.score_next_item(histories).numpy()
    attention_maps(model, HISTORIES)
    assert [block.attention.dropout for block in model.encoder.blocks] == layers
    assert [weight.name for weight in model.weights] == names
    np.testing.assert_array_equal(model.score_next_item(histories).numpy(), before)
