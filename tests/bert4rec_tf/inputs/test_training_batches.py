"""Training batches: the shapes with the least padding, each instance or window once a pass, the same for the same seed.

Evaluation batches too: each user once.
"""

import pathlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from bert4rec_tf.config import Config
from bert4rec_tf.inputs.evaluation_batches import EVALUATION_BATCH, evaluation_batches
from bert4rec_tf.inputs.length_buckets import Bucket, choose_buckets, steps_per_pass
from bert4rec_tf.inputs.objectives import Objective, training_instances
from bert4rec_tf.inputs.training_batches import training_batches
from pipelines.build import build_records
from pipelines.sources.synthetic import MarkovLog
from tests.support.masked_instances import instances_of
from tfrecords.manifest import LengthCount, Manifest
from tfrecords.ragged import Ragged
from tfrecords.schema import EVALUATION_USER, MASKED_WINDOW, encode, parse
from tfrecords.vocabulary import MASK_ID, NUM_SPECIAL_IDS, PAD_ID, Vocabulary
from tfrecords.writer import write_shard

LOG = MarkovLog(num_users=60, num_items=40, num_themes=4, min_events=1, max_events=30)
CONFIG = Config.from_dict(
    {
        "data": {"max_seq_length": 12, "min_user_events": 1, "num_shards": 3, "num_negatives": 5},
        "masking": {"masking_rates": [0.2, 0.5], "duplicate_factor": 2},
    }
)
BATCH_SIZE = 16
Batch = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("reader") / "data"
    build_records(LOG, {}, CONFIG, str(directory))
    return directory


@pytest.fixture(scope="module")
def manifest(data_dir: pathlib.Path) -> Manifest:
    return Manifest.load(data_dir)


@pytest.fixture(scope="module")
def buckets(manifest: Manifest) -> list[Bucket]:
    return choose_buckets(manifest.length_histogram, 3)


@pytest.fixture(scope="module")
def steps(buckets: list[Bucket]) -> int:
    return steps_per_pass(buckets, BATCH_SIZE)


def read(
    data_dir: pathlib.Path, manifest: Manifest, buckets: list[Bucket], number: int, seed: int = 1, first_step: int = 0
) -> list[Batch]:
    dataset = training_batches(data_dir, manifest, buckets, BATCH_SIZE, seed, first_step)
    return list(dataset.take(number).as_numpy_iterator())


@pytest.fixture(scope="module")
def batches(data_dir: pathlib.Path, manifest: Manifest, buckets: list[Bucket], steps: int) -> list[Batch]:
    """Two passes and the start of a third."""
    return read(data_dir, manifest, buckets, 2 * steps + 5)


def histogram_of(manifest: Manifest, objective: Objective) -> Sequence[LengthCount]:
    return training_instances(manifest, objective).length_histogram()


def assert_same(received: list[Batch], expected: list[Batch]) -> None:
    assert len(received) == len(expected)
    for batch, expected_batch in zip(received, expected, strict=True):
        assert batch.keys() == expected_batch.keys()
        for name, values in batch.items():
            np.testing.assert_array_equal(values, expected_batch[name])


def records_of(batches: list[Batch]) -> list[tuple[tuple[int, ...], ...]]:
    """Of each row that holds items: what it shows, the slots to predict and their items.

    A batch without masked positions predicts all slots.
    """
    found = []
    for batch in batches:
        every_slot = np.broadcast_to(np.arange(batch["item_ids"].shape[1]), batch["item_ids"].shape)
        names = ("item_ids", "valid_mask", "masked_positions", "masked_item_ids", "masked_weights")
        whole = {"masked_positions": every_slot} | batch
        for items, valid, slots, masked, weights in zip(*(whole[name] for name in names), strict=True):
            if valid.any():
                used = weights > 0
                found.append((tuple(items[valid].tolist()), tuple(slots[used].tolist()), tuple(masked[used].tolist())))
    return found


def stored(data_dir: pathlib.Path) -> Counter[tuple[tuple[int, ...], ...]]:
    found: Counter[tuple[tuple[int, ...], ...]] = Counter()
    for record in tf.data.TFRecordDataset([str(path) for path in sorted(data_dir.glob("train/*"))]):
        window = {name: values.numpy().tolist() for name, values in parse(MASKED_WINDOW, record).items()}
        names = ("item_ids", "masked_counts", "masked_positions", "shown_item_ids")
        found.update(tuple(map(tuple, row)) for row in instances_of(*(window[name] for name in names)))
    return found


