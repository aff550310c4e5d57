"""Training instances of the objectives next item, random prefix and last item, in batches."""

import pathlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from bert4rec_tf.config import Config
from bert4rec_tf.inputs.length_buckets import Bucket, choose_buckets, steps_per_pass
from bert4rec_tf.inputs.objectives import training_instances
from bert4rec_tf.inputs.training_batches import training_batches
from pipelines.build import build_records
from pipelines.sources.synthetic import MarkovLog
from tests.support.training_records import (
    BATCH_SIZE,
    CONFIG,
    Batch,
    assert_same,
    histogram_of,
    records_of,
    sequences_of,
    stored_windows,
    times_of,
)
from tfrecords.manifest import LengthCount, Manifest
from tfrecords.vocabulary import MASK_ID


@pytest.fixture(scope="module")
def next_item_buckets(manifest: Manifest) -> list[Bucket]:
    return choose_buckets(histogram_of(manifest, "next_item"), 3)


def read_next_items(
    data_dir: pathlib.Path, manifest: Manifest, buckets: list[Bucket], number: int, seed: int = 1, first_step: int = 0
) -> list[Batch]:
    instances = training_instances(manifest, "next_item")
    dataset = training_batches(data_dir, instances, buckets, BATCH_SIZE, seed, first_step)
    return list(dataset.take(number).as_numpy_iterator())


def test_a_pass_predicts_the_next_items_of_every_window_once(
    data_dir: pathlib.Path, manifest: Manifest, next_item_buckets: list[Bucket]
) -> None:
    windows, number = stored_windows(data_dir), steps_per_pass(next_item_buckets, BATCH_SIZE)
    one_item = sum(len(window) == 1 for window in windows)
    assert one_item > 0, "otherwise windows without a next item are not tested"
    batches = read_next_items(data_dir, manifest, next_item_buckets, 2 * number)
    expected = Counter((items[:-1], tuple(range(len(items) - 1)), items[1:]) for items in windows if len(items) > 1)
    orders = [records_of(batches[start : start + number]) for start in (0, number)]
    assert Counter(orders[0]) == Counter(orders[1]) == expected
    assert sum(record == other for record, other in zip(*orders, strict=True)) < len(orders[0]) / 4
    assert sum(bucket.instances for bucket in next_item_buckets) == len(windows)
    empty = sum((~batch["valid_mask"].any(axis=1)).sum() for batch in batches[:number])
    assert empty == one_item + number * BATCH_SIZE - len(windows)
    assert not any("masked_positions" in batch for batch in batches), "every slot is predicted"
    shapes = {(bucket.length, bucket.length) for bucket in next_item_buckets}
    assert {(batch["item_ids"].shape[1], batch["masked_item_ids"].shape[1]) for batch in batches} == shapes
    assert max(shapes) == (CONFIG.data.max_seq_length - 1,) * 2
    for batch in batches:
        np.testing.assert_array_equal(batch["masked_weights"] > 0, batch["valid_mask"])


def test_next_items_are_a_function_of_seed_and_step_with_either_masking(
    data_dir: pathlib.Path, manifest: Manifest, next_item_buckets: list[Bucket]
) -> None:
    number = steps_per_pass(next_item_buckets, BATCH_SIZE)
    batches = read_next_items(data_dir, manifest, next_item_buckets, number + 4)
    later = read_next_items(data_dir, manifest, next_item_buckets, 6, first_step=number - 2)
    assert_same(later, batches[number - 2 :])
    instances = training_instances(manifest, "next_item", vocabulary_size=60)
    resampled = training_batches(data_dir, instances, next_item_buckets, BATCH_SIZE, 1)
    assert_same(list(resampled.take(3).as_numpy_iterator()), batches[:3])
    other = records_of(read_next_items(data_dir, manifest, next_item_buckets, number, seed=2))
    first = records_of(batches[:number])
    assert Counter(other) == Counter(first)
    assert other != first


