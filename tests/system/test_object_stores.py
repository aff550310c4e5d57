"""The commands with a real S3 server and a GCS emulator on this machine: kills, errors, and the whole way."""

import gzip
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

import bert4rec_tf
from bert4rec_tf.model_store import fetch_model, working_directory
from pipelines.sources.synthetic import MarkovLog
from tests.support.command_line import ROOT
from tests.support.model_dirs import files_in
from tests.support.object_stores import S3Server, gcs_emulator, s3_server, use  # noqa: F401, fixtures
from tfrecords.manifest import Manifest, verify
from tfrecords.record_store import check_complete, local_records, read_manifest
from tfrecords.stores import Store

pytestmark = pytest.mark.slow
BUILD = ("--format=csv", "--set=data.max_seq_length=12", "--set=data.num_negatives=5", "--num_shards=3")
TRAIN = [
    f"--set=training.{name}={value}"
    for name, value in {
        "num_steps": 100, "steps_per_epoch": 20, "batch_size": 16, "jit_compile": "false", "learning_rate": 0.01,
    }.items()
] + ["--set=model.hidden_size=8", "--set=model.num_layers=1", "--set=model.num_heads=2"]  # fmt: skip


class Commands:
    """Runs commands that find the server; a test may kill one at a request that it chooses.

    Args:
        server: the store.
        cache: for what the commands keep on this machine.
    """

    def __init__(self, server: S3Server, cache: pathlib.Path):
        self.server, self.cache = server, cache

    def start(self, *command: object) -> subprocess.Popen[str]:
        environment = os.environ | self.server.environment | {"BERT4REC_TF_STORE_CACHE": str(self.cache)}
        return subprocess.Popen(
            [sys.executable, *map(str, command)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: object, code: int = 0) -> str:
        """Runs a command to its end, and checks its exit code."""
        process = self.start(*command)
        printed = process.communicate(timeout=300)[0]
        assert process.returncode == code, printed
        assert "Traceback" not in printed
        return printed

    def kill(self, at: Callable[[str, str], bool], *command: object, later: float = 0.0) -> None:
        """Kills a command at the first request that `at` is true of, or so many seconds later."""
        process = self.start(*command)

        def fault(method: str, path: str) -> str | None:
            if at(method, path):
                self.server.fault = lambda *_: None
                if later:
                    threading.Timer(later, os.kill, (process.pid, signal.SIGKILL)).start()
                    return None
                os.kill(process.pid, signal.SIGKILL)
                return "cut"
            return None

        self.server.fault = fault
        printed = process.communicate(timeout=300)[0]
        self.server.fault = lambda *_: None
        assert process.returncode == -signal.SIGKILL, printed


@pytest.fixture
def commands(s3: S3Server, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """The commands, with an empty bucket."""
    use(s3, monkeypatch)
    monkeypatch.setenv("BERT4REC_TF_STORE_CACHE", str(tmp_path / "cache of the test"))
    bucket = Store.open("s3://bucket")
    for name in bucket.files():
        bucket.remove(name)
    return Commands(s3, tmp_path / "cache")


def write_log(tmp_path: pathlib.Path, url: str) -> tuple[str, str]:
    """A log of two files, one of them compressed, here and in a store; the globs that name it."""
    table = MarkovLog(num_users=200, num_items=30, num_themes=3, min_events=5, max_events=12).interactions()
    rows = [f"{user},{item},{time}\n" for user, item, time in zip(*table.to_pydict().values(), strict=True)]
    header = ",".join(table.column_names) + "\n"
    contents = {
        "logs/dt=1/a.csv": (header + "".join(rows[:800])).encode(),
        "logs/dt=2/b.csv.gz": gzip.compress((header + "".join(rows[800:])).encode(), mtime=0),
    }
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(content)
    Store.open(url).upload(tmp_path, contents)
    return str(tmp_path / "logs" / "*" / "*"), f"{url}/logs/*/*"


def check_no_half(url: str) -> bool:
    """Whether the store shows records; if so, all their files are there."""
    store = Store.open(url)
    manifest = read_manifest(store)
    if manifest is not None:
        check_complete(store, manifest)
    return manifest is not None


def test_records_after_kills_are_those_of_an_undisturbed_local_build(
    commands: Commands, tmp_path: pathlib.Path
) -> None:
    here, there = write_log(tmp_path, "s3://bucket")
    make = ("pipelines/make_tfrecords.py", *BUILD)
    commands.run(*make, f"--input={here}", f"--output_dir={tmp_path / 'data'}")
    command = (*make, f"--input={there}", "--output_dir=s3://bucket/data")
    moments = [
        lambda method, path: method == "GET" and path.endswith("b.csv.gz"),  # while the log is read
        lambda method, path: method in ("PUT", "POST") and "/train/" in path,
        lambda method, path: method in ("PUT", "POST") and "/test/00002" in path,
        lambda method, path: method in ("PUT", "POST") and path.endswith("/manifest.json"),
        lambda method, path: method in ("PUT", "POST") and path == "/bucket/data/manifest.json",
    ]
    for moment in moments:
        commands.kill(moment, *command)
        assert not check_no_half("s3://bucket/data")
    shutil.rmtree(commands.cache)  # the last one's records too: the machine is lost
    assert "wrote s3://bucket/data" in commands.run(*command)
    assert check_no_half("s3://bucket/data")
    assert files_in(local_records("s3://bucket/data")) == files_in(tmp_path / "data")
    assert "Nothing to do" in commands.run(*command)
    # Replaced: readers see the old records until the new ones are whole.
    before = Manifest.load("s3://bucket/data")
    replace = (*command, "--seed=7", "--overwrite")
    commands.kill(moments[-1], *replace)
    assert Manifest.load("s3://bucket/data") == before
    verify(local_records("s3://bucket/data"), before)
    commands.run(*replace)
    assert Manifest.load("s3://bucket/data").config.data.seed == 7


def test_errors_lose_nothing(commands: Commands, tmp_path: pathlib.Path) -> None:
    here, there = write_log(tmp_path, "s3://bucket")
    make = ("pipelines/make_tfrecords.py", *BUILD)
    commands.run(*make, f"--input={here}", f"--output_dir={tmp_path / 'data'}")
    number = 0

    def every_second(method: str, path: str) -> str | None:
        nonlocal number
        number += 1
        return (None, "503", None, "500", None, "cut")[number % 6]

    commands.server.fault = every_second
    command = (*make, f"--input={there}", "--output_dir=s3://bucket/data")
    commands.run(*command)
    commands.server.fault = lambda *_: None
    assert number > 60
    assert files_in(local_records("s3://bucket/data")) == files_in(tmp_path / "data")


def test_a_store_that_stays_away_ends_the_command_with_a_message_and_the_next_one_goes_on(
    commands: Commands, tmp_path: pathlib.Path
) -> None:
    _, there = write_log(tmp_path, "s3://bucket")
    command = ("pipelines/make_tfrecords.py", *BUILD, f"--input={there}", "--output_dir=s3://bucket/data")
    commands.server.fault = lambda method, path: "503" if "/validation/" in path and method != "GET" else None
    printed = commands.run(*command, code=2)
    commands.server.fault = lambda *_: None
    assert re.search(
        r"error: An object store must answer. Received: .*SLOW_DOWN.* \(s3://bucket/data/records-[0-9a-f]+/validation/"
        r"0000[0-2]-of-00003.tfrecord\). Fix: check the store, and run the same command again",
        printed,
    )
    assert not check_no_half("s3://bucket/data")
    requests = len(commands.server.requests)
    commands.run(*command)
    assert check_no_half("s3://bucket/data")
    sent = {path for method, path in commands.server.requests[requests:] if method in ("PUT", "POST")}
    assert not [path for path in sent if "/train/" in path]  # they were there


def test_from_a_log_to_recommendations(commands: Commands, tmp_path: pathlib.Path) -> None:
    here, there = write_log(tmp_path, "s3://bucket")
    make = ("pipelines/make_tfrecords.py", *BUILD)
    commands.run(*make, f"--input={there}", "--output_dir=s3://bucket/data")
    data = tmp_path / "data"
    commands.run(*make, f"--input={here}", f"--output_dir={data}")

    # A run whose machine is lost after the first checkpoint, beside one that nothing interrupts.
    commands.run("train.py", f"--data_dir={data}", f"--model_dir={tmp_path / 'model'}", *TRAIN)
    train = ("train.py", "--data_dir=s3://bucket/data", "--model_dir=s3://bucket/model", *TRAIN)

    def first_index(method: str, path: str) -> bool:
        return method == "POST" and "/latest/" in path and path.endswith("state.index") and "/ckpt-" in path

    started = iter(range(2))  # a small file has two POSTs: the second one completes it
    commands.kill(lambda *request: first_index(*request) and next(started) == 1, *train, later=0.05)
    stored = [name for name in Store.open("s3://bucket/model").files() if "/latest/" in name]
    assert any(name.endswith("state.index") for name in stored)
    assert not any("ckpt-100" in name for name in stored)
    shutil.rmtree(commands.cache)
    printed = commands.run(*train)
    assert re.search(r"resuming s3://bucket/model from step [1-9]", printed)
    assert not list((commands.cache / "models").glob("model-*"))
    with working_directory("s3://bucket/model") as work:
        assert weights(work.directory / "checkpoints/latest/ckpt-100") == weights(
            tmp_path / "model/checkpoints/latest/ckpt-100"
        )
    (best,) = fetch_model("s3://bucket/model").glob("checkpoints/best/*")
    assert weights(best) == weights(tmp_path / "model/checkpoints/best" / best.name)
    assert "trained already" in commands.run(*train)

    evaluate = ("evaluate.py", "--data_dir=s3://bucket/data", "--model_dir=s3://bucket/model")
    commands.run(*evaluate, "--output=s3://bucket/results/metrics.json")
    commands.run(
        "evaluate.py",
        f"--data_dir={data}",
        f"--model_dir={tmp_path / 'model'}",
        f"--output={tmp_path / 'metrics.json'}",
    )
    results = Store.open("s3://bucket/results")
    users = results.read("metrics.users.parquet")
    assert users == (tmp_path / "metrics.users.parquet").read_bytes()
    assert results.stamp("metrics.json") is not None

    # A killed export shows nothing; the next one is served.
    export = ("export.py", "--model_dir=s3://bucket/model", "--export_dir=s3://bucket/exports")
    commands.kill(lambda method, path: method != "GET" and path.endswith("/saved_model.pb"), *export)
    exports = Store.open("s3://bucket/exports")
    (half,) = exports.folders()
    assert exports.read("models.config") is None
    assert exports.stamp(f"{half}/saved_model.pb") is None
    version = commands.run(*export).strip().rpartition("/")[2]
    assert f"versions: {version} ".encode() in (exports.read("models.config") or b"")
    assert exports.folders() == [version]

    # The same for recommendations.
    recommend = ("recommend.py", "--export_dir=s3://bucket/exports", f"--input={there}", "--output=s3://bucket/night")
    commands.kill(lambda method, path: method != "GET" and "part-00003" in path, *recommend)
    night = Store.open("s3://bucket/night")
    assert night.stamp("_SUCCESS") is None
    commands.run(*recommend)
    assert night.stamp("_SUCCESS") is not None
    assert "were there already" in commands.run(*recommend)
    night.download(tmp_path / "night", night.files())
    rows = pq.read_table(sorted((tmp_path / "night").glob("part-*"))).sort_by("user_id").to_pylist()
    assert len(rows) == 200
    assert {row["model_version"] for row in rows} == {version}

    # The Python interface takes the same addresses.
    recommender = bert4rec_tf.Recommender.load("s3://bucket/exports")
    scored = recommender.recommend_log(there, "s3://bucket/again")
    assert (scored.output_dir, scored.counts.users) == ("s3://bucket/again", 200)
    assert {name for name in night.files() if "part" in name} < set(Store.open("s3://bucket/again").files())
    history = rows[0]["item_ids"][:3]
    assert (
        recommender.recommend([history]).item_ids
        == bert4rec_tf.Recommender.load("s3://bucket/model").recommend([history]).item_ids
    )
    assert bert4rec_tf.evaluate("s3://bucket/model", "s3://bucket/data").users.num_rows == 200


def weights(checkpoint: pathlib.Path) -> dict[str, bytes]:
    """The bytes of each variable but the clock."""
    reader = tf.train.load_checkpoint(str(checkpoint / "state"))
    names = [
        name for name in reader.get_variable_to_shape_map() if "elapsed" not in name and "_CHECKPOINTABLE" not in name
    ]
    assert len(names) > 10
    return {name: np.asarray(reader.get_tensor(name)).tobytes() for name in names}


def test_what_a_cluster_and_spark_cannot_do_is_refused(commands: Commands) -> None:
    for flags, message in (
        (
            ("pipelines/make_tfrecords.py", "--dataset=synthetic", "--output_dir=s3://bucket/data", "--engine=spark"),
            "error: --engine=spark reads and writes mounted folders. Received: s3://bucket/data",
        ),
        (
            ("train.py", "--data_dir=none", "--model_dir=s3://bucket/m", "--strategy=multi_worker_mirrored"),
            "error: A cluster needs a --model_dir that is mounted. Received: s3://bucket/m",
        ),
    ):
        assert message in commands.run(*flags, code=2)


def test_google_cloud_storage(gcs: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs)
    monkeypatch.setenv("BERT4REC_TF_STORE_CACHE", str(tmp_path / "cache"))
    here, there = write_log(tmp_path, "gs://bucket")
    settings = {"data": {"max_seq_length": 12, "num_negatives": 5, "num_shards": 3}}
    for seed in (1, 2, 3):
        settings["data"]["seed"] = seed
        bert4rec_tf.build_records(there, "gs://bucket/data", settings, overwrite=seed > 1)
    bert4rec_tf.build_records(here, tmp_path / "data", settings)
    assert files_in(local_records("gs://bucket/data")) == files_in(tmp_path / "data")
    assert len(Store.open("gs://bucket/data").folders()) == 2
    with working_directory("gs://bucket/model") as work:
        for step in (1, 2, 3):
            folder = work.directory / f"checkpoints/latest/ckpt-{step}"
            folder.mkdir(parents=True)
            for name in ("state.index", "state.data-00000-of-00001"):
                (folder / name).write_bytes(bytes([step]) * 100)
            (work.directory / "config.json").write_text("{}")
            work.check()
            shutil.rmtree(folder.with_name(f"ckpt-{step - 1}"), ignore_errors=True)
    copy = fetch_model("gs://bucket/model")
    assert sorted(files_in(copy)) == [
        "checkpoints/latest/ckpt-3/state.data-00000-of-00001",
        "checkpoints/latest/ckpt-3/state.index",
        "config.json",
    ]
