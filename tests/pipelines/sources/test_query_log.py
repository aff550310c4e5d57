"""The result of a SQL query is read as a log of files is."""

import pathlib

import duckdb
import pyarrow.parquet as pq
import pytest

from pipelines.build import build_records
from pipelines.sources import table_formats
from pipelines.sources.log_source import LogSource
from pipelines.sources.query_log import query_log
from tfrecords.config import DataConfig, RecordsConfig
from tfrecords.errors import InputError
from tfrecords.manifest import Manifest

CONFIG = RecordsConfig(DataConfig(max_seq_length=5, min_user_events=1, num_negatives=1, num_shards=1))


@pytest.fixture
def log(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "log.csv"
    rows = [f"u{user},i{(user + event) % 7},{1_600_000_000 + 1000 * event}" for user in range(9) for event in range(4)]
    path.write_text("\n".join(["user_id,item_id,timestamp", *rows]) + "\n")
    return path


def files(directory: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.glob("*/*.tfrecord")}


def test_a_query_gives_the_records_of_the_file_that_it_reads(log: pathlib.Path, tmp_path: pathlib.Path) -> None:
    build_records(LogSource([str(log)]), {}, CONFIG, str(tmp_path / "of_file"))
    query = f"SELECT user_id AS u, item_id AS i, to_timestamp(timestamp) AS t FROM '{log}' ORDER BY t DESC;"
    (tmp_path / "temporary").mkdir()
    source = query_log(query, tmp_path / "temporary", "u", "i", "t")
    build_records(source, {}, CONFIG, str(tmp_path / "of_query"))
    assert files(tmp_path / "of_query") == files(tmp_path / "of_file")
    assert Manifest.load(tmp_path / "of_query").source["query"] == query
    assert not build_records(source, {}, CONFIG, str(tmp_path / "of_query")).written


def test_files_of_a_user_have_no_query_in_the_manifest(log: pathlib.Path) -> None:
    assert "query" not in LogSource([str(log)]).description()


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (
            "SELECT * FROM absent",
            r"--query must be SQL that DuckDB can run. Received: 'SELECT \* FROM absent' \(Catalog",
        ),
        ("SELEC 1", r"--query must be SQL that DuckDB can run. Received: 'SELEC 1' \(Parser Error"),
        ("COPY (SELECT 1) TO 'x.csv'", r"--query must be one SELECT statement. Received: \"COPY"),
        ("SELECT 1; SELECT 2", r"--query must be one SELECT statement"),
        ("SELECT 1 AS user_id WHERE false", r"--query must return an event. Received: .*which returns none"),
    ],
)
def test_what_is_no_log_is_refused(tmp_path: pathlib.Path, query: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        query_log(query, tmp_path)


def test_a_missing_column_is_named(tmp_path: pathlib.Path) -> None:
    source = query_log("SELECT 1 AS user_id, 2 AS item", tmp_path)
    with pytest.raises(InputError, match="item_id"):
        build_records(source, {}, CONFIG, str(tmp_path / "data"))


def test_files_of_table_formats_are_refused(tmp_path: pathlib.Path) -> None:
    for marker, table, message in (
        ("_delta_log", "delta", r"of the Delta table .*delta, whose files also hold .*delta_scan\('.*delta'\)"),
        (".hoodie", "hudi", r"of the Hudi table .*hudi, whose .*Fix: export the table's rows"),
        ("metadata/v1.metadata.json", "iceberg", r"of the Iceberg table .*iceberg_scan\('.*iceberg'\)"),
    ):
        data = tmp_path / table / "data/day=1"
        data.mkdir(parents=True)
        pq.write_table(
            duckdb.sql("SELECT 1 AS user_id, 2 AS item_id, 3 AS timestamp").to_arrow_table(), data / "a.parquet"
        )
        assert LogSource([str(data / "a.parquet")]).files, "an ordinary folder"
        path = tmp_path / table / marker
        path.parent.mkdir(exist_ok=True)
        path.mkdir() if "." not in marker[1:] else path.write_text("{}")

        table_formats._table_format.cache_clear()
        for given in (data / "a.parquet", tmp_path / table / "**/*.parquet", tmp_path / table):
            with pytest.raises(InputError, match=message):
                assert LogSource([str(given)]).files
