"""The MLflow run of a model directory: one run, each point once, and no failure that ends a training."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from bert4rec_tf.config import Config
from tests.support.command_line import ROOT, run

pytest.importorskip("mlflow", reason="MLflow is an extra: pip install -r requirements-mlflow.txt")

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from bert4rec_tf.tracking import mlflow_run
from bert4rec_tf.tracking.mlflow_run import MlflowRun

CONFIG = Config()
SHORT = [
    "--set=training.num_steps=400", "--set=training.steps_per_epoch=40", "--set=training.jit_compile=false",
    "--set=training.batch_size=16", "--set=model.num_layers=1", "--set=model.hidden_size=8", "--set=model.num_heads=1",
    "--tracker=mlflow",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _without_settings_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A model directory beside the local store that all fast tests share, because a new store takes seconds."""
    path = tmp_path_factory.mktemp("models") / "first"
    path.mkdir()
    return path


def run_of(model_dir: pathlib.Path) -> tuple[MlflowClient, Run]:
    client = MlflowClient(f"sqlite:///{model_dir.parent / 'mlflow' / 'mlflow.db'}")
    run_id = json.loads((model_dir / "mlflow_run.json").read_text())["run_id"]
    return client, client.get_run(run_id)


def points(model_dir: pathlib.Path, name: str) -> list[tuple[int, float]]:
    client, found = run_of(model_dir)
    return [(point.step, point.value) for point in client.get_metric_history(found.info.run_id, name)]


def test_a_second_process_continues_the_run(model_dir: pathlib.Path, capfd: pytest.CaptureFixture[str]) -> None:
    first = MlflowRun(model_dir, CONFIG, "abc")
    first.start()
    first.add_points(50, {"loss": 4.0, "validation_full/ndcg@10": None})
    first.add_points(100, {"loss": 3.0, "validation_full/ndcg@10": 0.2})
    first.send()  # and then it is killed
    more = dataclasses.replace(CONFIG, training=dataclasses.replace(CONFIG.training, num_steps=7))
    second = MlflowRun(model_dir, more, "abc")
    second.start()
    second.add_points(100, {"loss": 3.1, "validation_full/ndcg@10": 0.2})
    second.add_points(150, {"loss": 2.0})
    second.end("KILLED")
    assert points(model_dir, "loss") == [(50, 4.0), (100, 3.0), (150, 2.0)]
    assert points(model_dir, "validation_full/ndcg_at_10") == [(100, 0.2)]
    client, found = run_of(model_dir)
    assert found.info.status == "KILLED"
    assert len(client.search_runs([found.info.experiment_id])) == 1
    assert found.data.params["records.manifest_sha256"] == "abc"
    assert found.data.params["model.hidden_size"] == str(CONFIG.model.hidden_size)
    assert found.data.params["training.num_steps"] == str(CONFIG.training.num_steps)
    assert found.data.tags["changed.training.num_steps"] == "7"
    assert "warning" not in capfd.readouterr().err


def test_an_evaluation_that_changes_nothing_adds_nothing(model_dir: pathlib.Path) -> None:
    other = model_dir.with_name("evaluated")
    other.mkdir(exist_ok=True)
    values = {"hr@1": 0.1, "hr@5": 0.2, "hr@10": 0.3, "ndcg@5": 0.1, "ndcg@10": 0.2, "mrr": 0.1}
    page = other / "report.html"
    page.write_text("<html>")
    for ndcg in (0.2, 0.2, 0.25):
        metrics = {"full": values | {"ndcg@10": ndcg}, "sampled": dict.fromkeys(values)}
        metrics["model"] = {"training": {"step": 60}}
        MlflowRun(other, CONFIG, "abc").add_evaluation("test", metrics, page)
    assert points(other, "test_full/ndcg_at_10") == [(60, 0.2), (60, 0.25)]
    assert points(other, "test_full/hr_at_10") == [(60, 0.3)]
    client, found = run_of(other)
    artefacts = {artefact.path for artefact in client.list_artifacts(found.info.run_id)}
    assert artefacts == {"report.html", "test_metrics.json"}
    assert "test_sampled/hr_at_10" not in found.data.metrics


def test_what_could_not_be_sent_is_sent_later(
    model_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    other = model_dir.with_name("interrupted")
    other.mkdir(exist_ok=True)
    tracker = MlflowRun(other, CONFIG, "abc")
    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "create_run", lambda *_, **__: 1 / 0)
        tracker.start()
    tracker.add_points(1, {"loss": 1.0})
    tracker.send()  # too soon after the failure
    assert not (other / "mlflow_run.json").exists()
    printed = capfd.readouterr().err
    assert printed.count("warning: could not begin the MLflow run") == 1
    later = time.monotonic() + 61
    monkeypatch.setattr(mlflow_run.time, "monotonic", lambda: later)
    tracker.send()
    assert points(other, "loss") == [(1, 1.0)]


