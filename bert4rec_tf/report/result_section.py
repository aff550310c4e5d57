"""The report's first section: whether the model is good, and all of its metrics."""

from typing import Any

from bert4rec_tf.evaluation.metrics import METRICS
from bert4rec_tf.report.charts import Chart, Measured, bars, whiskers
from bert4rec_tf.report.evaluated_model import Evaluation
from bert4rec_tf.report.headline import HEADLINE_METRICS, Rival
from bert4rec_tf.report.number_format import counted


def result_content(evaluation: Evaluation, rivals: list[Rival]) -> dict[str, Any]:
    """Metrics of all users under both protocols, with intervals, for `templates/result.html`."""
    metrics = evaluation.metrics
    protocols = {key: words for key, words in evaluation.protocols().items() if metrics[key]["mrr"] is not None}
    headline_charts = {}
    for key, candidates in protocols.items():
        systems = [("this model", metrics[key]), *((rival.name, rival.metrics[key]) for rival in rivals)]
        rows = [_measured(found, "ndcg@10", name) for name, found in systems if found["mrr"] is not None]
        caption = f"NDCG@10, {candidates}"
        headline_charts[key] = Chart(caption, bars(rows, caption))
    return {
        "rivals": rivals,
        "protocols": evaluation.protocols(),
        "headline_metrics": HEADLINE_METRICS,
        "headline_charts": headline_charts,
        "all_metrics": METRICS,
        "metrics": metrics,
        "charts": [
            Chart(candidates, whiskers([_measured(metrics[key], name, name.upper()) for name in METRICS], candidates))
            for key, candidates in protocols.items()
        ],
        "notes": _notes(metrics, evaluation.protocols()),
    }


def _notes(metrics: dict[str, Any], protocols: dict[str, str]) -> list[str]:
    """Sentences about the users who are left out, unseen in training, or whose target is in their history."""
    notes = []
    if left_out := metrics["sampled"]["users_left_out"]:
        notes.append(
            f"{counted(left_out, 'user')} with fewer than {protocols['sampled']}: ranked among all items only."
        )
    if unseen := metrics.get("unseen_users"):
        values = [
            f"NDCG@10 {unseen[key]['ndcg@10']:.4f} among {candidates}"
            for key, candidates in protocols.items()
            if unseen[key]["mrr"] is not None
        ]
        notes.append(f"{counted(unseen['users'], 'user')} unseen in training: {', '.join(values)}")
    if (repeats := metrics["repeats"])["users"]:
        rule = "count as missed, since they are never recommended" if metrics["drop_seen"] else "are ranked"
        notes.append(
            f"The targets of {counted(repeats['users'], 'user')} ({repeats['share']:.1%}) are in their own history "
            f"and {rule} (evaluation.drop_seen={str(metrics['drop_seen']).lower()})."
        )
    return notes


def _measured(metrics: dict[str, Any], name: str, label: str) -> Measured:
    return Measured(label, metrics[name], *metrics["ci95"][name])