@pytest.mark.parametrize("objective", ["masked_item", "redrawn", "next_item", "random_prefix", "last_item"])
def test_instances_have_the_times_of_their_events(data_dir: pathlib.Path, manifest: Manifest, objective: str) -> None:
    of_batches = "masked_item" if objective == "redrawn" else objective
    buckets = choose_buckets(histogram_of(manifest, of_batches), 2)
    size = 43 if objective == "redrawn" else None

    def batches(with_times: bool) -> list[Batch]:
        instances = training_instances(manifest, of_batches, size, with_times=with_times)
        made = training_batches(data_dir, instances, buckets, BATCH_SIZE, 1)
        return list(made.take(steps_per_pass(buckets, BATCH_SIZE)).as_numpy_iterator())

    sequences = sequences_of(data_dir)
    times_of_users = {user: times_of(user) for user in sequences}
    found, plain = batches(with_times=True), batches(with_times=False)
    checked = 0
    for batch in found:
        assert batch["times"].dtype == np.int32
        assert batch["times"].shape == (BATCH_SIZE, batch["item_ids"].shape[1] + 1)
        for items, valid, times, slots, masked, weights in zip(
            batch["item_ids"],
            batch["valid_mask"],
            batch["times"],
            batch.get("masked_positions", batch["item_ids"]),
            batch["masked_item_ids"],
            batch["masked_weights"],
            strict=True,
        ):
            window = items[valid].tolist()
            if "masked_positions" in batch:
                for slot, item in zip(slots[weights > 0], masked[weights > 0], strict=True):
                    window[slot] = item
            elif len(window) and weights[len(window) - 1]:
                window.append(masked[len(window) - 1])
            if len(window) < 2:
                continue
            owners = [
                [time - times_of_users[user][start] for time in times_of_users[user][start : start + len(window)]]
                for user, row in sequences.items()
                for start in range(len(row) - len(window) + 1)
                if row[start : start + len(window)] == window
            ]
            assert times[: len(window)].tolist() in owners
            checked += 1
    assert checked > 50
    for batch in found:
        batch.pop("times")
    assert_same(found, plain)


@pytest.mark.parametrize("objective", ["masked_item", "redrawn", "random_prefix", "last_item"])
def test_the_shares_of_processes_are_the_rows_of_the_joint_batches(
    data_dir: pathlib.Path, manifest: Manifest, objective: str
) -> None:
    of_batches = "masked_item" if objective == "redrawn" else objective
    buckets = choose_buckets(histogram_of(manifest, of_batches), 3)
    size = 43 if objective == "redrawn" else None
    number = steps_per_pass(buckets, BATCH_SIZE)

    def read(process: int, processes: int) -> list[Batch]:
        instances = training_instances(manifest, of_batches, size, causal_rows=0.5, with_times=True)
        made = training_batches(data_dir, instances, buckets, BATCH_SIZE, 1, 2, process, processes)
        return list(made.take(number).as_numpy_iterator())

    shares = [read(process, 2) for process in range(2)]
    joined = [
        {name: np.concatenate([first[name], second[name]]) for name in first}
        for first, second in zip(*shares, strict=True)
    ]
    filled_up = any(not batch["valid_mask"][-1].any() for batch in joined)
    assert filled_up == (objective != "last_item"), (
        "batches that are filled up are tested, too; cuts always fill theirs"
    )
    assert_same(joined, read(0, 1))


def test_windows_of_one_item_have_no_next_item_to_predict(tmp_path: pathlib.Path) -> None:
    config = Config.from_dict({"data": {"min_user_events": 1, "max_seq_length": 5, "num_negatives": 2}})
    log = MarkovLog(num_users=20, num_items=10, num_themes=2, min_events=3, max_events=3)
    manifest = build_records(log, {}, config, str(tmp_path / "data")).manifest
    (bucket,) = choose_buckets(histogram_of(manifest, "next_item"), 3)
    assert bucket == Bucket(length=1, predictions=1, instances=20)
    for batch in read_next_items(tmp_path / "data", manifest, [bucket], steps_per_pass([bucket], BATCH_SIZE)):
        assert not batch["masked_weights"].any()


def read_prefixes(
    data_dir: pathlib.Path,
    manifest: Manifest,
    number: int,
    causal_rows: float = 0.5,
    seed: int = 1,
    first_step: int = 0,
) -> list[Batch]:
    buckets = choose_buckets(histogram_of(manifest, "random_prefix"), 3)
    instances = training_instances(manifest, "random_prefix", causal_rows=causal_rows)
    dataset = training_batches(data_dir, instances, buckets, BATCH_SIZE, seed, first_step)
    return list(dataset.take(number).as_numpy_iterator())


def test_slots_from_the_last_of_the_prefix_predict_the_next_item(
    data_dir: pathlib.Path, manifest: Manifest, next_item_buckets: list[Bucket]
) -> None:
    number = steps_per_pass(next_item_buckets, BATCH_SIZE)
    next_items = read_next_items(data_dir, manifest, next_item_buckets, number)
    found: Counter[tuple[int, int]] = Counter()
    for batch, whole in zip(read_prefixes(data_dir, manifest, number), next_items, strict=True):
        np.testing.assert_array_equal(batch["item_ids"], whole["item_ids"])
        np.testing.assert_array_equal(batch["valid_mask"], whole["valid_mask"])
        assert batch["prefix_lengths"].dtype == np.int32
        for row, (prefix,) in enumerate(batch["prefix_lengths"]):
            slots = int(batch["valid_mask"][row].sum())
            assert 0 <= prefix <= slots
            expected = [
                whole["masked_item_ids"][row, slot] if slot < slots and slot >= prefix - 1 else 0
                for slot in range(batch["item_ids"].shape[1])
            ]
            assert batch["masked_item_ids"][row].tolist() == expected
            assert batch["masked_weights"][row].tolist() == [float(item > 0) for item in expected]
            if slots:
                found[slots, prefix] += 1
    rows = sum(found.values())
    empty = sum(times for (_, prefix), times in found.items() if prefix == 0)
    assert abs(empty - rows / 2) < 4 * (rows / 4) ** 0.5
    longest = max(slots for slots, _ in found)
    lengths = np.array([found[longest, prefix] for prefix in range(1, longest + 1)])
    assert (np.abs(lengths - lengths.mean()) < 4 * np.sqrt(lengths.mean())).all(), "each length is equally likely"
    assert lengths.min() > 0


