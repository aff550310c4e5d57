"""The curves of a run: TensorBoard's scalars, and the points of a tracker's run."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import tensorflow as tf

from bert4rec_tf.config import Config
from bert4rec_tf.evaluation.metrics import METRICS

Status = Literal["FINISHED", "KILLED", "FAILED"]


class Tracker(Protocol):
    """What a training needs of a tracker; `tracking.mlflow_run.MlflowRun` is one. No call raises."""

    def start(self) -> None:
        """Begins or continues the run."""

    def add_points(self, step: int, values: Mapping[str, float | None]) -> None:
        """Adds a point to each curve."""

    def send(self) -> None:
        """Sends the points that wait."""

    def end(self, status: Status) -> None:
        """Ends the run."""


MakeTracker = Callable[[pathlib.Path, Config, str], Tracker]


class Curves:
    """Writes the points of curves.

    Args:
        logs: the folder of TensorBoard's files.
        tracker: a second receiver, or None.
    """

    def __init__(self, logs: pathlib.Path, tracker: Tracker | None):
        self._tensorboard, self._tracker = tf.summary.create_file_writer(str(logs)), tracker

    def add(self, step: int, values: Mapping[str, float | None]) -> None:
        """Adds a point to each curve; None is left out."""
        with self._tensorboard.as_default(step=step):
            for name, value in values.items():
                if value is not None:
                    tf.summary.scalar(name.replace("@", "_at_"), value)
        if self._tracker is not None:
            self._tracker.add_points(step, values)

    def add_earlier_validation(self, entry: Mapping[str, Any]) -> None:
        """Gives the tracker a line of history.jsonl, which it may have missed while it could not be reached."""
        if self._tracker is not None:
            self._tracker.add_points(entry["step"], validation_points(entry["validation"]))

    def send(self) -> None:
        """Sends the tracker its points."""
        if self._tracker is not None:
            self._tracker.send()

    def close(self) -> None:
        """Closes TensorBoard's file."""
        self._tensorboard.close()


def validation_points(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """The points of a validation: `validation_full/ndcg@10` and so on."""
    return {f"validation_{protocol}/{name}": values[name] for protocol, values in metrics.items() for name in METRICS}