def test_a_password_is_not_printed() -> None:
    assert mlflow_run._without_password("postgresql://me:secret@db:5432/x") == "postgresql://db:5432/x"
    assert mlflow_run._without_password("sqlite:////a/b.db") == "sqlite:////a/b.db"
    assert mlflow_run._without_password("databricks") == "databricks"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("tracked") / "data"
    log = "--dataset=synthetic:num_users=200,num_items=30,num_themes=3,min_events=4,max_events=9"
    run("pipelines/make_tfrecords.py", log, "--config=auto", "--set=data.num_negatives=5", f"--output_dir={path}")
    return path


@pytest.mark.slow
def test_a_killed_training_continues_its_run(data_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    model_dir = tmp_path / "models" / "killed"
    command = ["train.py", f"--data_dir={data_dir}", f"--model_dir={model_dir}", *SHORT]
    history, kills = model_dir / "history.jsonl", 0
    for validations in (2, 5):
        process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stderr=subprocess.DEVNULL)
        while not history.is_file() or len(history.read_text().splitlines()) < validations:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert kills == 2
    assert run_of(model_dir)[1].info.status == "RUNNING"
    run(*command)
    client, found = run_of(model_dir)
    assert found.info.status == "FINISHED"
    assert len(client.search_runs([found.info.experiment_id])) == 1
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    expected = [(line["step"], line["validation"]["full"]["ndcg@10"]) for line in lines]
    assert [step for step, _ in expected] == list(range(40, 401, 40))
    found_points = dict(points(model_dir, "validation_full/ndcg_at_10"))
    assert len(points(model_dir, "validation_full/ndcg_at_10")) == len(found_points)
    assert found_points == pytest.approx(dict(expected))
    steps = [step for step, _ in points(model_dir, "loss")]
    assert len(set(steps)) == len(steps) == 8, "one for each 50 steps"

    report, export_dir = tmp_path / "report.html", tmp_path / "exports"
    flags = [f"--model_dir={model_dir}", "--tracker=mlflow"]
    run("evaluate.py", f"--data_dir={data_dir}", f"--report={report}", *flags)
    run("export.py", f"--export_dir={export_dir}", *flags)
    client, found = run_of(model_dir)
    assert 0 < found.data.metrics["test_full/ndcg_at_10"] < 1
    assert "report.html" in {artefact.path for artefact in client.list_artifacts(found.info.run_id)}
    (exported,) = found.outputs.model_outputs
    import mlflow.pyfunc

    mlflow.set_tracking_uri(f"sqlite:///{model_dir.parent / 'mlflow' / 'mlflow.db'}")
    try:
        model = mlflow.pyfunc.load_model(f"models:/{exported.model_id}")
    finally:
        mlflow.set_tracking_uri(None)
    assert model.metadata.signature.inputs.input_names() == ["item_ids"]
    assert model.metadata.signature.outputs.input_names() == ["item_ids", "scores"]
    answer = model.predict({"item_ids": np.array([["1", "2"], ["", "3"]])})
    assert answer["item_ids"].shape == answer["scores"].shape == (2, 10)
    assert not (ROOT / "mlruns").exists()


@pytest.mark.slow
def test_a_server_that_is_down_ends_no_training(data_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    model_dir = tmp_path / "models" / "alone"
    command = [sys.executable, "train.py", f"--data_dir={data_dir}", f"--model_dir={model_dir}", *SHORT]
    environment = os.environ | {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning: could not begin the MLflow run in http://127.0.0.1:9" in done.stderr
    assert "points of the MLflow run were not sent" in done.stderr
    assert "best validation NDCG@10" in done.stdout
    assert "is trained already" in run(*command[1:]), "with the local store"
    assert len(points(model_dir, "validation_full/ndcg_at_10")) == 10, "history.jsonl has the validations"


@pytest.mark.slow
def test_mistakes_end_in_one_line(data_dir: pathlib.Path) -> None:
    printed = run("evaluate.py", "--baseline=popularity", f"--data_dir={data_dir}", "--tracker=mlflow", code=2)
    assert "--tracker=mlflow needs one model. Received: --baseline=popularity. Fix: give one --model_dir" in printed
