"""Evaluation batches: each user once, in batches that a long history does not widen."""

import pathlib
from dataclasses import replace

import numpy as np
import pytest

from bert4rec_tf.inputs.evaluation_batches import EVALUATION_BATCH, evaluation_batches
from tests.support.training_records import CONFIG, sequences_of, times_of
from tfrecords.manifest import Manifest
from tfrecords.ragged import Ragged
from tfrecords.schema import EVALUATION_USER, encode
from tfrecords.vocabulary import NUM_SPECIAL_IDS, PAD_ID
from tfrecords.writer import write_shard


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
            times = times_of(user.decode())
            assert batch["times"][row][: len(items) - cut].tolist() == times[:-cut]
            assert batch["target_time"][row] == times[-cut]
            seen.append(user.decode())
    assert sorted(seen) == sorted(user for user, items in sequences.items() if len(items) >= 3)


def test_evaluation_batches_of_the_first_users(data_dir: pathlib.Path, manifest: Manifest) -> None:
    dataset = evaluation_batches(data_dir, manifest, "test", batch_size=7, max_users=10)
    assert sum(len(batch["user_id"]) for batch in dataset) == 10


def test_records_without_times_have_unknown_times(data_dir: pathlib.Path, manifest: Manifest) -> None:
    for batch in evaluation_batches(data_dir, replace(manifest, schema_version=2), "test", batch_size=7):
        assert set(batch["times"].numpy()[batch["item_ids"] != PAD_ID]) == {-1}
        assert set(batch["target_time"].numpy()) == {-1}


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
            assert batch["times"][row][: len(history)].tolist() == times_of(user.decode())[:-1][-max_items:]
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
        "times": Ragged.from_lengths(np.zeros(lengths.sum() + users, np.int64), lengths + 1),
        "trained_items": lengths,
        "user_id": [f"u{user}" for user in range(users)],
    }
    shard = write_shard(tmp_path, "test/0.tfrecord", encode(EVALUATION_USER, columns))
    written = replace(manifest, splits={"test": (shard,)})
    batches = list(evaluation_batches(tmp_path, written, "test", 8, max_items=max_items).as_numpy_iterator())
    assert [len(batch["user_id"]) for batch in batches] == [5, 5, 5, 5, 1]  # 5 x 91 slots are at most 8 x 64
    assert batches[0]["item_ids"].shape == (5, max_items or 70)
    assert batches[0]["seen_item_ids"].shape == (5, 70)
    assert batches[-1]["item_ids"].shape == (1, max_items or 20_000)
    assert batches[-1]["seen_item_ids"].shape == (1, 1000)
    assert batches[-1]["history_length"].tolist() == [20_000]
