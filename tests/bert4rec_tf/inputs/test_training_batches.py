"""Training batches: each instance or window once a pass, in a few shapes, the same for the same seed."""

import pathlib
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import tensorflow as tf

from bert4rec_tf.config import Config
from bert4rec_tf.inputs.length_buckets import Bucket, choose_buckets, steps_per_pass
from bert4rec_tf.inputs.objectives import Objective, training_instances
from bert4rec_tf.inputs.training_batches import training_batches
from pipelines.build import build_records
from tests.support.masked_instances import instances_of
from tests.support.parsed_record import parse
from tests.support.training_records import (
    BATCH_SIZE,
    CONFIG,
    LOG,
    Batch,
    assert_same,
    histogram_of,
    records_of,
    sequences_of,
)
from tfrecords.manifest import Manifest
from tfrecords.schema import MASKED_WINDOW
from tfrecords.vocabulary import MASK_ID, PAD_ID, Vocabulary


@pytest.fixture(scope="module")
def buckets(manifest: Manifest) -> list[Bucket]:
    return choose_buckets(manifest.length_histogram, 3)


@pytest.fixture(scope="module")
def steps(buckets: list[Bucket]) -> int:
    return steps_per_pass(buckets, BATCH_SIZE)


def read(
    data_dir: pathlib.Path, manifest: Manifest, buckets: list[Bucket], number: int, seed: int = 1, first_step: int = 0
) -> list[Batch]:
    instances = training_instances(manifest, "masked_item")
    dataset = training_batches(data_dir, instances, buckets, BATCH_SIZE, seed, first_step)
    return list(dataset.take(number).as_numpy_iterator())


@pytest.fixture(scope="module")
def batches(data_dir: pathlib.Path, manifest: Manifest, buckets: list[Bucket], steps: int) -> list[Batch]:
    """Two passes and the start of a third."""
    return read(data_dir, manifest, buckets, 2 * steps + 5)


def stored(data_dir: pathlib.Path) -> Counter[tuple[tuple[int, ...], ...]]:
    found: Counter[tuple[tuple[int, ...], ...]] = Counter()
    for record in tf.data.TFRecordDataset([str(path) for path in sorted(data_dir.glob("train/*"))]):
        window = {name: values.numpy().tolist() for name, values in parse(MASKED_WINDOW, record).items()}
        names = ("item_ids", "masked_counts", "masked_positions", "shown_item_ids")
        found.update(tuple(map(tuple, row)) for row in instances_of(*(window[name] for name in names)))
    return found


def test_a_pass_holds_every_instance_once_in_the_shapes_of_the_buckets(
    data_dir: pathlib.Path, manifest: Manifest, buckets: list[Bucket], steps: int, batches: list[Batch]
) -> None:
    expected = stored(data_dir)
    assert expected.total() == manifest.instances()
    for start in (0, steps):
        assert Counter(records_of(batches[start : start + steps])) == expected
    shapes = {(bucket.length, bucket.predictions) for bucket in buckets}
    assert len(shapes) == 3
    for batch in batches:
        (rows, length), (_, predictions) = batch["item_ids"].shape, batch["masked_positions"].shape
        assert rows == BATCH_SIZE
        assert (length, predictions) in shapes
        assert batch["valid_mask"].shape == (BATCH_SIZE, length)
        assert batch["masked_item_ids"].shape == batch["masked_weights"].shape == (BATCH_SIZE, predictions)


@pytest.mark.parametrize(
    ("vocabulary_size", "objective"),
    [(None, "masked_item"), (60, "masked_item"), (None, "next_item"), (60, "last_item")],
)
def test_batches_of_one_bucket_have_static_shapes(
    data_dir: pathlib.Path, manifest: Manifest, vocabulary_size: int | None, objective: Objective
) -> None:
    (bucket,) = choose_buckets(histogram_of(manifest, objective), 1)
    instances = training_instances(manifest, objective, vocabulary_size)
    made = training_batches(data_dir, instances, [bucket], BATCH_SIZE, 1)
    assert made.element_spec["item_ids"].shape == [BATCH_SIZE, bucket.length]
    batch = next(iter(made))
    for name, spec in made.element_spec.items():
        assert spec.shape.is_fully_defined()
        assert spec.shape == batch[name].shape, name