@pytest.mark.parametrize("causal_rows", [0.0, 1.0])
def test_all_or_no_rows_may_be_left_to_right(data_dir: pathlib.Path, manifest: Manifest, causal_rows: float) -> None:
    for batch in read_prefixes(data_dir, manifest, 20, causal_rows):
        filled = batch["valid_mask"].any(axis=1)
        assert ((batch["prefix_lengths"][filled, 0] == 0) == (causal_rows == 1)).all()


def test_prefixes_are_new_in_every_pass_and_a_function_of_seed_and_step(
    data_dir: pathlib.Path, manifest: Manifest, next_item_buckets: list[Bucket]
) -> None:
    number = steps_per_pass(next_item_buckets, BATCH_SIZE)
    batches = read_prefixes(data_dir, manifest, 2 * number, causal_rows=0.2)
    assert_same(
        read_prefixes(data_dir, manifest, 6, causal_rows=0.2, first_step=number - 3), batches[number - 3 : number + 3]
    )

    def prefixes(read: list[Batch]) -> Counter:
        return Counter(
            (tuple(items), int(prefix))
            for batch in read
            for items, (prefix,) in zip(batch["item_ids"].tolist(), batch["prefix_lengths"], strict=True)
        )

    first, second = prefixes(batches[:number]), prefixes(batches[number:])
    assert first != second
    assert prefixes(read_prefixes(data_dir, manifest, number, causal_rows=0.2, seed=2)) not in (first, second)


def read_last_items(
    data_dir: pathlib.Path, manifest: Manifest, number: int, seed: int = 1, first_step: int = 0
) -> list[Batch]:
    buckets = choose_buckets(histogram_of(manifest, "last_item"), 3)
    instances = training_instances(manifest, "last_item")
    dataset = training_batches(data_dir, instances, buckets, BATCH_SIZE, seed, first_step)
    return list(dataset.take(number).as_numpy_iterator())


def test_last_items_come_from_windows_cut_at_any_length(data_dir: pathlib.Path, manifest: Manifest) -> None:
    windows = {window for window in stored_windows(data_dir) if len(window) > 1}
    ones = {window for window in stored_windows(data_dir) if len(window) == 1}
    expected = {window[:cut] for window in windows for cut in range(2, len(window) + 1)} | ones
    rows = records_of(read_last_items(data_dir, manifest, 200))
    assert all(slots == (len(shown) - 1,) and shown[-1] == MASK_ID for shown, slots, _ in rows)
    found = Counter((*shown[:-1], *masked) for shown, _, masked in rows)
    assert found.keys() <= expected
    assert len(found) > 0.9 * len(expected)
    # The mean length is the expected one, within four standard deviations.
    expected_lengths = np.repeat(
        *np.array([(row.length, row.instances) for row in histogram_of(manifest, "last_item")]).T
    )
    lengths = np.array([len(shown) for shown, _, _ in rows])
    assert abs(lengths.mean() - expected_lengths.mean()) < 4 * expected_lengths.std() / len(rows) ** 0.5


def test_each_masked_instance_becomes_one_cut_instance(manifest: Manifest) -> None:
    histogram = [LengthCount(1, 4, 1), LengthCount(3, 6, 2), LengthCount(4, 7, 3)]
    lengths = histogram_of(replace(manifest, length_histogram=tuple(histogram)), "last_item")
    assert lengths == [LengthCount(1, 4, 1), LengthCount(2, 3 + 2, 1), LengthCount(3, 3 + 2, 1), LengthCount(4, 3, 1)]


def test_last_items_are_a_function_of_seed_and_step(data_dir: pathlib.Path, manifest: Manifest) -> None:
    number = steps_per_pass(choose_buckets(histogram_of(manifest, "last_item"), 3), BATCH_SIZE)
    batches = read_last_items(data_dir, manifest, 2 * number + 3)
    assert_same(read_last_items(data_dir, manifest, 8, first_step=2 * number - 5), batches[2 * number - 5 :])
    passes = [records_of(batches[start : start + number]) for start in (0, number)]
    assert Counter(passes[0]) != Counter(passes[1]), "cuts must be new in every pass"
    assert not any((~batch["valid_mask"].any(axis=1)).any() for batch in batches), "every batch is full"
    other = records_of(read_last_items(data_dir, manifest, number, seed=2))
    assert Counter(other) != Counter(passes[0])
