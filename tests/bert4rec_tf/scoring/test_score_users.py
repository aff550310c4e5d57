"""Every user of a log gets what the served model answers, in files that are written whole and can be continued."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from bert4rec_tf.scoring.output import METADATA_FILE, MONITORING_FILE, SUCCESS_FILE, OutputOptions
from bert4rec_tf.scoring.part_scorer import PartScorer, _batches_by_length
from bert4rec_tf.scoring.score_users import score_log, score_records
from bert4rec_tf.serving.served_model import ServedModel
from pipelines.engines.duckdb_engine import DuckDBEngine
from pipelines.sources.log_source import LogSource
from tests.support.short_run import build, train_here
from tfrecords.errors import InputError

EVENTS = [  # user, item, time; the model knows item-0000 to item-0011
    ("ann", "item-0003", 30), ("ann", "item-0001", 10), ("ann", "item-0002", 20),
    ("bo", "unknown", 5), ("bo", "item-0005", 6),
    ("cy", "unknown", 1),
    ("dee", "item-0007", 9), ("dee", "item-0007", 12),
]  # fmt: skip
HISTORIES = {
    "ann": ["item-0001", "item-0002", "item-0003"],
    "bo": ["item-0005"],
    "cy": [],
    "dee": ["item-0007", "item-0007"],
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("scoring")
    train_here(build(path / "data"), path / "model")
    return path


@pytest.fixture(scope="module")
def model(directory: pathlib.Path) -> ServedModel:
    return ServedModel.load(directory / "model")


def write_log(path: pathlib.Path, events: Sequence[tuple[str, str, int]] = EVENTS) -> LogSource:
    rows = ["user_id,item_id,timestamp", *(",".join(map(str, event)) for event in events)]
    path.write_text("\n".join(rows) + "\n")
    return LogSource([str(path)])


def score(model: ServedModel, tmp_path: pathlib.Path, output: str = "out", **options: Any) -> dict[str, dict[str, Any]]:
    """The rows of all parts by user, in the order of the files."""
    source = write_log(tmp_path / "log.csv")
    score_log(model, source, tmp_path / output, OutputOptions(**options), DuckDBEngine)
    return rows_of(tmp_path / output)


def rows_of(output: pathlib.Path) -> dict[str, dict[str, Any]]:
    assert (output / SUCCESS_FILE).read_bytes() == b""
    rows = [
        row for part in sorted(output.glob("part-*.jsonl")) for row in map(json.loads, part.read_text().splitlines())
    ]
    rows += pq.read_table(output).to_pylist() if list(output.glob("part-*.parquet")) else []
    assert len({row["user_id"] for row in rows}) == len(rows)
    return {row["user_id"]: row for row in rows}


def answer(model: ServedModel, history: list[str], k: int, **lists: list[str]) -> tuple[list[str], np.ndarray]:
    """What the signature answers for one history."""
    inputs = {name: tf.constant([lists.get(name, [])], tf.string) for name in ("excluded_item_ids", "allowed_item_ids")}
    found = model.signatures["recommend"](
        item_ids=tf.constant([history], tf.string), k=tf.constant([k]), drop_seen=tf.constant([True]), **inputs
    )
    ids = [item.decode() for item in found["item_ids"].numpy()[0] if item]
    return ids, found["scores"].numpy()[0][: len(ids)]


def hashes(output: pathlib.Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in output.iterdir()}


@pytest.mark.parametrize("format_", ["parquet", "jsonl"])
def test_each_user_gets_what_the_signature_answers(model: ServedModel, tmp_path: pathlib.Path, format_: str) -> None:
    rows = score(model, tmp_path, top_k=20, format=format_)
    assert rows.keys() == HISTORIES.keys()
    for user, history in HISTORIES.items():
        ids, scores = answer(model, history, k=20)
        assert rows[user]["item_ids"] == ids, user
        np.testing.assert_allclose(rows[user]["scores"], scores, rtol=1e-5)
        assert rows[user]["model_version"] == model.version
    assert len(rows["ann"]["item_ids"]) == 9, "fewer than 20: the catalogue has 12 items, and 3 were seen"


def test_unknown_items_and_users_without_known_items_are_counted(model: ServedModel, tmp_path: pathlib.Path) -> None:
    scored = score_log(model, write_log(tmp_path / "log.csv"), tmp_path / "out", OutputOptions(), DuckDBEngine)
    counts = scored.counts
    assert (counts.users, counts.events, counts.unknown_events) == (4, 8, 2)
    assert (counts.users_without_known_items, counts.written) == (1, 4)
    again = score_log(model, write_log(tmp_path / "log.csv"), tmp_path / "out", OutputOptions(), DuckDBEngine)
    assert (again.counts.users, again.counts.written) == (4, 0)


def test_batches_are_bounded_and_cover_every_row_once() -> None:
    lengths = np.random.default_rng(1).permutation(
        np.concatenate([np.zeros(700, int), np.arange(900), [200_000, 70_000]])
    )
    batches = list(_batches_by_length(lengths))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or lengths[batch].max() * len(batch) <= 1 << 16
        assert len(batch) <= 512
    assert list(_batches_by_length(lengths[:0])) == []


WRITERS: dict[str, Callable[[pathlib.Path, pa.Table], object]] = {
    "parquet": lambda path, table: pq.write_table(table, path),
    "csv": lambda path, table: write_delimited(path, table, ","),
    "tsv": lambda path, table: write_delimited(path, table, "\t"),
    "jsonl": lambda path, table: path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist())),
}


def write_delimited(path: pathlib.Path, table: pa.Table, delimiter: str) -> None:
    rows = [table.column_names, *(row.values() for row in table.to_pylist())]
    path.write_text("".join(delimiter.join(row) + "\n" for row in rows))


@pytest.mark.parametrize("suffix", WRITERS)
def test_lists_are_for_all_users_or_for_each(model: ServedModel, tmp_path: pathlib.Path, suffix: str) -> None:
    for_all, for_each = tmp_path / f"all.{suffix}", tmp_path / f"each.{suffix}"
    WRITERS[suffix](for_all, pa.table({"item_id": ["item-0004", "item-0006", "item-0003", "gone"]}))
    WRITERS[suffix](
        for_each, pa.table({"user_id": ["ann", "ann", "nobody"], "item_id": ["item-0004", "item-0005", "item-0006"]})
    )
    shared, own = ["item-0004", "item-0006", "item-0003", "gone"], ["item-0004", "item-0005"]
    excluded = score(model, tmp_path, "excluded", top_k=12, exclude=str(for_all), allow=str(for_each))
    allowed = score(model, tmp_path, "allowed", top_k=12, exclude=str(for_each), allow=str(for_all))
    for user, history in HISTORIES.items():
        of_user = own if user == "ann" else []
        expected, _ = answer(model, history, 12, excluded_item_ids=shared, allowed_item_ids=of_user)
        assert excluded[user]["item_ids"] == expected, user
        expected, _ = answer(model, history, 12, excluded_item_ids=of_user, allowed_item_ids=shared)
        assert allowed[user]["item_ids"] == expected, user
    assert excluded["ann"]["item_ids"] == ["item-0005"]


def test_chosen_users_without_events_get_the_most_popular_items(model: ServedModel, tmp_path: pathlib.Path) -> None:
    (tmp_path / "users.txt").write_text("ann\nnew user\n")
    rows = score(model, tmp_path, users=str(tmp_path / "users.txt"), top_k=3)
    assert rows.keys() == {"ann", "new user"}
    assert rows["new user"]["item_ids"] == answer(model, [], 3)[0]
    assert rows["ann"]["item_ids"] == answer(model, HISTORIES["ann"], 3)[0]


def test_seen_items_stay_if_they_should(model: ServedModel, tmp_path: pathlib.Path) -> None:
    rows = score(model, tmp_path, top_k=12, drop_seen=False)
    assert all(len(row["item_ids"]) == 12 for row in rows.values())


def test_low_rated_items_count_as_seen(model: ServedModel, directory: pathlib.Path, tmp_path: pathlib.Path) -> None:
    rated = dataclasses.replace(model, data=dataclasses.replace(model.data, min_rating=3.0))  # type: ignore[type-var]
    log = tmp_path / "log.csv"
    rows = ["user_id,item_id,rating,timestamp", "ann,item-0001,5,1", "ann,item-0002,1,2", "ann,item-0003,4,3"]
    log.write_text("\n".join([*rows, "bo,item-0002,5,4"]) + "\n")
    for drop_seen in (True, False):
        output = tmp_path / f"out-{drop_seen}"
        source = LogSource([str(log)], rating_column="rating")
        score_log(rated, source, output, OutputOptions(top_k=12, drop_seen=drop_seen), DuckDBEngine)
        assert ("item-0002" in rows_of(output)["ann"]["item_ids"]) is not drop_seen
    assert (
        rows_of(tmp_path / "out-True")["ann"]["item_ids"]
        == (answer(model, ["item-0001", "item-0003"], 12, excluded_item_ids=["item-0002"])[0])
    )


def test_a_run_continues_with_the_same_bytes(
    model: ServedModel, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score(model, tmp_path, "whole")
    calls = []
    write = PartScorer._write

    def stop_at_the_fourth(self: PartScorer, *arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        write(self, *arguments)

    monkeypatch.setattr(PartScorer, "_write", stop_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        score(model, tmp_path, "stopped")
    assert not (tmp_path / "stopped" / SUCCESS_FILE).exists()
    assert len(list((tmp_path / "stopped").glob("part-*"))) == 3
    monkeypatch.setattr(PartScorer, "_write", write)
    score(model, tmp_path, "stopped")
    assert hashes(tmp_path / "stopped") == hashes(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "stopped", "whole"], "nothing is left beside"


def test_the_records_of_a_log_give_the_same_as_the_log(
    model: ServedModel, directory: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    from pipelines.sources.synthetic import MarkovLog

    log = MarkovLog(num_users=30, num_items=12, num_themes=3, min_events=5, max_events=9)
    score_log(model, log, tmp_path / "log", OutputOptions(), DuckDBEngine)
    score_records(model, directory / "data", tmp_path / "records", OutputOptions())
    by_log, by_records = rows_of(tmp_path / "log"), rows_of(tmp_path / "records")
    assert by_log.keys() == by_records.keys()
    for user, row in by_log.items():
        assert by_records[user]["item_ids"] == row["item_ids"]
        np.testing.assert_allclose(by_records[user]["scores"], row["scores"], rtol=1e-5)


def test_other_output_is_not_touched(model: ServedModel, tmp_path: pathlib.Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    with pytest.raises(
        InputError, match=r"--output must be new, empty or made by recommend.py. Received: .*full, which"
    ):
        score(model, tmp_path, "full")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--output must be a directory. Received: .*file, a file"):
        score(model, tmp_path, "file")
    score(model, tmp_path, top_k=3)
    before = hashes(tmp_path / "out")
    with pytest.raises(InputError, match=r"made by the same command. Received: .*out, made with another top_k"):
        score(model, tmp_path, top_k=4)
    assert hashes(tmp_path / "out") == before
    rows = score(model, tmp_path, top_k=4, overwrite=True)
    assert len(rows["cy"]["item_ids"]) == 4
    assert json.loads((tmp_path / "out" / METADATA_FILE).read_text())["top_k"] == 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.json", "{}", r"--exclude must be a .parquet, .csv, .tsv, .jsonl, .txt file. Received: .*list.json"),
        ("list.csv", "id\n1\n", r"--exclude must have the column item_id. Received: .*list.csv with id"),
        ("list.csv", "item_id\n", r"--exclude must have an id in each row. Received: .*list.csv with no row"),
        ("list.csv", "item_id,user_id\n1,\n", r"in each row. Received: .*list.csv with 1 of 1 rows without one"),
        ("list.jsonl", '{"item_id": [1]}\n', r"Ids must be text or integers. Received: .*whose column item_id is"),
        ("list.jsonl", '{"item_id"\n', r"--exclude must be a readable .jsonl file. Received: .*list.jsonl"),
        ("list.parquet", "no", r"--exclude must be a readable .parquet file. Received: .*list.parquet"),
    ],
)
def test_faulty_lists_are_named(
    model: ServedModel, tmp_path: pathlib.Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        score(model, tmp_path, exclude=str(tmp_path / name))
    assert not list((tmp_path / "out").glob("part-*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, r"--top_k must be from 1 to 1000, the limit of the model. Received: 0"),
        ({"top_k": 1001}, r"--top_k must be from 1 to 1000"),
        ({"request_time": 5}, r"--request_time needs a model that takes times. Received: a model without"),
        ({"allow": "absent.csv"}, r"--allow must be a file. Received: absent.csv"),
        (
            {"users": "s3://bucket/users.csv"},
            r"--users must be a path on this machine. Received: s3://bucket/users.csv",
        ),
    ],
)
def test_options_are_checked(model: ServedModel, tmp_path: pathlib.Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        score(model, tmp_path, **options)
    assert not (tmp_path / "out").exists()


def test_recommendations_outside_the_limits_are_not_finished(model: ServedModel, tmp_path: pathlib.Path) -> None:
    score(model, tmp_path, "before")
    limits = tmp_path / "limits.json"
    with pytest.raises(InputError, match=r"--previous must be a finished directory of recommend.py. Received: absent"):
        score(model, tmp_path, previous="absent")
    limits.write_text('{"overlap": {"min": 0.5}}')
    with pytest.raises(InputError, match="A limit on overlap needs an earlier night"):
        score(model, tmp_path, limits=str(limits))
    limits.write_text('{"overlap": {"max": 0.5}, "unknown_event_share": {"max": 0.1}}')
    options = {"previous": str(tmp_path / "before"), "limits": str(limits)}
    with pytest.raises(InputError, match=r"Received: overlap is 1, above 0.5; unknown_event_share is 0.25, above 0.1"):
        score(model, tmp_path, **options)
    assert not (tmp_path / "out" / SUCCESS_FILE).exists()
    numbers = json.loads((tmp_path / "out" / MONITORING_FILE).read_text())
    assert (numbers["overlap"], numbers["unknown_event_share"]) == (1, 0.25)
    limits.write_text('{"overlap": {"min": 0.5}}')
    before = hashes(tmp_path / "out")
    score(model, tmp_path, **options)
    assert before.items() - hashes(tmp_path / "out").items() == {(METADATA_FILE, before[METADATA_FILE])}, "only counts"