def test_dtypes(batches: list[Batch]) -> None:
    assert {name: values.dtype.name for name, values in batches[0].items()} == {
        "item_ids": "int32",
        "valid_mask": "bool",
        "masked_positions": "int32",
        "masked_item_ids": "int32",
        "masked_weights": "float32",
    }


def test_unmasked_rows_are_windows_of_training_sequences(data_dir: pathlib.Path, batches: list[Batch]) -> None:
    windows, longest = set(), CONFIG.data.max_seq_length
    for items in sequences_of(data_dir).values():
        training = items[:-2] if len(items) >= 3 else items
        for start in [*range(len(training) - longest, 0, -(longest // 2)), 0]:
            windows.add(tuple(training[start : start + longest]))
    found = set()
    for shown, slots, masked in records_of(batches):
        window = list(shown)
        for slot, item in zip(slots, masked, strict=True):
            assert window[slot] == MASK_ID
            window[slot] = item
        found.add(tuple(window))
    assert found == windows


def test_empty_rows_have_no_weight(manifest: Manifest, buckets: list[Bucket], steps: int, batches: list[Batch]) -> None:
    filled = 0
    for batch in batches[:steps]:
        rows = ~batch["valid_mask"].any(axis=1)
        filled += rows.sum()
        np.testing.assert_array_equal(batch["valid_mask"], batch["item_ids"] != PAD_ID)
        np.testing.assert_array_equal(rows, batch["masked_weights"].sum(axis=1) == 0)
        assert set(np.unique(batch["masked_weights"])) <= {0, 1}
        for name in ("item_ids", "masked_positions", "masked_item_ids"):
            assert not batch[name][rows].any()
    assert filled == steps * BATCH_SIZE - manifest.instances() > 0


def test_the_same_seed_gives_the_same_batches(
    data_dir: pathlib.Path, manifest: Manifest, buckets: list[Bucket], batches: list[Batch]
) -> None:
    assert_same(read(data_dir, manifest, buckets, len(batches)), batches)


def test_seeds_and_passes_differ_in_order(
    data_dir: pathlib.Path, manifest: Manifest, buckets: list[Bucket], steps: int, batches: list[Batch]
) -> None:
    first, second = records_of(batches[:steps]), records_of(batches[steps : 2 * steps])
    other = records_of(read(data_dir, manifest, buckets, steps, seed=2))
    for order in (second, other):
        equal = sum(record == other_record for record, other_record in zip(first, order, strict=True))
        assert equal < len(first) / 4


@pytest.mark.parametrize("passes", [0, 1])
@pytest.mark.parametrize("more", [-1, 0, 1, 3])
def test_first_step_skips_as_many_batches(
    data_dir: pathlib.Path, manifest: Manifest, buckets: list[Bucket], steps: int, batches: list[Batch],
    passes: int, more: int,
) -> None:  # fmt: skip
    first_step = max(0, passes * steps + more)
    later = read(data_dir, manifest, buckets, 4, first_step=first_step)
    assert_same(later, batches[first_step : first_step + 4])


def test_batches_do_not_depend_on_the_global_seed(
    data_dir: pathlib.Path, manifest: Manifest, buckets: list[Bucket], batches: list[Batch]
) -> None:
    tf.random.set_seed(5)
    assert_same(read(data_dir, manifest, buckets, 5), batches[:5])


def read_redrawn(
    data_dir: pathlib.Path, manifest: Manifest, buckets: list[Bucket], number: int, seed: int = 1, first_step: int = 0
) -> list[Batch]:
    size = Vocabulary.load(data_dir).size
    instances = training_instances(manifest, "masked_item", size)
    dataset = training_batches(data_dir, instances, buckets, BATCH_SIZE, seed, first_step)
    return list(dataset.take(number).as_numpy_iterator())


def windows_of(records: list[tuple[tuple[int, ...], ...]]) -> list[tuple[int, ...]]:
    windows = []
    for shown, slots, masked in records:
        window = list(shown)
        for slot, item in zip(slots, masked, strict=True):
            assert window[slot] == MASK_ID
            window[slot] = item
        assert MASK_ID not in window
        windows.append(tuple(window))
    return windows


def test_redrawn_masks_differ_in_every_pass_over_the_same_windows(
    data_dir: pathlib.Path, manifest: Manifest, buckets: list[Bucket], steps: int, batches: list[Batch]
) -> None:
    redrawn = read_redrawn(data_dir, manifest, buckets, 2 * steps)
    first, second = records_of(redrawn[:steps]), records_of(redrawn[steps:])
    stored_windows = Counter(windows_of(records_of(batches[:steps])))
    assert Counter(windows_of(first)) == Counter(windows_of(second)) == stored_windows
    drawn = [Counter(records) for records in (first, second, records_of(batches[:steps]))]
    assert all(a != b for a, b in combinations(drawn, 2))
    shapes = {(batch["item_ids"].shape, batch["masked_positions"].shape) for batch in redrawn}
    assert len(shapes) == len(buckets)


def test_redrawn_masks_are_a_function_of_seed_and_step(
    data_dir: pathlib.Path, manifest: Manifest, buckets: list[Bucket], steps: int
) -> None:
    redrawn = read_redrawn(data_dir, manifest, buckets, steps + 4)
    assert_same(read_redrawn(data_dir, manifest, buckets, 6, first_step=steps - 2), redrawn[steps - 2 :])
    other = records_of(read_redrawn(data_dir, manifest, buckets, steps, seed=2))
    assert Counter(other) != Counter(records_of(redrawn[:steps]))
    assert Counter(windows_of(other)) == Counter(windows_of(records_of(redrawn[:steps])))


def test_a_turn_holds_every_window_once(data_dir: pathlib.Path, manifest: Manifest) -> None:
    """Without shuffling and with one bucket, each third of a pass holds a different instance of every window."""
    buckets, windows = choose_buckets(manifest.length_histogram, 1), manifest.records("train")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bert4rec_tf.inputs.training_batches._SHUFFLE_RECORDS", 1)
        rows = records_of(read(data_dir, manifest, buckets, steps_per_pass(buckets, BATCH_SIZE)))
    copies = len(rows) // windows
    assert copies == 3
    turns = [rows[turn * windows : (turn + 1) * windows] for turn in range(copies)]
    for turn in turns:
        assert Counter(windows_of(turn)) == Counter(windows_of(turns[0]))
        last_only = sum(slots == (len(items) - 1,) and len(items) > 4 for items, slots, _ in turn)
        assert 0.1 * windows < last_only < 0.5 * windows, (
            "instances that mask only the last item must be spread over the turns"
        )
    assert (Counter(turns[0]) & Counter(turns[1])).total() < windows / 2


def test_stored_replacements_are_shown(tmp_path: pathlib.Path) -> None:
    config = Config.from_dict(
        {
            "data": {"max_seq_length": 12, "min_user_events": 1, "num_shards": 1, "num_negatives": 5},
            "masking": {"masking_rates": 0.6, "random_item_rate": 0.3, "kept_item_rate": 0.3, "duplicate_factor": 2},
        }
    )
    manifest = build_records(LOG, {}, config, str(tmp_path / "data")).manifest
    buckets = choose_buckets(manifest.length_histogram, 2)
    rows = records_of(read(tmp_path / "data", manifest, buckets, steps_per_pass(buckets, BATCH_SIZE)))
    assert Counter(rows) == stored(tmp_path / "data")
    shown = [items[slot] for items, slots, _ in rows for slot in slots]
    assert 0.3 < shown.count(MASK_ID) / len(shown) < 0.5
