"""Masks drawn in the graph equal those that the pipeline draws with the same keys; cuts and prefixes are uniform."""

from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

from bert4rec_tf.inputs.hashed_random import hashed_bits, hashed_uniform
from bert4rec_tf.inputs.instance_draws import draw_lengths, draw_masks, draw_prefixes, max_predictions_of
from pipelines.stages import masking
from tfrecords import hashed_random
from tfrecords.config import MaskingConfig
from tfrecords.ragged import Ragged
from tfrecords.vocabulary import MASK_ID, PAD_ID

KEYS = np.random.default_rng(3).integers(0, 2**64, 500, np.uint64, endpoint=False)
LENGTHS = np.random.default_rng(4).integers(1, 41, len(KEYS))
WINDOWS = Ragged.from_lengths(np.random.default_rng(5).integers(3, 90, LENGTHS.sum()), LENGTHS)


def padded(rows: Ragged, width: int) -> np.ndarray:
    result = np.zeros((len(rows), width), np.int32)
    result[np.arange(width) < rows.lengths[:, None]] = rows.values
    return result


def drawn(config: MaskingConfig, predictions: int = 40) -> dict[str, np.ndarray]:
    tensors = draw_masks(tf.constant(padded(WINDOWS, 44)), tf.constant(KEYS), config, 90, tf.constant(predictions))
    return {name: value.numpy() for name, value in tensors.items()}


def test_random_numbers_equal_those_of_the_pipeline() -> None:
    slot_index = np.arange(7)
    for in_graph, in_numpy in (
        (hashed_bits, hashed_random.hashed_bits),
        (hashed_uniform, hashed_random.hashed_uniform),
    ):
        found = in_graph(5, tf.constant(KEYS[:, None]), tf.constant(slot_index[None]))
        np.testing.assert_array_equal(found.numpy(), in_numpy(5, KEYS[:, None], slot_index[None]))


@pytest.mark.parametrize(
    "config",
    [
        MaskingConfig(masking_rates=(0.2,), last_item_instances=0),
        MaskingConfig(masking_rates=(0.0, 0.25, 0.5, 1.0), last_item_instances=0),
        MaskingConfig(masking_rates=(0.6,), max_predictions=7, last_item_instances=0),
        MaskingConfig(masking_rates=(0.3, 0.5), random_item_rate=0.3, kept_item_rate=0.2, last_item_instances=0),
    ],
)
def test_the_same_keys_give_the_masks_of_the_pipeline(config: MaskingConfig) -> None:
    masks = masking.draw_masks(LENGTHS, KEYS, np.zeros(len(KEYS), bool), config)
    offsets = WINDOWS.offsets[masks.rows] + masks.positions
    shown = WINDOWS.values.copy()
    shown[offsets] = masking.draw_shown(WINDOWS.values[offsets], masks.slot_keys, config, 90)
    numbers = np.bincount(masks.rows, minlength=len(KEYS))
    found = drawn(config)
    np.testing.assert_array_equal(found["item_ids"], padded(Ragged(shown, WINDOWS.offsets), 44))
    for name, values in (("masked_positions", masks.positions), ("masked_item_ids", WINDOWS.values[offsets])):
        np.testing.assert_array_equal(found[name], padded(Ragged.from_lengths(values, numbers), 40))


def test_last_item_instances_have_the_same_share_as_in_the_records() -> None:
    only = drawn(MaskingConfig(masking_rates=(1.0,), duplicate_factor=0, last_item_instances=2))
    np.testing.assert_array_equal(only["masked_positions"][:, 0], LENGTHS - 1)
    np.testing.assert_array_equal((only["item_ids"] == MASK_ID).sum(axis=1), 1)
    some = drawn(MaskingConfig(masking_rates=(1.0,), duplicate_factor=3, last_item_instances=1))
    single = Counter((some["masked_item_ids"] != PAD_ID).sum(axis=1)[LENGTHS > 1] == 1)
    assert single[True] / single.total() == pytest.approx(0.25, abs=0.08)  # four standard deviations
    assert max_predictions_of(40, MaskingConfig(masking_rates=(1.0,), duplicate_factor=0)) == 1


@pytest.mark.parametrize(("length", "cuts"), [(1, {1}), (2, {2}), (3, {2, 3}), (9, set(range(2, 10)))])
def test_windows_are_cut_to_every_length_from_two(length: int, cuts: set[int]) -> None:
    found = Counter(draw_lengths(tf.fill([400], length), tf.constant(KEYS[:400])).numpy().tolist())
    assert found.keys() == cuts
    mean = 400 / len(cuts)
    assert all(abs(number - mean) <= 4 * mean**0.5 for number in found.values())


@pytest.mark.parametrize(("length", "possible"), [(0, {0}), (1, {0, 1}), (6, set(range(7)))])
def test_prefixes_of_each_length_are_equally_likely(length: int, possible: set[int]) -> None:
    found = Counter(draw_prefixes(tf.fill([400], length), 0.25, tf.constant(KEYS[:400])).numpy().tolist())
    assert found.keys() == possible
    if length:
        assert abs(found[0] - 100) <= 4 * (400 * 0.25 * 0.75) ** 0.5
        mean = 300 / length
        assert all(abs(found[prefix] - mean) <= 4 * mean**0.5 for prefix in possible - {0})


@pytest.mark.parametrize("rates", [(0.0,), (0.1, 0.25), (0.5,), (1.0,)])
@pytest.mark.parametrize("max_predictions", [None, 3])
def test_max_predictions_is_reached_and_never_exceeded(rates: tuple[float, ...], max_predictions: int | None) -> None:
    config = MaskingConfig(masking_rates=rates, max_predictions=max_predictions, last_item_instances=0)
    masked = np.bincount(masking.draw_masks(LENGTHS, KEYS, np.zeros(len(KEYS), bool), config).rows)
    assert masked.max() == max_predictions_of(40, config)
    assert np.all(masked <= [max_predictions_of(int(length), config) for length in LENGTHS])
