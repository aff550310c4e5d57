"""The report's learning curves, from history.jsonl of a model directory."""

import json
import math
import pathlib
from typing import Any

from bert4rec_tf.model_dir import HISTORY_FILE
from bert4rec_tf.report.charts import Chart, Measured, curve
from bert4rec_tf.report.evaluated_model import Evaluation
from tfrecords.errors import InputError


def read_history(model_dir: str | pathlib.Path) -> list[dict[str, Any]]:
    """The validations of a run, oldest first; empty if the run has no history.

    Raises:
        InputError: a line is not a validation; names the file and the line.
    """
    path = pathlib.Path(model_dir) / HISTORY_FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            _points(entry)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}, line {number} must hold a validation. Received: {line[:80]!r} ({error!r}). "
                "Fix: restore the file, or remove it for a report without curves"
            ) from None
        entries.append(entry)
    return entries


def learning_curves(history: list[dict[str, Any]], protocols: dict[str, str], best_step: int) -> list[Chart]:
    """Charts of the loss and of NDCG@10 by both protocols, each over steps and over minutes.

    Args:
        history: from `read_history`, at least one entry.
        protocols: the candidates of "full" and "sampled", in words.
        best_step: the step of the evaluated weights, to mark.
    """
    minutes_of = {entry["step"]: entry["elapsed_seconds"] / 60 for entry in history}
    axes = (
        ("steps", [entry["step"] for entry in history], best_step if best_step in minutes_of else None),
        ("minutes", [entry["elapsed_seconds"] / 60 for entry in history], minutes_of.get(best_step)),
    )
    charts = []
    curves = [*((name, f"validation NDCG@10, {candidates}") for name, candidates in protocols.items())]
    curves.append(("loss", "loss"))
    for x_label, x_values, marked in axes:
        for name, label in curves:
            rows = [_points(entry)[name] for entry in history]
            finite = [(x, row) for x, row in zip(x_values, rows, strict=True) if math.isfinite(row.value)]
            if finite:
                alt_text = f"{label} by {x_label}"
                drawn = curve([x for x, _ in finite], [row for _, row in finite], x_label, alt_text, marked)
                charts.append(Chart(f"{label}, by {x_label}", drawn))
    return charts


def _points(entry: dict[str, Any]) -> dict[str, Measured]:
    label = f"step {int(entry['step']):,}, {float(entry['elapsed_seconds']) / 60:.1f} min"
    # A run that resumed at this validation measured no loss before it.
    loss = math.nan if entry["loss"] is None else float(entry["loss"])
    found = {"loss": Measured(label, loss, loss, loss)}
    for protocol in ("full", "sampled"):
        metrics = entry["validation"][protocol]
        numbers = [metrics["ndcg@10"], *metrics["ci95"]["ndcg@10"]]  # null if no user has enough negatives
        value, low, high = (math.nan if number is None else float(number) for number in numbers)
        found[protocol] = Measured(label, value, low, high)
    return found


def learning_content(history: list[dict[str, Any]], evaluation: Evaluation) -> dict[str, Any]:
    """The curves of the loss and the metrics, for `templates/learning.html`."""
    step = evaluation.trained.state["step"]
    charts = learning_curves(history, evaluation.protocols(), step) if history else []
    return {"validations": len(history), "step": step, "charts": charts}
