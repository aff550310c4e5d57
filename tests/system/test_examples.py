"""The examples run as they are: the Python script, the nightly job with its failures, and the notebook."""

import fcntl
import json
import os
import pathlib
import random
import subprocess
import sys
from typing import Any

import pytest

from tests.support.command_line import ROOT, run

EXAMPLES = ROOT / "examples"
NOTEBOOK = EXAMPLES / "movielens.ipynb"
ML_100K = ROOT.parent / "shared/data/ml-100k"
DAY = 86_400
FIRST_DAY = 1_767_225_600  # 2026-01-01
CONFIG: dict[str, dict[str, Any]] = {
    "data": {"max_seq_length": 12, "min_user_events": 3, "num_shards": 2},
    "masking": {"duplicate_factor": 0, "last_item_instances": 1},
    "model": {"attention": "causal", "hidden_size": 16, "num_layers": 1, "layer_norm": "pre"},
    "training": {"num_steps": 60, "batch_size": 32, "num_length_buckets": 1, "learning_rate": 0.01, "warmup_steps": 5,
                 "steps_per_epoch": 30, "jit_compile": False},
}  # fmt: skip


@pytest.mark.slow
def test_the_python_script_recommends_better_than_popularity() -> None:
    pytest.importorskip("pandas", reason="pandas is installed on Python 3.11 and later")
    rows = [line.split() for line in run(EXAMPLES / "python_api.py").splitlines()]
    (scores,) = (row[1:] for row in rows if row[:1] == ["ndcg@10"])
    popularity, model = map(float, scores)
    assert model > 2 * popularity


def nightly_job(
    directory: pathlib.Path, night: str, *, code: int = 0, config: str = "config.json", **variables: str
) -> str:
    """Runs the job of a night in `directory`, with the checkout's scripts; gives what it printed."""
    settings = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, "NIGHT": night, **variables}
    command = ["bash", str(EXAMPLES / "nightly_job.sh"), "logs/*.csv", "work", "exports", config]
    done = subprocess.run(
        command, cwd=directory, env=os.environ | settings, capture_output=True, text=True, timeout=600, check=False
    )
    printed = done.stdout + done.stderr
    assert done.returncode == code, printed
    assert "Traceback" not in printed
    return printed


def write_log(path: pathlib.Path, first_day: int, last_day: int) -> None:
    """One event a user and day; each user walks along a ring of 40 items."""
    draw = random.Random(1)
    starts = [draw.randrange(40) for _ in range(200)]
    rows = [
        f"u{user},i{(start + day) % 40},{FIRST_DAY + day * DAY + user}\n"
        for day in range(first_day, last_day)
        for user, start in enumerate(starts)
    ]
    path.parent.mkdir(exist_ok=True)
    path.write_text("user_id,item_id,timestamp\n" + "".join(rows))


def versions(directory: pathlib.Path) -> list[str]:
    return sorted(path.name for path in (directory / "exports").glob("[0-9]*"))


