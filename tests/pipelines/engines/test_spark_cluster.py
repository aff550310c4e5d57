"""Spark on a cluster of two workers writes the same bytes as DuckDB, also when a worker is killed."""

import hashlib
import pathlib
import random
import shutil
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.support.command_line import ROOT, run

pytest.importorskip(
    "pyspark", reason="pyspark is an extra, for Python 3.11 and later: pip install -r requirements-spark.txt"
)
from tests.support.spark_cluster import SparkCluster, loopback_cluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("java") is None, reason="no java is on the PATH"),
]
FLAGS = ["--max_bad_fraction=0.01", "--set=data.tie_order=input", "--set=masking.duplicate_factor=2"]
# The counts of all items in twenty shards would be 5 MB at the driver.
MEMORY = {"spark_executor_memory": "512m", "spark_driver_memory": "512m", "spark_driver_maxResultSize": "2m"}
_SECONDS = 900


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Four files with repeats, ties, unreadable rows and 30,000 items."""
    directory, draw = tmp_path_factory.mktemp("log"), random.Random(5)
    for number in range(4):
        rows = [f"u{draw.randrange(900)},i{draw.randrange(40_000)},{draw.randrange(5000)}\n" for _ in range(15_000)]
        rows[::700] = ["no event\n"] * len(rows[::700])
        rows[::90] = rows[1::90]
        (directory / f"part-{number}.csv").write_text("user_id,item_id,timestamp\n" + "".join(rows))
    return directory


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkCluster]:
    with loopback_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


def hashes(directory: pathlib.Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def of_duckdb(log: pathlib.Path, tmp_path: pathlib.Path, *flags: str) -> dict[str, str]:
    (tmp_path / "duckdb").mkdir()
    output = f"--output_dir={tmp_path / 'duckdb' / 'data'}"
    run("pipelines/make_tfrecords.py", f"--input={log}/*.csv", output, *FLAGS, *flags)
    return hashes(tmp_path / "duckdb")


def of_spark(
    cluster: SparkCluster, log: pathlib.Path, tmp_path: pathlib.Path, *flags: str, kill_at: str = ""
) -> tuple[dict[str, str], str]:
    """Builds on the cluster, and kills a worker when a file of a pattern appears. Returns hashes and Spark's log."""
    (tmp_path / "spark").mkdir(exist_ok=True)
    output = f"--output_dir={tmp_path / 'spark' / 'data'}"
    script = ROOT / "pipelines" / "make_tfrecords.py"
    command = cluster.submit(script, "--engine=spark", f"--input={log}/*.csv", output, *FLAGS, *flags, **MEMORY)
    spark_log, last = tmp_path / "spark.log", time.monotonic() + _SECONDS
    with (
        spark_log.open("wb") as stream,
        subprocess.Popen(command, cwd=ROOT, env=cluster.environment, stdout=stream, stderr=stream) as build,
    ):
        try:
            while kill_at and build.poll() is None and time.monotonic() < last:
                if next((tmp_path / "spark").glob(kill_at), None):
                    cluster.kill_worker()
                    break
                time.sleep(0.02)
            build.wait(last - time.monotonic())
        finally:
            build.kill()
    printed = spark_log.read_text()
    assert build.returncode == 0, printed[-5000:]
    return hashes(tmp_path / "spark"), printed


def test_a_cluster_writes_the_same_bytes(cluster: SparkCluster, log: pathlib.Path, tmp_path: pathlib.Path) -> None:
    by_duckdb = of_duckdb(log, tmp_path)
    by_spark, printed = of_spark(cluster, log, tmp_path)
    assert len(by_duckdb) == 3 * 8 + 3  # shards, vocabulary, manifest, bad rows
    assert by_spark == by_duckdb
    for first_sets in (0, 1):  # the files are hashed in tasks, and read in tasks
        assert f"Adding task set {first_sets}.0 with 4 tasks" in printed
    assert "(executor 0)" in printed
    assert "(executor 1)" in printed
    again, printed = of_spark(cluster, log, tmp_path)
    assert "is complete: same input, same configuration. Nothing to do." in printed
    assert again == by_spark


@pytest.mark.parametrize("kill_at", [".data.building.spill/events/*", ".data.building/train/0*"])
def test_a_killed_worker_changes_nothing(
    cluster: SparkCluster, log: pathlib.Path, tmp_path: pathlib.Path, kill_at: str
) -> None:
    by_duckdb = of_duckdb(log, tmp_path, "--num_shards=20")
    by_spark, printed = of_spark(cluster, log, tmp_path, "--num_shards=20", kill_at=kill_at)
    cluster.add_worker("1g")  # for the next test
    assert "Lost executor" in printed
    assert by_spark == by_duckdb
