"""The MLflow run of a model directory: settings, curves, metrics, report and exported model."""

import contextlib
import json
import os
import pathlib
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from tqdm import tqdm

from bert4rec_tf import __version__
from bert4rec_tf.code_version import git_state
from bert4rec_tf.config import Config
from bert4rec_tf.evaluation.metrics import METRICS
from bert4rec_tf.serving.export import METADATA_FILE
from tfrecords.errors import InputError
from tfrecords.files import write_whole

# MLflow reads these when it is imported. Its own values, 7 retries of 120 seconds, would hold a training up for minutes
# at each validation while a server is down.
for _name, _value in {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}.items():
    os.environ.setdefault(_name, _value)

try:
    import mlflow
    from mlflow.entities import LoggedModelOutput, Metric, Param, RunTag
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
except ImportError:
    raise InputError(
        "--tracker=mlflow needs MLflow. Received: an environment without it. Fix: pip install -r "
        "requirements-mlflow.txt, on Python 3.11 or later"
    ) from None

RUN_FILE = "mlflow_run.json"
Status = Literal["FINISHED", "KILLED", "FAILED"]
_EXPERIMENT = "bert4rec_tf"
_LOADER = "bert4rec_tf.tracking.saved_model"
_STORE = "mlflow"  # the folder of the local store, beside the model directory
_RETRY_SECONDS = 60.0  # after a call that failed, nothing is sent for this long
_MAX_METRICS, _MAX_PARAMS = 1000, 100  # of one call, MLflow's limits
_Result = TypeVar("_Result")


