"""The attention in the report, against the NumPy implementation."""

import numpy as np
import pytest
import tensorflow as tf

from bert4rec_tf.config import ModelConfig
from bert4rec_tf.inputs.user_histories import History
from bert4rec_tf.model.bert4rec import Bert4Rec
from bert4rec_tf.report.attention_ages import AGES, ages_charts, attention_ages
from bert4rec_tf.report.attention_maps import attention_maps, attention_weights
from tests.support.numpy_bert4rec import attention_of_blocks, times_of_slots
from tests.support.small_models import (
    CAUSAL,
    DISTANCES,
    NEWEST,
    PRE,
    SMALL,
    TIMES,
    TWO_LAYERS,
    paper_weights,
    random_model,
)
from tfrecords.vocabulary import MASK_ID, NUM_SPECIAL_IDS, PAD_ID, UNK_ID

# The model's windows have at most 8 slots: of the second history the newest 7 items count, of the third the known ones.
HISTORIES = [
    History(np.array(items), np.array(times))
    for items, times in (
        ([5, 3, 9, 4], [0, 7, 7, 10**6]),
        ([7, 7, 4, 6, 3, 8, 9, 13, 12], [0, 1, 60, 90, -1, 200, 3000, 40_000, 500_000]),
        ([4, UNK_ID, 5, PAD_ID, 6], [5, 6, 80, 0, 900]),
    )
]
WINDOWS = [
    History(np.array([*items, MASK_ID]), np.array([*times, -1]))
    for items, times in (
        ([5, 3, 9, 4], [0, 7, 7, 10**6]),
        ([4, 6, 3, 8, 9, 13, 12], [60, 90, -1, 200, 3000, 40_000, 500_000]),
        ([4, 5, 6], [5, 80, 900]),
    )
]
CONFIGS = pytest.mark.parametrize(
    "config",
    [SMALL, TWO_LAYERS, PRE, NEWEST, DISTANCES, TIMES],
    ids=["post", "two", "pre", "newest", "distances", "times"],
)


def expected_weights(model: Bert4Rec, window: History, prefix: int | None = None) -> list[np.ndarray]:
    items, times = window.item_ids, window.times
    of_slots = times_of_slots(items.tolist(), times.tolist(), next_items=model.config.predicts_next_items)
    return attention_of_blocks(paper_weights(model), items, model.config.layer_norm, prefix, of_slots)


@CONFIGS
def test_weights_equal_the_papers(config: ModelConfig) -> None:
    model = random_model(config)
    positions = np.array([[0, 4], [2, 7], [3, 1]])
    found = attention_weights(model, WINDOWS, positions)
    assert len(found) == config.num_layers
    for row, window in enumerate(WINDOWS):
        for weights, block in zip(found, expected_weights(model, window), strict=True):
            assert weights.shape == (3, config.num_heads, 2, 8)
            np.testing.assert_allclose(weights[row, :, :, : len(window.item_ids)], block[:, positions[row]], atol=1e-5)
            assert not weights[row, :, :, len(window.item_ids) :].any(), "padding"
            np.testing.assert_allclose(weights[row].sum(axis=-1), 1, atol=1e-6)


@CONFIGS
def test_attention_to_a_history_is_in_its_columns(config: ModelConfig) -> None:
    model = random_model(config)
    rows = [np.pad(history.item_ids, (9 - len(history.item_ids), 0)) for history in HISTORIES]
    times = [np.pad(history.times, (9 - len(history.times), 0), constant_values=-1) for history in HISTORIES]
    found = model.attend_to_history(tf.constant(rows), tf.constant(times, tf.int64)).numpy()
    assert found.shape == (3, config.num_layers, config.num_heads, 9)
    for row, window in enumerate(WINDOWS):
        seen = np.flatnonzero(np.array(rows[row]) >= NUM_SPECIAL_IDS)[-7:]
        for layer, block in enumerate(expected_weights(model, window)):
            np.testing.assert_allclose(found[row, layer][:, seen], block[:, -1, :-1], atol=1e-5)
        assert not np.delete(found[row], seen, axis=-1).any(), "padding, unknown items and those before the context"


def test_attention_of_a_model_of_next_items() -> None:
    model = random_model(CAUSAL)
    found = model.attend_to_history(tf.constant([[0, 5, 3, 9], [0, 0, 0, 0]])).numpy()
    expected = expected_weights(model, History(np.array([5, 3, 9]), np.full(3, -1)), prefix=0)
    for layer, block in enumerate(expected):
        np.testing.assert_allclose(found[0, layer], np.pad(block[:, -1], ((0, 0), (1, 0))), atol=1e-5)
    assert not found[1].any()


@CONFIGS
@pytest.mark.parametrize(("slots", "size"), [(3, 3), (20, 4)])
def test_maps_are_means_over_users_of_the_newest_slots(config: ModelConfig, slots: int, size: int) -> None:
    model = random_model(config)
    maps = attention_maps(model, HISTORIES, slots)
    assert maps.users == 3
    assert maps.weights.shape == (config.num_layers, config.num_heads, size, size)
    blocks = [expected_weights(model, window) for window in WINDOWS]
    for layer in range(config.num_layers):
        mean = np.mean([of[layer][:, -size:, -size:] for of in blocks], axis=0)
        np.testing.assert_allclose(maps.weights[layer], mean, atol=1e-5)
        np.testing.assert_allclose(maps.shown[layer], mean[:, -1].sum(axis=-1), atol=1e-5)


def test_causal_attention_predicts_from_the_newest_item() -> None:
    model = random_model(CAUSAL)
    maps = attention_maps(model, HISTORIES, slots=3)
    windows = [History(window.item_ids[:-1], window.times[:-1]) for window in WINDOWS]
    blocks = [expected_weights(model, window, prefix=0) for window in windows]
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


@CONFIGS
def test_weights_by_age_are_sums_over_events(config: ModelConfig) -> None:
    model, starts = random_model(config), list(AGES.values())
    found = attention_ages(model, HISTORIES)
    for user, window in enumerate(WINDOWS):
        newest, timed = max(window.times), [slot for slot, time in enumerate(window.times) if time >= 0]
        groups = {
            slot: max(g for g, start in enumerate(starts) if newest - window.times[slot] >= start) for slot in timed
        }
        for group in range(len(starts)):
            members = [slot for slot in timed if groups[slot] == group]
            assert found.events[user, group] == pytest.approx(len(members) / len(timed))
            for layer, weights in enumerate(expected_weights(model, window)):
                expected = sum(weights[:, -1, slot].mean() for slot in members)
                assert found.weights[user, layer, group] == pytest.approx(expected, abs=1e-5)
    charts = ages_charts(found)
    assert [chart.caption for chart in charts] == [
        f"Layer {layer + 1}: weight by the age of events" for layer in range(config.num_layers)
    ]
    assert "below 1 minute" in charts[0].svg
    assert "1 year and more" not in charts[0].svg, "no event is so old"


def test_histories_without_times_have_no_ages() -> None:
    unknown = [History(history.item_ids, np.full(len(history.item_ids), -1)) for history in HISTORIES]
    assert attention_ages(random_model(SMALL), unknown) is None
    assert ages_charts(None) == []
