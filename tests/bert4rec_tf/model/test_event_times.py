"""Times of events: the model against NumPy, histories at serving, and what a training step hides."""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from bert4rec_tf.config import ModelConfig
from bert4rec_tf.model.event_times import GAP_BUCKETS, gap_buckets, slot_times
from tests.support.small_models import (
    MAX_SEQ_LENGTH,
    NEIGHBOURS,
    PREFIX,
    PREFIX_TIMES,
    TIMES,
    VOCABULARY_SIZE,
    example_batch,
    inputs_of,
    oracle_logits,
    oracle_loss,
    paper_weights,
    prefix_batch,
    random_model,
    with_times,
)
from tfrecords.vocabulary import MASK_ID, NUM_SPECIAL_IDS

CAUSAL_TIMES = dataclasses.replace(PREFIX_TIMES, attention="causal", request_time=0.0)
REQUEST_ONLY = dataclasses.replace(TIMES, time_bias=False)
KINDS = pytest.mark.parametrize(
    "config", [TIMES, PREFIX_TIMES, CAUSAL_TIMES, REQUEST_ONLY], ids=["cloze", "prefix", "causal", "request alone"]
)


@given(st.integers(0, 2**31 - 1) | st.integers(0, 40).map(lambda power: min(2**power, 2**31 - 1)))
@settings(max_examples=200)
def test_buckets_are_those_of_the_logarithm(gap: int) -> None:
    found = int(gap_buckets(tf.constant(gap)))
    exact = np.log(max(1, gap)) / 0.301
    assert found == int(exact) or abs(exact - round(exact)) < 1e-5, "single precision may round at the border"
    assert 0 <= found < GAP_BUCKETS


@KINDS
def test_logits_equal_those_of_loops_over_pairs_of_events(config: ModelConfig) -> None:
    model = random_model(config)
    batch = with_times(prefix_batch() if config.attention == "prefix" else example_batch())
    expected = oracle_logits(paper_weights(model), batch, config)
    np.testing.assert_allclose(model(inputs_of(batch))[:3], expected, atol=1e-4)
    without = inputs_of({name: values for name, values in batch.items() if name != "times"})
    assert np.abs(model(without)[:3] - expected)[..., NUM_SPECIAL_IDS:].max() > 0.1, "times must matter"
    batch.pop("times")
    np.testing.assert_allclose(model(without)[:3], oracle_logits(paper_weights(model), batch, config), atol=1e-4)


@pytest.mark.parametrize("config", [TIMES, CAUSAL_TIMES], ids=["cloze", "causal"])
def test_the_loss_of_a_packed_batch_is_that_of_the_oracle(config: ModelConfig) -> None:
    model, batch = random_model(config), with_times(example_batch())
    model.compile("sgd", jit_compile=True)
    found = model.test_step({name: tf.constant(value) for name, value in batch.items()})["loss"]
    assert float(found) == pytest.approx(oracle_loss(paper_weights(model), batch, config), abs=1e-4)


def test_without_the_settings_times_change_nothing() -> None:
    for config in (NEIGHBOURS, PREFIX):
        model, batch = random_model(config), example_batch()
        np.testing.assert_array_equal(model(inputs_of(with_times(batch))), model(inputs_of(batch)))
        names = {variable.name for variable in model.variables}
        assert not any("time_bias" in name or "request_gap" in name for name in names)


model_of = functools.lru_cache(random_model)  # the examples share a model, which none of them changes


@KINDS
@given(st.data())
@settings(max_examples=12)
def test_histories_with_times_are_scored_as_their_window(config: ModelConfig, data: st.DataObject) -> None:
    model = model_of(config)
    event = st.tuples(
        st.integers(0, VOCABULARY_SIZE - 1), st.just(-1) | st.integers(1_700_000_000, 1_700_000_000 + 10**7)
    )
    history = data.draw(st.lists(event, min_size=1, max_size=MAX_SEQ_LENGTH + 3))
    request = data.draw(st.just(-1) | st.integers(1_700_000_000 - 5, 1_700_000_000 + 2 * 10**7))
    ids, times = (np.array(column) for column in zip(*history, strict=True))
    scores = model.score_next_item(
        tf.constant([ids], tf.int32), tf.constant([times], tf.int64), tf.constant([request], tf.int64)
    ).numpy()[0]
    kept = [(item, time) for item, time in history if item >= NUM_SPECIAL_IDS][-(MAX_SEQ_LENGTH - 1) :]
    asked = [*kept, (MASK_ID, request)] if not config.predicts_next_items or not kept else kept
    window = [[item for item, _ in asked]]
    seconds = [time - 1_600_000_000 if time >= 0 else -1 for _, time in asked]
    if config.predicts_next_items and kept:
        seconds.append(request - 1_600_000_000 if request >= 0 else -1)
    batch = {
        "item_ids": np.array(window, np.int32),
        "valid_mask": np.ones([1, len(asked)], bool),
        "masked_positions": np.array([[len(asked) - 1]], np.int32),
        "times": np.array([seconds], np.int32),
    }
    if config.attention == "prefix":
        batch["prefix_lengths"] = np.array([[len(asked)]], np.int32)
    expected = oracle_logits(paper_weights(model), batch, config)[0, 0]
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_a_request_without_times_is_answered_as_one_with_unknown_times() -> None:
    histories = tf.constant([[5, 9, 13], [4, 0, 0], [0, 0, 0]])
    for config in (TIMES, PREFIX_TIMES):
        model = random_model(config)
        unknown = tf.fill([3, 3], tf.constant(-1, tf.int64)), tf.fill([3], tf.constant(-7, tf.int64))
        np.testing.assert_array_equal(model.score_next_item(histories), model.score_next_item(histories, *unknown))


def test_training_hides_rows_of_times_and_times_of_requests() -> None:
    config = dataclasses.replace(PREFIX_TIMES, time_dropout=0.3, request_time=0.6)
    items, times = tf.fill([64, 7], 5), tf.range(8)[None] * 100 + tf.zeros([64, 1], tf.int32)
    hidden_rows, known_gaps = [], []
    for step in range(40):
        found = slot_times(times, items, config, tf.constant([4, step, 0]))
        rows = tf.reduce_all(found.times == -1, axis=1).numpy()
        np.testing.assert_array_equal(found.times.numpy()[~rows], times.numpy()[~rows, :7])
        assert (found.request_gaps.numpy()[rows] == -1).all()
        kept = found.request_gaps.numpy()[~rows]
        assert set(np.unique(kept)) == {-1, 100}
        hidden_rows.append(rows.mean())
        known_gaps.append((kept == 100).mean())
    assert np.mean(hidden_rows) == pytest.approx(0.3, abs=0.04)
    assert np.mean(known_gaps) == pytest.approx(0.6, abs=0.02)
    # Two replicas hide what one device would hide in the whole batch.
    whole = slot_times(times, items, config, tf.constant([4, 1, 0]))
    for first in (0, 32):
        part = slot_times(times[:32], items[:32], config, tf.constant([4, 1, first]))
        np.testing.assert_array_equal(part.times, whole.times[first : first + 32])
        np.testing.assert_array_equal(part.request_gaps, whole.request_gaps[first : first + 32])


def test_times_of_a_row_may_be_given_from_any_moment() -> None:
    batch = with_times(example_batch())
    later = np.where(batch["times"] < 0, -1, np.minimum(batch["times"], 10**9) + 12_345)
    batch["times"] = np.minimum(batch["times"], 10**9)
    model = random_model(TIMES)
    moved = inputs_of(batch | {"times": later.astype(np.int32)})
    np.testing.assert_array_equal(model(moved), model(inputs_of(batch)))
