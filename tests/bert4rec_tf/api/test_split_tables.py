"""The split as tables, against splitting the log by hand."""

import pathlib
from typing import Any

import pyarrow.parquet as pq
import pytest

import bert4rec_tf
from tests.support.small_run import CONFIG, LOG
from tfrecords.errors import InputError

Event = tuple[str, str, int]


def histories(min_events: int = 1) -> dict[str, list[tuple[str, int]]]:
    found: dict[str, list[tuple[int, str]]] = {}
    for row in LOG.to_pylist():
        found.setdefault(row["user_id"], []).append((int(row["timestamp"]), row["item_id"]))
    return {
        user: [(item, time) for time, item in sorted(events)]
        for user, events in found.items()
        if len(events) >= min_events
    }


def events(path: pathlib.Path) -> list[Event]:
    return [(row["user_id"], row["item_id"], row["timestamp"]) for row in pq.read_table(path).to_pylist()]


def test_leave_one_out(data_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    rows = bert4rec_tf.write_split_tables(data_dir, tmp_path / "split")
    expected: dict[str, list[Event]] = {"train": [], "validation": [], "test": []}
    for user, history in histories().items():
        *trained, validation, test = history
        expected["train"] += [(user, *event) for event in trained]
        expected["validation"].append((user, *validation))
        expected["test"].append((user, *test))
    for table, found in expected.items():
        assert sorted(events(tmp_path / f"split/{table}.parquet")) == sorted(found)
        assert rows[table] == len(found)
    for user in histories():
        of_user = [event for event in events(tmp_path / "split/train.parquet") if event[0] == user]
        assert [event[2] for event in of_user] == sorted(event[2] for event in of_user), "in order"
    negatives = pq.read_table(tmp_path / "split/negatives.parquet").to_pylist()
    assert len(negatives) == 2 * len(histories()) == rows["negatives"]
    for row in negatives:
        met = {item for item, _ in histories()[row["user_id"]]}
        assert len(row["item_ids"]) <= CONFIG["data"]["num_negatives"]
        assert not met & set(row["item_ids"])


def test_a_temporal_split(tmp_path: pathlib.Path) -> None:
    times = sorted(time for history in histories().values() for _, time in history)
    middle = times[len(times) // 2]
    data: dict[str, Any] = CONFIG["data"] | {"split": "temporal", "split_time": middle}
    bert4rec_tf.build_records(LOG, tmp_path / "data", {"data": data}, timestamp_unit="s")
    bert4rec_tf.write_split_tables(tmp_path / "data", tmp_path / "split")
    expected: dict[str, list[Event]] = {"train": [], "validation": [], "test": []}
    for user, history in histories().items():
        early = [event for event in history if event[1] < middle]
        if len(early) >= 2:
            expected["validation"].append((user, *early[-1]))
            early = early[:-1]
        if len(history) > len([event for event in history if event[1] < middle]) and len(history) >= 2:
            expected["test"].append((user, *history[-1]))
        named = any(user == event[0] for event in expected["validation"] + expected["test"])
        expected["train"] += [(user, *event) for event in early if named]
    for table, found in expected.items():
        assert sorted(events(tmp_path / f"split/{table}.parquet")) == sorted(found), table


def test_a_full_directory_is_left_alone(data_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"--split_dir must be new or empty"):
        bert4rec_tf.write_split_tables(data_dir, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
