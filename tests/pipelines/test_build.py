"""A data directory from a log: what is counted, how items are numbered, and what is refused."""

import dataclasses
import math
import pathlib
from collections import Counter

import pytest
import tensorflow as tf

from pipelines.build import DROPPED, BuildResult, build_records
from pipelines.sources.log_source import LogSource
from pipelines.sources.synthetic import MarkovLog
from tests.support.parsed_record import parse
from tfrecords.config import DataConfig, MaskingConfig, RecordsConfig
from tfrecords.errors import InputError
from tfrecords.manifest import Manifest, verify
from tfrecords.schema import EVALUATION_USER, MASKED_WINDOW, Schema
from tfrecords.vocabulary import Vocabulary

DATA = DataConfig(max_seq_length=4, min_user_events=2, min_item_events=2, num_negatives=1, num_shards=2)
CONFIG = RecordsConfig(DATA, MaskingConfig(duplicate_factor=2))
HEADER = "user_id,item_id,timestamp,rating\n"
ROWS = [
    *(f"{user},{item},{time},5\n" for user in ("ann", "bob", "cid") for time, item in enumerate("dcba", start=10)),
    "ann,d,14,1\n",  # rated low
    "bob,a,13,5\n",  # a duplicate
    "cid,b\n",  # unreadable
    "dan,a,10,5\n",  # a user of one event
    "bob,rare,15,5\n",  # an item of one event
]


def build(tmp_path: pathlib.Path, config: RecordsConfig = CONFIG, name: str = "data", **options: bool) -> BuildResult:
    log = tmp_path / "log.csv"
    log.write_text(HEADER + "".join(ROWS))
    source = LogSource(
        [str(log)], user_column="user_id", item_column="item_id", timestamp_column="timestamp",
        rating_column="rating", timestamp_unit="s",
    )  # fmt: skip
    data = dataclasses.replace(config.data, min_rating=2.0, max_bad_fraction=0.5)
    config = dataclasses.replace(config, data=data)
    return build_records(source, {"a": "The first"}, config, str(tmp_path / name), **options)


def test_every_row_is_an_event_or_counted_as_dropped(tmp_path: pathlib.Path) -> None:
    result = build(tmp_path)
    counts = result.manifest.counts
    assert counts["rows_read"] == len(ROWS) == counts["events"] + sum(counts[name] for name in DROPPED)
    assert {name: counts[name] for name in DROPPED} == {
        "bad_rows_set_aside": 1,
        "low_rated_rows_dropped": 1,
        "duplicate_events_dropped": 1,
        "rare_events_dropped": 2,
    }
    assert (counts["users"], counts["items"], counts["longest_history"]) == (3, 4, 4)
    assert counts["training_events"] == 3 * 2
    assert counts["validated_users"] == counts["evaluated_users"] == 3
    assert result.instances == result.manifest.instances() == 3 * 3
    assert [row.text for row in result.bad_rows] == ["cid,b\n"]


def test_the_directory_holds_what_the_manifest_lists(tmp_path: pathlib.Path) -> None:
    result = build(tmp_path)
    assert result.written
    assert Manifest.load(tmp_path / "data") == result.manifest
    verify(tmp_path / "data", result.manifest)
    assert {split: result.manifest.records(split) for split in result.manifest.splits} == {
        "train": 3, "validation": 3, "test": 3,
    }  # fmt: skip
    assert (tmp_path / "data" / "bad_rows.jsonl").is_file()


def test_items_are_numbered_by_falling_training_count_and_ties_by_id(tmp_path: pathlib.Path) -> None:
    build(tmp_path)
    vocabulary = Vocabulary.load(tmp_path / "data")
    # Each user's events are d, c, b, a: d and c are trained on, b and a held out.
    assert vocabulary.item_ids == ("c", "d", "a", "b")
    assert vocabulary.counts.tolist() == [3, 3, 0, 0]
    assert vocabulary.titles == (None, None, "The first", None)


def test_the_same_log_again_writes_nothing_and_a_dry_run_neither(tmp_path: pathlib.Path) -> None:
    counted = build(tmp_path, name="dry", dry_run=True)
    assert not counted.written
    assert not (tmp_path / "dry").exists()
    first = build(tmp_path)
    assert counted.manifest.counts == {name: first.manifest.counts[name] for name in counted.manifest.counts}
    assert counted.instances == first.instances
    again = build(tmp_path)
    assert not again.written
    assert again.manifest == first.manifest
    replaced = build(tmp_path, overwrite=True)
    assert replaced.written
    assert replaced.manifest == first.manifest


