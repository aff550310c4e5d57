"""`search.py` as users run it: it finds settings, and goes on after a kill."""

import json
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tests.support.command_line import ROOT, run

optuna = pytest.importorskip("optuna", reason="optuna is an extra: pip install -r requirements-search.txt")
SPACE = {"training.learning_rate": {"low": 0.001, "high": 0.05, "log": True}, "model.hidden_size": {"choices": [8, 16]}}
SHORT = [
    "--set=training.num_steps=40", "--set=training.steps_per_epoch=10", "--set=training.jit_compile=false",
    "--set=training.batch_size=16", "--set=model.num_layers=1", "--set=model.dropout=0.1",
    "--set=training.learning_rate=0.0125",
]  # fmt: skip


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("search") / "data"
    log = "--dataset=synthetic:num_users=100,num_items=30,num_themes=3,min_events=4,max_events=9"
    run("pipelines/make_tfrecords.py", log, "--config=auto", "--set=data.num_negatives=5", f"--output_dir={path}")
    (path.parent / "space.json").write_text(json.dumps(SPACE))
    return path


def command(data_dir: pathlib.Path, study_dir: pathlib.Path, *flags: str) -> list[str]:
    space = data_dir.parent / "space.json"
    return ["search.py", f"--data_dir={data_dir}", f"--study_dir={study_dir}", f"--space={space}", *SHORT, *flags]


@pytest.mark.slow
def test_mistakes_end_in_one_line(data_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    printed = run(*command(data_dir, tmp_path, "--trials=1"), code=2)
    assert "--study_dir must be new, empty or made by search.py" in printed
    printed = run(*command(data_dir, tmp_path / "new", "--time_limit_minutes=0"), code=2)
    assert "--time_limit_minutes must be above 0" in printed
    printed = run("search.py", "--data_dir=absent", f"--study_dir={tmp_path / 'new'}", code=2)
    assert "absent" in printed


@pytest.mark.slow
def test_a_search_goes_on_after_a_kill(data_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    study_dir = tmp_path / "study"
    process = subprocess.Popen([sys.executable, *command(data_dir, study_dir, "--trials=3", "--jobs=2")], cwd=ROOT)
    while not list(study_dir.glob("trials/*/history.jsonl")):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    printed = run(*command(data_dir, study_dir, "--trials=3"))
    assert "3 trials finished, 0 were given up early, 0 failed" in printed
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{study_dir / 'study.db'}")
    assert study.trials[0].params["training.learning_rate"] == 0.0125, "the first trial has the shared settings"
    best = json.loads((study_dir / "best.json").read_text())
    assert 0.001 <= best["training"]["learning_rate"] <= 0.05
    assert best["training"]["num_steps"] == 40
    assert "Search" in (study_dir / "study.html").read_text()
    assert len(list(study_dir.glob("trials/*/checkpoints"))) == 1, "only the best trial keeps its model"
    assert "3 trials finished" in run(*command(data_dir, study_dir, "--trials=3")), "there is nothing left to do"
    (value,) = [line.split()[3] for line in printed.splitlines() if line.startswith("best validation")]
    config = f"--config={study_dir / 'best.json'}"
    printed = run("train.py", f"--data_dir={data_dir}", f"--model_dir={tmp_path / 'model'}", config)
    assert f"best validation NDCG@10 {value.rstrip(':')}" in printed, "the settings give the same model again"
    (data_dir.parent / "space.json").write_text(json.dumps(SPACE | {"model.num_heads": {"choices": [1, 2]}}))
    try:
        printed = run(*command(data_dir, study_dir, "--trials=4"), code=2)
    finally:
        (data_dir.parent / "space.json").write_text(json.dumps(SPACE))
    assert "begun with other space" in printed


@pytest.mark.slow
def test_a_search_whose_first_trials_all_fail_is_ended(data_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "space.json").write_text(json.dumps({"model.hidden_size": {"choices": [15, 33]}}))
    flags = [f"--data_dir={data_dir}", f"--study_dir={tmp_path / 'study'}", f"--space={tmp_path / 'space.json'}"]
    printed = run("search.py", *flags, "--set=model.num_heads=2", code=2)
    assert "A search needs a trial that ends. Received: 3 failed trials, the last one: `hidden_size` must be" in printed
