"""The page of a search: the best figure so far, and all trials."""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bert4rec_tf.report.charts import Measured, curve
from bert4rec_tf.report.markup import page_templates
from bert4rec_tf.search.space import shown
from tfrecords.files import write_whole

if TYPE_CHECKING:
    import optuna

_STATES = ("COMPLETE", "PRUNED", "FAIL")


def write_page(path: pathlib.Path, trials: Sequence["optuna.trial.FrozenTrial"], best: int) -> None:
    """Writes the page, which loads nothing, by rename.

    Args:
        path: of the HTML file.
        trials: all of them.
        best: the number of the best one.
    """
    ended = [trial for trial in trials if trial.state.name == "COMPLETE"]
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    so_far, values = 0.0, []
    for trial in ended:
        so_far = max(so_far, float(trial.value or 0.0))
        values.append(Measured(f"trial {trial.number + 1}", so_far, so_far, so_far))
    numbers = [float(trial.number + 1) for trial in ended]
    chart = curve(numbers, values, "trial", "The best validation NDCG@10 after each finished trial")
    rows = [
        {
            "number": trial.number + 1,
            "result": _result(trial),
            "values": [shown(trial.params[name]) if name in trial.params else "" for name in names],
            "is_best": trial.number == best,
        }
        for trial in sorted(trials, key=_order)
        if trial.state.name in _STATES and _result(trial)
    ]
    page = (
        page_templates("bert4rec_tf.search", "bert4rec_tf.report")
        .get_template("study.html")
        .render(chart=chart, names=names, rows=rows)
    )
    write_whole(path, page)


def _order(trial: "optuna.trial.FrozenTrial") -> tuple[bool, float, int]:
    """The finished ones first, by falling NDCG@10."""
    finished = trial.state.name == "COMPLETE"
    return not finished, -(trial.value or 0.0) if finished else 0.0, trial.number


def _result(trial: "optuna.trial.FrozenTrial") -> str:
    """The NDCG@10, or why there is none; "" for a trial that another one continued."""
    if trial.state.name == "COMPLETE":
        return f"{trial.value:.4f}"
    return "given up early" if trial.state.name == "PRUNED" else str(trial.user_attrs.get("error", ""))