def test_the_number_of_shards_changes_no_record(tmp_path: pathlib.Path) -> None:
    for number in (1, 3):
        config = dataclasses.replace(CONFIG, data=dataclasses.replace(DATA, num_shards=number))
        result = build(tmp_path, config, name=f"{number} shards")
        assert len(result.manifest.shards("test")) == number
        assert result.manifest.records("test") == 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"min_item_events": 9}, "must hold users with at least 2 events over items with at least 9"),
        ({"split": "temporal", "split_time": 1e6}, "--split_time must have two events of one user before it"),
        ({"train_since": 1e6}, "--train_since must leave a window to train on"),
        ({"train_since": 1.0}, "--train_since must leave old events out"),
        ({"validation_share": 1e-9}, "must leave a user to validate"),
    ],
)
def test_settings_that_leave_nothing_are_refused(tmp_path: pathlib.Path, changed: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(tmp_path, dataclasses.replace(CONFIG, data=dataclasses.replace(DATA, **changed)))
    assert not (tmp_path / "data").exists()


def test_leave_one_out_needs_a_user_of_three_events(tmp_path: pathlib.Path) -> None:
    log = MarkovLog(num_users=5, num_items=4, num_themes=2, min_events=2, max_events=2)
    with pytest.raises(InputError, match="needs a user with at least 3 events"):
        build_records(log, {}, CONFIG, str(tmp_path / "data"))


def test_records_hold_the_times_of_their_events(tmp_path: pathlib.Path) -> None:
    days = 86_400
    times = {
        "ann": [0.5, 3, 3.999, 4, 2 * days, 2 * days, 9 * days],
        "bob": [-days, -0.5, 5, 1e12, 1e12 + 1],
    }  # no times of the calendar
    log = tmp_path / "log.csv"
    rows = [f"{user},{number},{time}\n" for user, row in times.items() for number, time in enumerate(row)]
    log.write_text("user_id,item_id,timestamp\n" + "".join(rows))
    source = LogSource(
        [str(log)], user_column="user_id", item_column="item_id", timestamp_column="timestamp", timestamp_unit="none"
    )
    data = dataclasses.replace(DATA, min_item_events=1, sliding_window=0.5, tie_order="input")
    build_records(source, {}, RecordsConfig(data), str(tmp_path / "data"))
    vocabulary = Vocabulary.load(tmp_path / "data")

    def records(split: str, schema: Schema) -> list[dict]:
        files = sorted(map(str, (tmp_path / "data" / split).iterdir()))
        return [parse(schema, record) for record in tf.data.TFRecordDataset(files)]

    def expected(user: str, items: list[int], target: int | None = None) -> list[int]:
        numbers = [int(vocabulary.item_ids[item - 3]) for item in [*items, *([] if target is None else [target])]]
        return [math.floor(times[user][number]) for number in numbers]

    for split in ("validation", "test"):
        users = records(split, EVALUATION_USER)
        assert {user["user_id"].numpy().decode() for user in users} == times.keys()
        for user in users:
            items, target = user["item_ids"].numpy().tolist(), int(user["target_item_id"])
            assert user["times"].numpy().tolist() == expected(user["user_id"].numpy().decode(), items, target)
    windows = records("train", MASKED_WINDOW)
    assert [len(window["item_ids"]) for window in windows].count(4) == 2, "two windows of ann's"
    for window in windows:
        user = "ann" if len(window["item_ids"]) == 4 else "bob"
        assert window["times"].numpy().tolist() == expected(user, window["item_ids"].numpy().tolist())


def test_training_counts_are_those_of_the_log(tmp_path: pathlib.Path) -> None:
    log = MarkovLog(num_users=40, num_items=12, num_themes=3, min_events=3, max_events=9)
    build_records(log, {}, CONFIG, str(tmp_path / "data"))
    by_user: dict[str, list[str]] = {}
    for row in log.interactions().sort_by("timestamp").to_pylist():
        by_user.setdefault(row["user_id"], []).append(row["item_id"])
    expected = Counter(item for items in by_user.values() for item in items[:-2])
    vocabulary = Vocabulary.load(tmp_path / "data")
    found = dict(zip(vocabulary.item_ids, vocabulary.counts.tolist(), strict=True))
    assert {item: count for item, count in found.items() if count} == dict(expected)
    order = [(-count, item) for item, count in found.items()]
    assert order == sorted(order)
