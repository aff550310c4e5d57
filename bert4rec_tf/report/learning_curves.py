"""How training went: what history.jsonl of a model directory holds, and its curves."""

import json
import math
import pathlib
from typing import Any

from bert4rec_tf.model_dir import HISTORY_FILE
from bert4rec_tf.report.charts import Measured, curve
from bert4rec_tf.report.evaluated_model import Evaluation
from bert4rec_tf.report.html import Markup, chart_row, counted, element, together
from tfrecords.errors import InputError


def read_history(model_dir: str | pathlib.Path) -> list[dict[str, Any]]:
    """The validations of a run, oldest first; none where the run has no history.

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


def learning_curves(history: list[dict[str, Any]], protocols: dict[str, str], best_step: int) -> list[Markup]:
    """A figure for each of NDCG@10 by both protocols and the loss, over steps and over minutes.

    Args:
        history: from `read_history`, at least one.
        protocols: what "full" and "sampled" rank the target among.
        best_step: the step of the weights that were evaluated; marked.
    """
    minutes_of = {entry["step"]: entry["elapsed_seconds"] / 60 for entry in history}
    axes = (
        ("steps", [entry["step"] for entry in history], best_step if best_step in minutes_of else None),
        ("minutes", [entry["elapsed_seconds"] / 60 for entry in history], minutes_of.get(best_step)),
    )
    figures = []
    curves = [*((name, f"validation NDCG@10, {among}") for name, among in protocols.items()), ("loss", "loss")]
    for along, places, marked in axes:
        for name, says in curves:
            rows = [_points(entry)[name] for entry in history]
            kept = [(place, row) for place, row in zip(places, rows, strict=True) if math.isfinite(row.value)]
            if kept:
                drawn = curve([x for x, _ in kept], [row for _, row in kept], along, f"{says} by {along}", marked)
                figures.append(element("figure", element("figcaption", f"{says}, by {along}"), drawn))
    return figures


def _points(entry: dict[str, Any]) -> dict[str, Measured]:
    where = f"step {int(entry['step']):,}, {float(entry['elapsed_seconds']) / 60:.1f} min"
    # A run that resumed at this validation measured no loss before it.
    loss = math.nan if entry["loss"] is None else float(entry["loss"])
    found = {"loss": Measured(where, loss, loss, loss)}
    for protocol in ("full", "sampled"):
        metrics = entry["validation"][protocol]
        numbers = [metrics["ndcg@10"], *metrics["ci95"]["ndcg@10"]]  # null where no user has enough negatives
        value, low, high = (math.nan if number is None else float(number) for number in numbers)
        found[protocol] = Measured(where, value, low, high)
    return found


def learning_section(history: list[dict[str, Any]], evaluation: Evaluation) -> Markup:
    """The curves of loss and metrics over the steps."""
    if not history:
        return element("p", "The model directory has no history.jsonl.")
    step = evaluation.trained.state["step"]
    says = (
        f"{counted(len(history), 'validation')}. The dashed line marks the weights of this report, of step {step:,}; "
        "the bands are 95% intervals over the validation users. The loss is the mean since the validation "
        "before, or since the run was taken up."
    )
    return together(
        element("p", says, class_="soft"), chart_row(learning_curves(history, evaluation.protocols(), step))
    )
