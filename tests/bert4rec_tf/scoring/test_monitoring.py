"""The numbers of a night, against counting by hand."""

import json
import math
import pathlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bert4rec_tf.scoring.monitoring import check_limits, monitor, read_limits
from bert4rec_tf.scoring.part_scorer import PartCounts
from tfrecords.errors import InputError

YESTERDAY = {"ann": (["a", "b"], [3.0, 2.0]), "bo": (["a", "c"], [1.0, 0.0]), "gone": (["a", "b"], [9.0, 8.0])}
TODAY = {"ann": (["b", "d"], [3.0, 2.5]), "bo": (["c", "a"], [1.0, 0.5]), "cy": (["a"], [0.0]), "dee": ([], [])}
COUNTS = PartCounts(users=4, users_without_known_items=1, events=10, unknown_events=2)


def write(directory: pathlib.Path, rows: dict[str, Any], as_json: bool = False) -> pathlib.Path:
    directory.mkdir()
    names = list(rows)
    for part, users in enumerate((names[:2], names[2:])):
        table = {
            "user_id": users,
            "item_ids": [rows[user][0] for user in users],
            "scores": [rows[user][1] for user in users],
        }
        if as_json:
            lines = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
            (directory / f"part-{part}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            continue
        types = [pa.string(), pa.list_(pa.string()), pa.list_(pa.float32())]
        columns = [pa.array(values, type_) for values, type_ in zip(table.values(), types, strict=True)]
        pq.write_table(pa.Table.from_arrays(columns, list(table)), directory / f"part-{part}.parquet")
    return directory


@pytest.mark.parametrize("as_json", [False, True])
def test_a_night_alone(tmp_path: pathlib.Path, as_json: bool) -> None:
    found = monitor(write(tmp_path / "today", TODAY, as_json), COUNTS, num_items=300, top_k=2, previous=None)
    assert found == {
        "users": 4,
        "unknown_event_share": 0.2,
        "users_without_known_items_share": 0.25,
        "full_lists_share": 0.5,
        "coverage": round(4 / 300, 6),
        "popularity_share": round(4 / 5, 6),  # a and b or c or d: three of 300 items
        "score_median": 1.0,
    }


def test_a_night_beside_an_earlier_one(tmp_path: pathlib.Path) -> None:
    today, before = write(tmp_path / "today", TODAY), write(tmp_path / "before", YESTERDAY)
    found = monitor(today, COUNTS, num_items=300, top_k=2, previous=before)
    assert found["overlap"] == 0.75  # ann has one of two, bo both
    assert found["new_users_share"] == 0.5
    assert found["lost_users_share"] == round(1 / 3, 6)
    shares = {"a": (2 / 5, 3 / 6), "b": (1 / 5, 2 / 6), "c": (1 / 5, 1 / 6), "others": (1 / 5, 1e-4)}
    expected = sum((p - q) * math.log(p / q) for p, q in shares.values())
    assert found["item_drift"] == pytest.approx(expected, abs=1e-6)
    assert found["score_drift"] > 0.25, "no score is as high as those of the user who is gone"


def test_equal_nights_do_not_drift(tmp_path: pathlib.Path) -> None:
    today, before = write(tmp_path / "today", TODAY), write(tmp_path / "before", TODAY, as_json=True)
    found = monitor(today, COUNTS, num_items=300, top_k=2, previous=before)
    assert (found["score_drift"], found["item_drift"], found["new_users_share"], found["lost_users_share"]) == (0,) * 4
    assert found["overlap"] == 0.75, "the empty list shares nothing"


def test_limits_name_what_is_outside(tmp_path: pathlib.Path) -> None:
    (tmp_path / "limits.json").write_text('{"overlap": {"min": 0.3}, "unknown_event_share": {"max": 0.05}}')
    limits = read_limits(str(tmp_path / "limits.json"))
    check_limits({"overlap": 0.3, "unknown_event_share": 0.05}, limits)
    with pytest.raises(
        InputError, match=r"overlap is 0.2, below 0.3; unknown_event_share is 0.5, above 0.05. They are"
    ):
        check_limits({"overlap": 0.2, "unknown_event_share": 0.5}, limits)
    assert read_limits(None) == {}
    for content in ('{"overlaps": {"min": 1}}', '{"overlap": 1}', '{"overlap": {"least": 1}}', "[]", "{"):
        (tmp_path / "limits.json").write_text(content)
        with pytest.raises(InputError, match="--limits must"):
            read_limits(str(tmp_path / "limits.json"))


def test_what_is_no_earlier_night_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"--previous must be a directory of recommend.py. Received: .*empty"):
        monitor(write(tmp_path / "today", TODAY), COUNTS, 300, 2, tmp_path / "empty")
