"""Spark writes the same bytes as DuckDB for any log, also when tasks fail and run again."""

import csv
import hashlib
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from pyarrow import parquet

from bert4rec_tf.config import Config
from pipelines.build import build_records
from pipelines.engines.base import ShardSequences
from pipelines.progress import Progress
from pipelines.sources import log_file
from pipelines.sources.file_pieces import pieces_of
from pipelines.sources.log_source import LogSource
from pipelines.sources.synthetic import MarkovLog
from tests.support.command_line import ROOT
from tfrecords.config import RecordsConfig
from tfrecords.errors import InputError

pyspark = pytest.importorskip(
    "pyspark", reason="pyspark is an extra, for Python 3.11 and later: pip install -r requirements-spark.txt"
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("java") is None, reason="no java is on the PATH"),
]


def engine(spill_dir: pathlib.Path) -> Any:
    from pipelines.engines.spark_engine import SparkEngine

    return SparkEngine(spill_dir, num_workers=2)


def hashes(directory: pathlib.Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def build_both(source: Any, config: Config, directory: pathlib.Path) -> tuple[dict[str, str], dict[str, str]]:
    by_duckdb, by_spark = directory / "duckdb", directory / "spark"
    build_records(source, {}, config, str(by_duckdb / "data"))
    build_records(source, {}, config, str(by_spark / "data"), engine)
    return hashes(by_duckdb), hashes(by_spark)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Three files with repeats, ties, ratings, unusual ids and unreadable rows."""
    directory, draw = tmp_path_factory.mktemp("logs"), random.Random(3)
    items = ["Zoë", "zoe\u0308", "😀", 'say "a"', "a,b", "two\nlines", "\t", *map(str, range(40))]
    for number in range(3):
        with (directory / f"part-{number}.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["user_id", "item_id", "timestamp", "rating"])
            for _ in range(1500):
                row = [f"u{draw.randrange(90)}", draw.choice(items), draw.randrange(60), draw.randrange(1, 6)]
                writer.writerow(row)
                if draw.random() < 0.1:
                    writer.writerow(row)
                if draw.random() < 0.01:
                    writer.writerow(row[:2])
    return directory


CONFIGS = [
    {},
    {"duplicates": "first", "min_item_events": 50, "min_user_events": 25, "num_shards": 3},
    {"duplicates": "last", "tie_order": "input", "min_rating": 3},
    {"duplicates": "keep", "split": "temporal", "split_time": 30.0, "max_seq_length": 5, "sliding_window": 0.2},
    {"train_since": 40.5, "max_seq_length": 6, "validation_share": 0.4},
    {"train_since": 20.0, "split": "temporal", "split_time": 30.0, "tie_order": "input", "max_seq_length": 5},
]


@pytest.mark.parametrize("settings", CONFIGS, ids=str)
def test_the_engines_write_the_same_bytes(logs: pathlib.Path, tmp_path: pathlib.Path, settings: dict[str, Any]) -> None:
    config = Config.from_dict({"data": {"max_bad_fraction": 0.05} | settings})
    source = LogSource([f"{logs}/*.csv"], rating_column="rating" if "min_rating" in settings else "")
    by_duckdb, by_spark = build_both(source, config, tmp_path)
    assert "data/bad_rows.jsonl" in by_duckdb
    assert by_duckdb == by_spark


def test_one_file_is_read_in_several_tasks(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file, "PIECE_BYTES", 10_000)
    draw = random.Random(4)
    rows = [f'{draw.randrange(90)}"\ti{draw.randrange(40)}\t{draw.randrange(60)}\n' for _ in range(5000)]
    rows[::300] = ["\n", "no event\n"] * 8 + ["\n"]
    (tmp_path / "log.tsv").write_text("user_id\titem_id\ttimestamp\n" + "".join(rows))
    source = LogSource([str(tmp_path / "log.tsv")])
    assert len(pieces_of(source, 0, rated=False)) > 4
    config = Config.from_dict({"data": {"max_bad_fraction": 0.05, "tie_order": "input", "duplicates": "last"}})
    by_duckdb, by_spark = build_both(source, config, tmp_path)
    assert "data/bad_rows.jsonl" in by_duckdb
    assert by_duckdb == by_spark


def test_a_log_of_few_users_leaves_shards_empty(tmp_path: pathlib.Path) -> None:
    source = MarkovLog(num_users=3, num_items=40, num_themes=4, min_events=5, max_events=12)
    by_duckdb, by_spark = build_both(source, Config(), tmp_path)
    assert len(by_duckdb) == 3 * 8 + 2
    assert by_duckdb == by_spark


@pytest.mark.parametrize("max_files", [4096, 3])
def test_shards_are_spread_evenly_over_files(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, max_files: int
) -> None:
    from pipelines.engines import spark_engine

    monkeypatch.setattr(spark_engine, "_MAX_FILES", max_files)
    source = MarkovLog(num_users=400, num_items=40, num_themes=4, min_events=5, max_events=12)
    progress, config = Progress(shown=False), RecordsConfig()
    with engine(tmp_path / "spill") as opened:
        opened.load(source, "s", config, tmp_path / "bad", progress)
        opened.prepare(config, 40, progress)
        shards = [set(parquet.read_table(file, columns=["shard"])[0].to_pylist()) for file in opened._shard_files]
        users = list(opened.map_shards(lambda shard: len(shard.user_ids)))
    files = min(40, max_files)
    assert sorted(map(sorted, shards)) == sorted([*range(first, 40, files)] for first in range(files))
    assert (len(users), sum(users)) == (40, 400)


def use_in_tasks(monkeypatch: pytest.MonkeyPatch, around: Callable[[Any, Any], Any]) -> None:
    """Makes Spark's tasks call `around(function, shard)` instead of `function(shard)`."""
    from pipelines.engines.spark_engine import SparkEngine

    def changed(original: Any) -> Any:
        def call_around(self: SparkEngine, function: Any) -> Any:
            def call(shard: ShardSequences) -> Any:
                from pyspark import TaskContext

                return around(function, shard) if TaskContext.get() else function(shard)

            return original(self, call)

        return call_around

    for name in ("map_shards", "sum_shards"):
        monkeypatch.setattr(SparkEngine, name, changed(getattr(SparkEngine, name)))


def test_tasks_that_fail_and_run_again_change_nothing(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = MarkovLog(num_users=300, num_items=40, num_themes=4, min_events=5, max_events=12)
    build_records(source, {}, Config(), str(tmp_path / "clean/data"))
    failed = tmp_path / "failed"
    failed.mkdir()

    def fail_at_first(function: Any, shard: ShardSequences) -> Any:
        from pyspark import TaskContext

        result = function(shard)
        if TaskContext.get().attemptNumber() == 0:
            (failed / f"{TaskContext.get().stageId()}-{shard.shard}").touch()
            builder = getattr(function, "__self__", None)
            if builder:
                (pathlib.Path(builder.data_dir) / f"train/.half-{shard.shard}.tmp").write_bytes(b"half a shard")
            raise OSError("this machine is gone")
        return result

    use_in_tasks(monkeypatch, fail_at_first)
    build_records(source, {}, Config(), str(tmp_path / "faults/data"), engine)
    assert len(list(failed.iterdir())) >= 2
    assert hashes(tmp_path / "faults") == hashes(tmp_path / "clean")


def test_mistakes_are_named_and_leave_nothing(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + "u,i\n" * 9)
    output_dir = tmp_path / "parent" / "data"
    with pytest.raises(InputError, match=r"9 bad rows of 9: log.csv, line 2 must have 3 fields"):
        build_records(LogSource([str(tmp_path / "log.csv")]), {}, Config(), str(output_dir), engine)
    with pytest.raises(InputError, match=r"must have the column 'user'"):
        build_records(LogSource([str(tmp_path / "log.csv")], user_column="user"), {}, Config(), str(output_dir), engine)

    def fail(function: Any, shard: ShardSequences) -> Any:
        raise OSError(28, "No space left on device", "/data/train/00001")

    use_in_tasks(monkeypatch, fail)
    with pytest.raises(InputError, match=r"No space left on device: '/data/train/00001'$"):
        build_records(MarkovLog(num_users=40), {}, Config(), str(output_dir), engine)
    assert list(output_dir.parent.iterdir()) == []


def test_the_duckdb_of_a_task_has_its_share_of_the_executor(tmp_path: pathlib.Path) -> None:
    from pipelines.engines.spark_engine import _Share

    shares = {
        _Share(None, 1, 512, 1): (1, "512.0 MiB"),
        _Share(None, 2, 1024, 4): (2, "512.0 MiB"),
        _Share("300MiB", 1, 512, 1): (1, "300.0 MiB"),
    }
    for share, limits in shares.items():
        with share.connect(tmp_path) as connection:
            settings = connection.execute("SELECT current_setting('threads'), current_setting('memory_limit')")
            assert settings.fetchall() == [limits]


def test_too_little_memory_is_named(tmp_path: pathlib.Path) -> None:
    from pipelines.engines.spark_engine import SparkEngine

    log, output_dir = tmp_path / "log.csv", tmp_path / "parent" / "data"
    log.write_text("user_id,item_id,timestamp\n" + "ann,book,5\n" * 9)
    with pytest.raises(InputError, match=r"--memory_limit must be large enough for the engine\. Received: 20MB"):
        build_records(LogSource([str(log)]), {}, Config(), str(output_dir), lambda spill: SparkEngine(spill, 2, "20MB"))
    assert list(output_dir.parent.iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_build_ends_in_one_line(tmp_path: pathlib.Path, number: signal.Signals, code: int) -> None:
    output_dir = tmp_path / "parent" / "data"
    command = [sys.executable, "pipelines/make_tfrecords.py", "--engine=spark", "--dataset=synthetic"]
    with subprocess.Popen([*command, f"--output_dir={output_dir}"], cwd=ROOT, stderr=subprocess.PIPE) as build:
        while build.poll() is None and not next(output_dir.parent.glob(".data.building.spill/events-*"), None):
            time.sleep(0.02)
        build.send_signal(number)
        _, printed = build.communicate(timeout=120)
    assert build.returncode == code
    assert b"Traceback" not in printed
    assert printed.endswith(b"while it built the records; run the same command again\n")
    assert list(output_dir.parent.iterdir()) == []