class MlflowRun:
    """The run of a model directory, in the store that MLFLOW_TRACKING_URI names, or else in a local one.

    The local store is the folder `mlflow` beside the model directory: a SQLite file, because MLflow 3.17 refuses its
    file store, and a folder of artefacts. The id of the run is kept in the model directory, so that training,
    evaluation and export find the same run again.

    A store that cannot be reached never ends a training: each failure is a warning on stderr. Points of curves are
    kept and sent later; at the end of the process those that could not be sent are lost.

    Args:
        model_dir: the model directory. It must exist when something is first sent.
        config: the settings of the run.
        manifest_sha256: of the records that the model is trained on.

    Raises:
        InputError: MLflow is not installed; raised by the import of this module.
    """

    def __init__(self, model_dir: str | pathlib.Path, config: Config, manifest_sha256: str):
        self._model_dir = pathlib.Path(model_dir).absolute()
        self._params = {
            f"{section}.{field}": str(value)
            for section, fields in config.to_dict().items()
            for field, value in fields.items()
        } | {"records.manifest_sha256": manifest_sha256}
        self._tags = {"model": config.model.model_name, "bert4rec_tf.version": __version__}
        self._tags |= {f"bert4rec_tf.{name}": str(value) for name, value in git_state().items()}
        self._waiting: list[Metric] = []
        self._sent: dict[str, dict[int, float]] = {}  # name of a metric -> step -> value
        self._run_id: str | None = None
        self._retry_at = 0.0
        self._is_local = not mlflow.is_tracking_uri_set()
        local = f"sqlite:///{self._model_dir.parent / _STORE / 'mlflow.db'}"
        self._uri = local if self._is_local else mlflow.get_tracking_uri()

    def start(self) -> None:
        """Begins the run, or continues it, as running."""
        self._attempt("begin", lambda run_id: self._client.update_run(run_id, status="RUNNING"))

    def add_points(self, step: int, values: Mapping[str, float | None]) -> None:
        """Adds a point to each curve at this step; `send` sends them. A step that a curve has already is left out.

        Args:
            step: of the training.
            values: by name; "@" becomes "_at_", because MLflow refuses it. None is left out.
        """
        now = int(time.time() * 1000)
        known = {name: value for name, value in values.items() if value is not None}
        self._waiting += [Metric(name.replace("@", "_at_"), value, now, step) for name, value in known.items()]

    def send(self, replace: bool = False) -> None:
        """Sends the points that wait.

        Args:
            replace: whether a point goes out whose step has another value already; MLflow then shows the new one.
        """
        if self._waiting:
            self._attempt("add points to", lambda run_id: self._send_waiting(run_id, replace))

    def _send_waiting(self, run_id: str, replace: bool) -> None:
        left = []
        for metric in {(metric.key, metric.step): metric for metric in self._waiting}.values():
            known = self._sent.get(metric.key, {}).get(metric.step)
            if known is None or (replace and known != metric.value):
                left.append(metric)
        while left:
            now, left = left[:_MAX_METRICS], left[_MAX_METRICS:]
            self._client.log_batch(run_id, metrics=now)
            for metric in now:
                self._sent.setdefault(metric.key, {})[metric.step] = metric.value
        self._waiting.clear()

    def add_evaluation(self, split: str, metrics: Mapping[str, Any], report: pathlib.Path | None = None) -> None:
        """Adds the metrics of an evaluation, as a point of curves such as `test_full/ndcg_at_10` and as an artefact.

        Args:
            split: that was evaluated.
            metrics: the content of metrics.json.
            report: a page to add as an artefact, or None.
        """
        values = {f"{split}_{part}/{name}": metrics[part][name] for part in ("full", "sampled") for name in METRICS}
        self.add_points(metrics["model"]["training"]["step"], values)
        self.send(replace=True)
        name = f"{split}_metrics.json"
        self._attempt(f"add {name} to", lambda run_id: self._client.log_dict(run_id, dict(metrics), name))
        if report is not None:
            self._attempt(f"add {report.name} to", lambda run_id: self._client.log_artifact(run_id, str(report)))

    @classmethod
    def of_version(cls, model_dir: str | pathlib.Path, version: pathlib.Path) -> "MlflowRun":
        """The run of a model directory that was exported.

        Args:
            model_dir: the model directory.
            version: the exported version.
        """
        metadata = json.loads((version / METADATA_FILE).read_text(encoding="utf-8"))
        return cls(model_dir, Config.from_dict(metadata["config"], METADATA_FILE), metadata["manifest_sha256"])

    def add_model(self, version: pathlib.Path) -> None:
        """Adds an exported version as a model with its signature, which `mlflow.pyfunc.load_model` loads.

        Args:
            version: the directory of the SavedModel.
        """

        def add(run_id: str) -> None:
            import mlflow.pyfunc  # it needs pandas
            import numpy as np
            from mlflow.models import ModelSignature
            from mlflow.types import ColSpec, Schema, TensorSpec

            text, number = np.dtype("str"), np.dtype("float32")
            outputs: list[ColSpec | TensorSpec] = [
                TensorSpec(text, (-1, -1), "item_ids"),
                TensorSpec(number, (-1, -1), "scores"),
            ]
            signature = ModelSignature(Schema([TensorSpec(text, (-1, -1), "item_ids")]), Schema(outputs))
            step = json.loads((version / METADATA_FILE).read_text(encoding="utf-8"))["training"]["step"]
            experiment = self._client.get_run(run_id).info.experiment_id
            # By the client, because `mlflow.pyfunc.log_model` changes the status of the run and needs global state.
            model = self._client.create_logged_model(
                experiment, "model", source_run_id=run_id, tags={"version": version.name}
            )
            with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*input example.*")  # which would run the model
                mlflow.pyfunc.save_model(
                    f"{folder}/model",
                    loader_module=_LOADER,
                    data_path=str(version),
                    signature=signature,
                    pip_requirements=[f"bert4rec_tf=={__version__}"],  # otherwise MLflow runs the model to find them
                )
                self._client.log_model_artifacts(model.model_id, f"{folder}/model")
            self._client.finalize_logged_model(model.model_id, "READY")
            self._client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])

        self._attempt(f"add version {version.name} to", add)

    def end(self, status: Status) -> None:
        """Sends what waits, and gives the run its final status."""
        self._retry_at = 0.0
        self.send()
        self._attempt("end", lambda run_id: self._client.set_terminated(run_id, status))
        if self._waiting:
            self._warn(f"{len(self._waiting):,} points of the MLflow run were not sent")

    def _attempt(self, what: str, call: Callable[[str], _Result]) -> None:
        """Makes a call with the id of the run; a failure is a warning, and blocks further calls for a minute."""
        if time.monotonic() < self._retry_at:
            return
        try:
            if self._run_id is None:
                self._run_id = self._open_run()
            call(self._run_id)
        except Exception as error:  # whatever store, network and MLflow raise: a training goes on without them
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            reason = " ".join(str(error).split())[:300]
            self._warn(f"could not {what} the MLflow run in {_without_password(self._uri)} ({reason})")

    def _open_run(self) -> str:
        """The id of the model directory's run, a new one if there is none in this store."""
        if self._is_local:
            (self._model_dir.parent / _STORE).mkdir(exist_ok=True)
        self._client = MlflowClient(self._uri)
        path = self._model_dir / RUN_FILE
        if path.is_file():
            run_id = json.loads(path.read_text(encoding="utf-8"))["run_id"]
            try:
                self._continue_run(run_id)
                return run_id
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
            self._warn(f"this MLflow store has no run {run_id}, which {path} names; a new run begins")
        name = os.environ.get("MLFLOW_RUN_NAME") or self._model_dir.name
        run_id = self._client.create_run(self._experiment(), run_name=name, tags=self._tags).info.run_id
        write_whole(path, json.dumps({"run_id": run_id}) + "\n")
        self._log_params(run_id, self._params)
        return run_id

    def _continue_run(self, run_id: str) -> None:
        """Learns what the run has. Parameters cannot be changed in MLflow, so a new value becomes a tag."""
        data = self._client.get_run(run_id).data
        for name in data.metrics:
            points = self._client.get_metric_history(run_id, name)
            self._sent[name] = {point.step: point.value for point in points}
        self._log_params(run_id, {name: value for name, value in self._params.items() if name not in data.params})
        changed = {name: value for name, value in self._params.items() if data.params.get(name, value) != value}
        tags = self._tags | {f"changed.{name}": value for name, value in changed.items()}
        self._client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def _log_params(self, run_id: str, values: Mapping[str, str]) -> None:
        left: Sequence[Param] = [Param(name, value) for name, value in values.items()]
        while left:
            now, left = left[:_MAX_PARAMS], left[_MAX_PARAMS:]
            self._client.log_batch(run_id, params=now)

    def _experiment(self) -> str:
        """The id of the experiment that MLFLOW_EXPERIMENT_ID or MLFLOW_EXPERIMENT_NAME names, or of our own."""
        if given := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return given
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
        artifacts = (self._model_dir.parent / _STORE / "artifacts").as_uri() if self._is_local else None
        if self._client.get_experiment_by_name(name) is None:
            with contextlib.suppress(MlflowException):  # another process makes it at the same time
                return self._client.create_experiment(name, artifact_location=artifacts)
        found = self._client.get_experiment_by_name(name)
        if found is None:
            raise RuntimeError(f"no experiment {name}")
        return found.experiment_id

    @staticmethod
    def _warn(text: str) -> None:
        tqdm.write(f"warning: {text}", file=sys.stderr)


def _without_password(uri: str) -> str:
    """The address without the user and the password that it may hold."""
    scheme, found, rest = uri.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if found else uri