def sequences_of(data_dir: pathlib.Path) -> dict[str, list[int]]:
    """Each user's integer item ids, straight from the log."""
    table, vocabulary = LOG.interactions(), Vocabulary.load(data_dir)
    sequences: dict[str, list[int]] = {}
    ids = vocabulary.ids_of(table["item_id"].to_pylist())
    for user, item in zip(table["user_id"].to_pylist(), ids, strict=True):
        sequences.setdefault(user, []).append(item)
    return sequences


HISTOGRAMS = st.dictionaries(
    st.integers(1, 30), st.tuples(st.integers(1, 20), st.integers(1, 9)), min_size=1, max_size=6
).map(lambda rows: [LengthCount(length, *rows[length]) for length in sorted(rows)])


@given(HISTOGRAMS, st.integers(1, 7))
def test_buckets_leave_the_least_padding(histogram: list[LengthCount], number: int) -> None:
    def padded(ends: list[int]) -> int:
        return sum(row.instances * min(end for end in ends if end >= row.length) for row in histogram)

    *shorter, longest = (row.length for row in histogram)
    choices = (list(ends) for count in range(number) for ends in combinations(shorter, count))
    buckets = choose_buckets(histogram, number)
    lengths = [bucket.length for bucket in buckets]
    assert padded(lengths) == min(padded([*ends, longest]) for ends in choices)
    assert len(buckets) <= number
    assert lengths == sorted(set(lengths))
    for low, bucket in zip([0, *lengths], buckets, strict=False):
        rows = [row for row in histogram if low < row.length <= bucket.length]
        assert bucket.instances == sum(row.instances for row in rows)
        assert bucket.predictions == max(row.max_predictions for row in rows)


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
    made = training_batches(data_dir, manifest, [bucket], BATCH_SIZE, 1, 0, vocabulary_size, objective)
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


@pytest.mark.parametrize(("split", "cut"), [("validation", 2), ("test", 1)])
def test_evaluation_batches_hold_each_user_once(
    data_dir: pathlib.Path, manifest: Manifest, split: str, cut: int
) -> None:
    dataset = evaluation_batches(data_dir, manifest, split, batch_size=7)
    assert dataset.element_spec == EVALUATION_BATCH
    sequences, seen = sequences_of(data_dir), []
    for batch in dataset.as_numpy_iterator():
        assert len(batch["user_id"]) <= 7
        for row, user in enumerate(batch["user_id"]):
            items = sequences[user.decode()]
            history = batch["item_ids"][row]
            assert history[: len(items) - cut].tolist() == items[:-cut]
            assert not history[len(items) - cut :].any()
            assert batch["target_item_id"][row] == items[-cut]
            negatives = batch["negative_item_ids"][row].tolist()
            assert len(set(negatives) - set(items)) == len(negatives) == CONFIG.data.num_negatives
            seen.append(user.decode())
    assert sorted(seen) == sorted(user for user, items in sequences.items() if len(items) >= 3)


def test_evaluation_batches_of_the_first_users(data_dir: pathlib.Path, manifest: Manifest) -> None:
    dataset = evaluation_batches(data_dir, manifest, "test", batch_size=7, max_users=10)
    assert sum(len(batch["user_id"]) for batch in dataset) == 10


@pytest.mark.parametrize("max_items", [1, 4, 1000])
def test_evaluation_batches_keep_only_the_newest_items(
    data_dir: pathlib.Path, manifest: Manifest, max_items: int
) -> None:
    sequences = sequences_of(data_dir)
    for batch in evaluation_batches(data_dir, manifest, "test", batch_size=7, max_items=max_items).as_numpy_iterator():
        assert batch["item_ids"].shape[1] <= max_items
        for row, user in enumerate(batch["user_id"]):
            history = sequences[user.decode()][:-1]
            assert batch["item_ids"][row][: len(history)].tolist() == history[-max_items:]
            assert not batch["item_ids"][row][len(history) :].any()
            seen = batch["seen_item_ids"][row]
            assert sorted(seen[seen != PAD_ID]) == sorted(set(history))
            assert batch["history_length"][row] == len(history)


