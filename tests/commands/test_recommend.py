"""`recommend.py` as users run it: files that other programs read, plain errors, and the same bytes after kills."""

import hashlib
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

import bert4rec_tf
from bert4rec_tf.serving.export import ExportOptions
from pipelines.sources.synthetic import MarkovLog
from tests.support.command_line import ROOT, run
from tests.support.short_run import build, train_here

SOME_USERS = "--dataset=synthetic:num_users=300,num_items=12,num_themes=3,min_events=5,max_events=9"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("recommend")
    train_here(build(path / "data"), path / "model")
    return path


def hashes(output: pathlib.Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in output.iterdir()}


@pytest.mark.slow
def test_the_files_are_a_table_for_every_reader(directory: pathlib.Path) -> None:
    output = directory / "out"
    model = f"--model_dir={directory / 'model'}"
    printed = run("recommend.py", model, SOME_USERS, f"--output={output}", "--top_k=3")
    assert "300 users, 0 of them without a known item" in printed
    assert f"wrote {output}" in printed
    rows = pq.read_table(output).to_pylist()
    assert len(rows) == 300
    assert all(len(row["item_ids"]) == len(row["scores"]) == 3 for row in rows)
    counts = json.loads((output / "_metadata.json").read_text())["counts"]
    assert (counts["users"], counts["bad_rows"]) == (300, 0)
    before = hashes(output)
    assert "300 of them were there already" in run("recommend.py", model, SOME_USERS, f"--output={output}", "--top_k=3")
    assert hashes(output) == before
    printed = run("recommend.py", model, f"--data_dir={directory / 'data'}", f"--output={directory / 'of_data'}")
    assert "30 users" in printed


MISTAKES = [
    ([SOME_USERS], "error: Give either --model_dir or --export_dir. Received: --model_dir=None, --export_dir=None"),
    (["--model_dir=m", "--export_dir=e"], "Received: --model_dir=m, --export_dir=e"),
    (["--model_dir=m"], "error: Give either a log, by --input or --dataset, or --data_dir. Received: none"),
    (["--model_dir=m", "--data_dir=d", SOME_USERS], "or --data_dir. Received: both"),
    (["--model_dir=m", "--data_dir=d", "--engine=spark"], "error: --engine sorts a log. Received: --engine=spark"),
    (["--model_dir=absent", SOME_USERS], "error: `directory` must be a model directory of train"),
    (["--model_dir=MODEL", "--input=absent.csv"], "error: --input"),
    (
        ["--model_dir=MODEL", SOME_USERS, "--request_time=soon"],
        "--request_time must be an ISO 8601 time or seconds",
    ),
    (["--model_dir=ftp://bucket/m", SOME_USERS], "error: --model_dir must be a path on this machine"),
]
# Runs the command for each list of flags in one process, since TensorFlow takes seconds to start.
TRY_ALL = """
import json, sys
from absl import flags
from bert4rec_tf.commands import recommend
for given in json.loads(sys.argv[1]):
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["recommend.py", *given])
    try:
        recommend.main(["recommend.py"])
    except SystemExit as ended:
        print("exit code", ended.code, file=sys.stderr, flush=True)
"""


def test_mistakes_end_in_one_line(directory: pathlib.Path, tmp_path: pathlib.Path) -> None:
    output = f"--output={tmp_path / 'out'}"
    given = [[flag.replace("MODEL", str(directory / "model")) for flag in flags] + [output] for flags, _ in MISTAKES]
    printed = run("-c", TRY_ALL, json.dumps(given))
    lines = [line for line in printed.splitlines() if line.startswith(("error: ", "exit code "))]
    assert lines[1::2] == ["exit code 2"] * len(MISTAKES)
    for line, (_, message) in zip(lines[::2], MISTAKES, strict=True):
        assert message in line
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_kills_change_no_byte(directory: pathlib.Path, tmp_path: pathlib.Path) -> None:
    command = ["recommend.py", f"--model_dir={directory / 'model'}", SOME_USERS.replace("300", "20000")]
    run(*command, f"--output={tmp_path / 'whole'}")
    (tmp_path / "killed").mkdir()
    for signal_number, parts in ((signal.SIGKILL, 1), (signal.SIGTERM, 3), (signal.SIGKILL, 6)):
        process = subprocess.Popen(
            [sys.executable, *command, f"--output={tmp_path / 'killed'}"], cwd=ROOT, stderr=subprocess.DEVNULL
        )
        while len(list((tmp_path / "killed").glob("part-*"))) < parts:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        process.send_signal(signal_number)
        process.wait()
        assert not (tmp_path / "killed/_SUCCESS").exists()
    run(*command, f"--output={tmp_path / 'killed'}")
    assert hashes(tmp_path / "killed") == hashes(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "whole"]


@pytest.mark.slow
def test_ten_thousand_users_get_what_the_exported_version_answers(
    directory: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    bert4rec_tf.export(directory / "model", tmp_path / "export", ExportOptions(top_k=5))
    log = MarkovLog(num_users=10_000, num_items=12, num_themes=3, min_events=5, max_events=9)
    flags = ["--dataset=synthetic:num_users=10000,num_items=12,num_themes=3,min_events=5,max_events=9", "--top_k=5"]
    run("recommend.py", f"--export_dir={tmp_path / 'export'}", f"--output={tmp_path / 'out'}", *flags)
    found = {row["user_id"]: row for row in pq.read_table(tmp_path / "out").to_pylist()}
    histories: dict[str, list[tuple[float, str]]] = {}
    for event in log.interactions().to_pylist():
        histories.setdefault(event["user_id"], []).append((event["timestamp"], event["item_id"]))
    assert found.keys() == histories.keys()
    users = list(histories)
    recommender = bert4rec_tf.Recommender.load(tmp_path / "export")
    answers = recommender.recommend([[item for _, item in sorted(histories[user])] for user in users], k=5)
    assert answers.item_ids == [found[user]["item_ids"] for user in users]
    for user, scores in zip(users, answers.scores, strict=True):
        np.testing.assert_allclose(found[user]["scores"], scores, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="no java is on the PATH")
def test_spark_writes_the_same_bytes(directory: pathlib.Path, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("pyspark", reason="pyspark is an extra: pip install -r requirements-spark.txt")
    (tmp_path / "exclude.csv").write_text("user_id,item_id\nuser-00001,item-0003\n")
    flags = [f"--model_dir={directory / 'model'}", SOME_USERS, f"--exclude={tmp_path / 'exclude.csv'}"]
    for engine in ("duckdb", "spark"):
        run("recommend.py", *flags, f"--engine={engine}", "--num_workers=2", f"--output={tmp_path / engine}")
    assert hashes(tmp_path / "spark") == hashes(tmp_path / "duckdb")
