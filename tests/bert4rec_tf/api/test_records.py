"""Records of any table are those of a file."""

import pathlib
from typing import Any

import duckdb
import pyarrow as pa
import pytest

import bert4rec_tf
from pipelines.build import BuildResult
from tests.support.small_run import CONFIG, LOG
from tfrecords.errors import InputError


def built(log: Any, path: pathlib.Path, **columns: str) -> BuildResult:
    return bert4rec_tf.build_records(log, path, CONFIG, timestamp_unit="s", **columns)


def test_any_table_gives_the_records_of_a_file(tmp_path: pathlib.Path) -> None:
    table = LOG.select(["user_id", "item_id", "timestamp"])
    lines = [",".join(map(str, row)) for row in zip(*table.to_pydict().values(), strict=True)]
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(lines) + "\n")
    expected = built(tmp_path / "log.csv", tmp_path / "file").manifest
    logs = {
        "table": table,
        "reader": table.to_reader(),
        "paths": [str(tmp_path / "log.csv")],
        "relation": duckdb.connect().from_arrow(table),
        "renamed": table.rename_columns(["u", "i", "t"]),
    }
    for name, log in logs.items():
        columns = {"user_column": "u", "item_column": "i", "timestamp_column": "t"} if name == "renamed" else {}
        manifest = built(log, tmp_path / name, **columns).manifest
        assert manifest.splits == expected.splits, name
        assert manifest.vocabulary_sha256 == expected.vocabulary_sha256, name


def test_a_pandas_frame_with_dates_and_an_index_of_its_own(tmp_path: pathlib.Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = LOG.to_pandas()
    frame["timestamp"] = pandas.to_datetime(frame["timestamp"], unit="s")
    frame.index = frame.index + 1000
    manifest = bert4rec_tf.build_records(frame, tmp_path / "frame", CONFIG).manifest
    assert manifest.counts["events"] == LOG.num_rows


def test_a_polars_frame_with_categories(tmp_path: pathlib.Path) -> None:
    polars = pytest.importorskip("polars")
    frame = polars.from_arrow(LOG).with_columns(polars.col("item_id").cast(polars.Categorical))
    found = built(frame, tmp_path / "frame").manifest
    assert found.splits == built(LOG, tmp_path / "table").manifest.splits


def test_item_features_of_a_frame_are_those_of_a_file(tmp_path: pathlib.Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "item_id": ["item-0001", "item-0002", "99"],
            "brand": pandas.Categorical(["x", "y", "x"]),
            "price": [1.5, None, 3.0],
        }
    )
    frame.to_csv(tmp_path / "items.csv", index=False)
    found = {}
    for name, table in (("frame", frame), ("file", tmp_path / "items.csv"), ("arrow", pa.Table.from_pandas(frame))):
        result = bert4rec_tf.build_records(LOG, tmp_path / name, CONFIG, timestamp_unit="s", item_features=table)
        found[name] = result.manifest.item_features_sha256
        assert result.manifest.counts["items_with_features"] == 2
        assert result.items_in_no_event == (f"'99' ({'line 4' if name == 'file' else 'row 3'})",)
    assert found["frame"] == found["file"] == found["arrow"] is not None
    with pytest.raises(InputError, match="at least one item"):
        bert4rec_tf.build_records(LOG, tmp_path / "empty", CONFIG, item_features=frame.iloc[:0])


def test_the_same_table_again_builds_nothing(tmp_path: pathlib.Path) -> None:
    assert built(LOG, tmp_path / "data").written
    assert not built(LOG, tmp_path / "data").written


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (pa.table({"user": ["a"], "item_id": ["b"], "timestamp": [1]}), "must have the columns user_id, item_id"),
        (LOG.slice(0, 0), "at least one event"),
        (3, "must be a path, a pandas or polars frame"),
        ([], "must be a path, a pandas or polars frame"),
    ],
)
def test_invalid_logs_are_refused(tmp_path: pathlib.Path, log: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        built(log, tmp_path / "data")
    assert not (tmp_path / "data").exists()
