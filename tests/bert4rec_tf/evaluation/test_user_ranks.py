"""Ranks of users: selected, as a table of raw ids, and as a file."""

import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bert4rec_tf.evaluation.metrics import NO_RANK
from bert4rec_tf.evaluation.user_ranks import read_users, users_file, users_table, write_users
from tests.support.user_ranks_by_hand import ranks_of_users
from tfrecords.errors import InputError
from tfrecords.vocabulary import PAD_ID, Vocabulary

VOCABULARY = Vocabulary(("a", "b", "c"), np.array([9, 4, 1]), (None,) * 3)
RANKS = ranks_of_users(
    full=[1, 3, 2],
    sampled=[1, NO_RANK, 4],
    history_lengths=[5, 6, 7],
    targets=[3, 5, 4],
    recommended=[[3, 4], [4, PAD_ID], [PAD_ID, PAD_ID]],
    repeats=[False, True, False],
)


def test_select_keeps_the_columns_of_the_chosen_users() -> None:
    chosen = RANKS.select(np.array([True, False, True]))
    assert chosen.user_ids == ["u0", "u2"]
    assert chosen.full.tolist() == [1, 2]
    assert chosen.targets.tolist() == [3, 4]
    assert chosen.recommended.tolist() == [[3, 4], [PAD_ID, PAD_ID]]
    assert RANKS.select(np.zeros(3, bool)).user_ids == []


def test_the_table_has_raw_ids_and_no_padding() -> None:
    assert users_table(RANKS, VOCABULARY).to_pydict() == {
        "user_id": ["u0", "u1", "u2"],
        "full_rank": [1, 3, 2],
        "sampled_rank": [1, None, 4],
        "repeat": [False, True, False],
        "history_length": [5, 6, 7],
        "target_item_id": ["a", "c", "b"],
        "target_popularity": [9, 1, 4],
        "recommended": [["a", "b"], ["b"], []],
    }


def test_a_file_is_read_back_sorted_by_user(tmp_path: pathlib.Path) -> None:
    path = users_file(tmp_path / "metrics.json")
    assert path.name == "metrics.users.parquet"
    write_users(path, RANKS.select(np.array([False, True, True])), VOCABULARY)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    expected = users_table(RANKS, VOCABULARY).slice(1)
    assert read_users(path).equals(expected)
    pq.write_table(expected.take([1, 0]), path)
    assert read_users(path).equals(expected)


def test_files_of_something_else_are_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "metrics.users.parquet"
    with pytest.raises(InputError, match="needs its users beside it"):
        read_users(path)
    path.write_bytes(b"no parquet")
    with pytest.raises(InputError, match=r"must be written by evaluate\.py"):
        read_users(path)
    pq.write_table(pa.table({"user_id": ["u0"]}), path)
    with pytest.raises(InputError, match=r"must be written by evaluate\.py"):
        read_users(path)
