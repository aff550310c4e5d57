"""The report's section of metrics by group of users."""

from typing import Any

import numpy as np

from bert4rec_tf.evaluation.slices import POPULARITY_NAMES, popularity_groups, target_groups
from bert4rec_tf.report.charts import Chart, Measured, bars
from bert4rec_tf.report.evaluated_model import Evaluation
from bert4rec_tf.report.number_format import counted, grouped_number

_SUBJECTS = {
    "history_length": "length of the history",
    "target_popularity": "the target's popularity",
    "repeats": "whether the target is in the history",
    "cold_targets": "whether a training event has the target",
}


def slices_content(evaluation: Evaluation) -> dict[str, Any]:
    """NDCG@10 by group of users, and the catalogue metrics, for `templates/slices.html`."""
    slices, counts = evaluation.metrics["slices"], evaluation.vocabulary.counts
    popularity_names = [POPULARITY_NAMES[group] for group in target_groups(evaluation.ranks, counts)]
    charts = []
    for name, subject in _SUBJECTS.items():
        if name == "cold_targets" and not any(group["cold"] for group in slices[name]):
            continue
        names = popularity_names if name == "target_popularity" else [""] * len(slices[name])
        for key, candidates in evaluation.protocols().items():
            rows = [
                Measured(
                    _label(name, group, key, popularity_name), group[key]["ndcg@10"], *group[key]["ci95"]["ndcg@10"]
                )
                for group, popularity_name in zip(slices[name], names, strict=True)
                if group[key]["mrr"] is not None
            ]
            if rows:
                charts.append(Chart(f"NDCG@10 by {subject}, {candidates}", bars(rows, f"by {subject}, {candidates}")))
    return {"popularity": head_and_tail(counts), "charts": charts, "catalogue": _catalogue(evaluation.metrics)}


def head_and_tail(counts: np.ndarray) -> str:
    """Which items are the head and the tail, in words; `counts`, int64 [V - 3], never rise."""
    groups = popularity_groups(counts)
    head, tail = counts[groups == 0], counts[groups == len(POPULARITY_NAMES) - 1]
    named = f"The head is the {_items(head, 'most')}" + (
        f"; the tail is the {_items(tail, 'least')}" if len(tail) else ""
    )
    return f"Five groups of items hold about a fifth of the training events each. {named}."


def _items(counts: np.ndarray, rank: str) -> str:
    low, high = int(counts.min()), int(counts.max())
    events = counted(high, "event") if low == high else f"{grouped_number(low)} to {counted(high, 'event')}"
    if len(counts) == 1:
        return f"{rank} popular item, with {events}"
    return f"{grouped_number(len(counts))} {rank} popular items, with {events} each"


def _catalogue(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    facts = []
    for name, value in metrics["catalogue"].items():
        metric, _, k = name.partition("@")
        if metric == "coverage":
            facts.append((name, f"{value:.4f}: the share of all items in at least one user's {k} recommendations"))
        elif value is not None:
            facts.append((name, f"{value:.4f}: mean bits of the recommended items; half as popular is 1 bit more"))
    return facts


def _label(name: str, group: dict[str, Any], protocol: str, popularity_name: str) -> str:
    users = counted(group[protocol].get("users", group["users"]), "user")
    if name == "history_length":
        return f"{group['from']}{'+' if group['to'] is None else '-' + str(group['to'])} items · {users}"
    if name == "repeats":
        return f"{'repeat' if group['repeat'] else 'no repeat'} · {users}"
    if name == "cold_targets":
        return f"{'no training event' if group['cold'] else 'in training'} · {users}"
    events = f"{grouped_number(group['from'])}-{grouped_number(group['to'])}"
    return f"{popularity_name} · {counted(group['items'], 'item')} of {events} events · {users}"
