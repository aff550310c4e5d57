"""Histories of users as they are in the log."""

import pathlib

import numpy as np
import pytest

from bert4rec_tf.inputs.user_histories import iterate_raw_histories, read_histories
from tests.support.training_records import sequences_of, times_of
from tfrecords.errors import InputError
from tfrecords.manifest import Manifest
from tfrecords.vocabulary import NUM_SPECIAL_IDS, Vocabulary


@pytest.mark.parametrize("max_items", [None, 3])
def test_read_histories_of_some_users(data_dir: pathlib.Path, manifest: Manifest, max_items: int | None) -> None:
    sequences = {user: items for user, items in sequences_of(data_dir).items() if len(items) >= 3}
    some = sorted(sequences)[::4]
    found = read_histories([*some, "nobody"], data_dir, manifest, "test", max_items)
    assert sorted(found) == some
    for user, history in found.items():
        expected = sequences[user][:-1]
        newest = slice(None if max_items is None else -max_items, None)
        assert history.item_ids.tolist() == expected[newest]
        assert history.item_ids.dtype == np.int32
        assert history.times.tolist() == times_of(user)[:-1][newest]


def test_raw_histories_of_a_split(data_dir: pathlib.Path) -> None:
    item_ids = Vocabulary.load(data_dir).item_ids
    expected = []
    for items in sequences_of(data_dir).values():
        if len(items) >= 3:
            raw = [item_ids[item - NUM_SPECIAL_IDS] for item in items]
            expected.append((raw[:-2], raw[-2]))
    found = []
    for rows, targets, times in iterate_raw_histories(str(data_dir), "validation", batch_users=7, max_users=1000):
        assert times.shape == (len(rows), len(rows[0]))
        assert len({len(row) for row in rows}) == 1, "rows are padded to one length"
        found += [([item for item in row if item], target) for row, target in zip(rows, targets, strict=True)]
    assert sorted(found) == sorted(expected)


def test_raw_histories_need_whole_records(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match=r"manifest\.json"):
        next(iterate_raw_histories(str(tmp_path), "test", batch_users=7, max_users=1))