def test_the_nightly_job_stops_or_continues_at_each_failure(tmp_path: pathlib.Path) -> None:
    stub = tmp_path / "python"  # prints the command instead of running it, and fails for the script in $FAILS
    stub.write_text('#!/bin/sh\necho "$(basename "$1") $*"\n[ "$(basename "$1")" != "$FAILS" ]\n')
    stub.chmod(0o755)
    latest = tmp_path / "work/latest"

    def job(night: str, fails: str = "", code: int = 0) -> tuple[list[str], str]:
        printed = nightly_job(tmp_path, night, code=code, PYTHON=str(stub), FAILS=fails)
        called = [line.split()[0] for line in printed.splitlines() if line.split()[0].endswith(".py")]
        return called, printed

    every = ["make_tfrecords.py", "train.py", "evaluate.py", "export.py"]
    called, printed = job("2026-01-01", fails="make_tfrecords.py", code=1)
    assert called == every[:1]
    assert "the records were not built" in printed
    called, printed = job("2026-01-01", fails="evaluate.py")
    assert called == every
    assert "the evaluation failed; the job continues" in printed
    assert "--train_since" not in printed
    assert "--warm_start_from" not in printed
    assert str(latest.readlink()) == "nights/2026-01-01"
    assert job("2026-01-01") == ([], "nightly_job 2026-01-01: published already; nothing to do\n")

    called, printed = job("2026-01-02", fails="train.py", code=1)
    assert called == every[:2]
    assert "--train_since=2025-12-19" in printed
    assert "--warm_start_from=work/latest/model" in printed
    assert "the training did not finish" in printed
    called, printed = job("2026-01-02", fails="export.py", code=1)
    assert called == every
    assert "the model was not published" in printed
    assert str(latest.readlink()) == "nights/2026-01-01"
    with (tmp_path / "work/.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        called, printed = job("2026-01-02", code=1)
    assert called == []
    assert "another run is at work" in printed
    for day in range(2, 11):
        job(f"2026-01-{day:02}")
    assert sorted(path.name for path in latest.parent.glob("nights/*")) == [f"2026-01-{day:02}" for day in range(4, 11)]


def test_the_nightly_job_recommends_to_all_users_until_that_is_done(tmp_path: pathlib.Path) -> None:
    stub = tmp_path / "python"  # prints the command; recommend.py finishes its directory unless it is to fail
    stub.write_text(
        """#!/bin/sh
echo "$(basename "$1") $*"
[ "$(basename "$1")" != "$FAILS" ] || exit 2
for flag in "$@"; do
  output=${flag#--output=}
  case "$flag" in --output=*/2026-*) mkdir -p "$output"; touch "$output/_SUCCESS";; esac
done
"""
    )
    stub.chmod(0o755)
    variables = {"PYTHON": str(stub), "RECOMMENDATIONS": "for all", "LIMITS": "limits.json"}

    def recommended(printed: str) -> list[str]:
        return [line.split("recommend.py ", 2)[2] for line in printed.splitlines() if line.startswith("recommend.py")]

    printed = nightly_job(tmp_path, "2026-01-01", FAILS="", **variables)
    flags = "--export_dir=exports --input=logs/*.csv --output=for all/2026-01-01 --limits=limits.json"
    assert recommended(printed) == [flags]
    printed = nightly_job(tmp_path, "2026-01-02", code=1, FAILS="recommend.py", **variables)
    assert "the model is published, but the recommendations are not finished" in printed
    printed = nightly_job(tmp_path, "2026-01-02", FAILS="", **variables)
    (flags,) = recommended(printed)
    assert "--output=for all/2026-01-02 --previous=for all/2026-01-01" in flags
    assert "published already" in printed
    assert "train.py" not in printed
    assert not recommended(nightly_job(tmp_path, "2026-01-03", FAILS="", PYTHON=str(stub)))


@pytest.mark.slow
def test_the_nightly_job_publishes_each_night_once(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    harmful = CONFIG["training"] | {"learning_rate": 0.5, "steps_per_epoch": 60}
    (tmp_path / "harmful.json").write_text(json.dumps(CONFIG | {"training": harmful}))
    latest = tmp_path / "work/latest"

    assert "the records were not built; the served version stays" in nightly_job(tmp_path, "2026-01-21", code=1)
    write_log(tmp_path / "logs/a.csv", 0, 20)
    printed = nightly_job(tmp_path, "2026-01-21")
    assert "old windows left out" not in printed, "the first night trains on the whole log"
    assert "nightly_job 2026-01-21: published\n" in printed
    assert str(latest.readlink()) == "nights/2026-01-21"
    first = versions(tmp_path)
    assert len(first) == 1
    assert (latest / "metrics.json").is_file()
    assert (latest / "report.html").is_file()

    assert "published already; nothing to do" in nightly_job(tmp_path, "2026-01-21")
    assert versions(tmp_path) == first

    write_log(tmp_path / "logs/b.csv", 20, 24)
    refused = nightly_job(tmp_path, "2026-01-25", code=1, config="harmful.json")
    assert "old windows left out" in refused
    assert "starting from a trained model" in refused
    assert "the model was not published; the served version stays" in refused
    assert versions(tmp_path) == first
    assert str(latest.readlink()) == "nights/2026-01-21"

    published = nightly_job(tmp_path, "2026-01-26")
    assert "compared with the served model" in published
    assert len(versions(tmp_path)) == 2
    assert str(latest.readlink()) == "nights/2026-01-26"


def test_the_nightly_job_names_its_arguments() -> None:
    done = subprocess.run(["bash", EXAMPLES / "nightly_job.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "usage: nightly_job.sh LOG WORK_DIR EXPORT_DIR CONFIG" in done.stderr


def test_the_notebook_is_stored_with_its_outputs() -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    text = json.dumps(outputs)
    assert "<iframe srcdoc=" in text, "the report"
    assert "/tmp/" not in text
    assert str(ROOT) not in text


@pytest.mark.slow
@pytest.mark.parametrize(
    "data",
    [
        "synthetic",
        pytest.param("ml-100k", marks=pytest.mark.skipif(not ML_100K.exists(), reason=f"{ML_100K} is absent")),
    ],
)
def test_the_notebook_runs(data: str, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs requirements-dev.txt, on Python 3.11 and later")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("ML_100K", str(ML_100K if data == "ml-100k" else tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    events = {"synthetic": "1,000 users, 300 items", "ml-100k": "100,000 events of 943 users, 1,682 items"}
    assert events[data] in code[1].outputs[0]["text"]
    table = next(cell.outputs[-1]["data"]["text/plain"] for cell in code if "evaluations = {" in cell.source)
    (scores,) = (line.split()[1:] for line in table.splitlines() if line.startswith("ndcg@10"))
    popularity, model = map(float, scores)
    assert model > 1.2 * popularity