@pytest.mark.parametrize("max_items", [None, 5])
def test_a_long_history_adds_no_padding_to_other_users(
    manifest: Manifest, tmp_path: pathlib.Path, max_items: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 users have histories of 70 items; one user has 20,000 events of 1,000 different items."""
    monkeypatch.setattr("bert4rec_tf.inputs.evaluation_batches._MAX_FULL_BATCH_LENGTH", 64)
    histories = [np.arange(70) + NUM_SPECIAL_IDS] * 20 + [np.arange(20_000) % 1000 + NUM_SPECIAL_IDS]
    users, lengths = len(histories), np.array(list(map(len, histories)))
    columns = {
        "item_ids": Ragged.from_lengths(np.concatenate(histories), lengths),
        "negative_item_ids": Ragged.from_lengths(np.zeros(0, np.int64), np.zeros(users, np.int64)),
        "target_item_id": np.full(users, NUM_SPECIAL_IDS),
        "trained_items": lengths,
        "user_id": [f"u{user}" for user in range(users)],
    }
    shard = write_shard(tmp_path, "test/0.tfrecord", encode(EVALUATION_USER, columns))
    written = replace(manifest, splits={"test": (shard,)})
    batches = list(evaluation_batches(tmp_path, written, "test", 8, max_items=max_items).as_numpy_iterator())
    assert [len(batch["user_id"]) for batch in batches] == [4, 4, 4, 4, 4, 1]  # 4 x 128 slots are 8 x 64
    assert batches[0]["item_ids"].shape == (4, max_items or 70)
    assert batches[0]["seen_item_ids"].shape == (4, 70)
    assert batches[-1]["item_ids"].shape == (1, max_items or 20_000)
    assert batches[-1]["seen_item_ids"].shape == (1, 1000)
    assert batches[-1]["history_length"].tolist() == [20_000]


def test_batches_do_not_depend_on_the_global_seed(
    data_dir: pathlib.Path, manifest: Manifest, buckets: list[Bucket], batches: list[Batch]
) -> None:
    tf.random.set_seed(5)
    assert_same(read(data_dir, manifest, buckets, 5), batches[:5])


def read_redrawn(
    data_dir: pathlib.Path, manifest: Manifest, buckets: list[Bucket], number: int, seed: int = 1, first_step: int = 0
) -> list[Batch]:
    size = Vocabulary.load(data_dir).size
    dataset = training_batches(data_dir, manifest, buckets, BATCH_SIZE, seed, first_step, vocabulary_size=size)
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


@pytest.fixture(scope="module")
def next_item_buckets(manifest: Manifest) -> list[Bucket]:
    return choose_buckets(histogram_of(manifest, "next_item"), 3)


def read_next_items(
    data_dir: pathlib.Path, manifest: Manifest, buckets: list[Bucket], number: int, seed: int = 1, first_step: int = 0
) -> list[Batch]:
    dataset = training_batches(data_dir, manifest, buckets, BATCH_SIZE, seed, first_step, objective="next_item")
    return list(dataset.take(number).as_numpy_iterator())


def stored_windows(data_dir: pathlib.Path) -> list[tuple[int, ...]]:
    records = tf.data.TFRecordDataset([str(path) for path in sorted(data_dir.glob("train/*"))])
    return [tuple(parse(MASKED_WINDOW, record)["item_ids"].numpy().tolist()) for record in records]


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
    resampled = training_batches(
        data_dir, manifest, next_item_buckets, BATCH_SIZE, 1, vocabulary_size=60, objective="next_item"
    )
    assert_same(list(resampled.take(3).as_numpy_iterator()), batches[:3])
    other = records_of(read_next_items(data_dir, manifest, next_item_buckets, number, seed=2))
    first = records_of(batches[:number])
    assert Counter(other) == Counter(first)
    assert other != first


def test_windows_of_one_item_have_no_next_item_to_predict(tmp_path: pathlib.Path) -> None:
    config = Config.from_dict({"data": {"min_user_events": 1, "max_seq_length": 5, "num_negatives": 2}})
    log = MarkovLog(num_users=20, num_items=10, num_themes=2, min_events=3, max_events=3)
    manifest = build_records(log, {}, config, str(tmp_path / "data")).manifest
    (bucket,) = choose_buckets(histogram_of(manifest, "next_item"), 3)
    assert bucket == Bucket(length=1, predictions=1, instances=20)
    for batch in read_next_items(tmp_path / "data", manifest, [bucket], steps_per_pass([bucket], BATCH_SIZE)):
        assert not batch["masked_weights"].any()


def read_last_items(
    data_dir: pathlib.Path, manifest: Manifest, number: int, seed: int = 1, first_step: int = 0
) -> list[Batch]:
    buckets = choose_buckets(histogram_of(manifest, "last_item"), 3)
    dataset = training_batches(data_dir, manifest, buckets, BATCH_SIZE, seed, first_step, objective="last_item")
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
