"""The report's sections of metrics, and of metrics by group of users."""

from typing import Any

from bert4rec_tf.evaluation.metrics import METRICS
from bert4rec_tf.report.charts import Measured, bars, whiskers
from bert4rec_tf.report.evaluated_model import Evaluation
from bert4rec_tf.report.html import (
    Markup,
    chart_row,
    counted,
    element,
    figure,
    grouped_number,
    name_value_table,
    together,
)


def metrics_section(evaluation: Evaluation) -> Markup:
    """Metrics of all users under both protocols, with intervals."""
    metrics, protocols = evaluation.metrics, evaluation.protocols()
    head = element("tr", *(element("th", text) for text in ("", *protocols.values())))
    rows = [
        element("tr", element("th", name.upper()), *(element("td", *_cell(metrics[key], name)) for key in protocols))
        for name in METRICS
    ]
    charts = [
        figure(candidates, whiskers([_measured(metrics[key], name, name.upper()) for name in METRICS], candidates))
        for key, candidates in protocols.items()
        if metrics[key]["mrr"] is not None
    ]
    unseen, repeats = metrics.get("unseen_users"), metrics["repeats"]
    rule = "count as missed, since they are never recommended" if metrics["drop_seen"] else "are ranked"
    left_out = metrics["sampled"]["users_left_out"]
    return together(
        element("p", "The means over users, with 95% intervals in brackets.", class_="soft"),
        element(
            "p", f"{counted(left_out, 'user')} with fewer than {protocols['sampled']}: ranked among all items only."
        )
        if left_out
        else None,
        chart_row([element("table", element("thead", head), element("tbody", *rows)), *charts]),
        unseen
        and element(
            "p",
            f"{counted(unseen['users'], 'user')} unseen in training: "
            + ", ".join(
                f"NDCG@10 {unseen[key]['ndcg@10']:.4f} among {candidates}"
                for key, candidates in protocols.items()
                if unseen[key]["mrr"] is not None
            ),
        ),
        element(
            "p",
            f"The targets of {counted(repeats['users'], 'user')} ({repeats['share']:.1%}) are in their own history "
            f"and {rule} (evaluation.drop_seen={str(metrics['drop_seen']).lower()}).",
        )
        if repeats["users"]
        else None,
    )


def slices_section(evaluation: Evaluation) -> Markup:
    """NDCG@10 by group of users, and the catalogue metrics."""
    slices, catalogue = evaluation.metrics["slices"], evaluation.metrics["catalogue"]
    charts = []
    for name, subject in (
        ("history_length", "length of the history"),
        ("target_popularity", "the target's popularity"),
        ("repeats", "whether the target is in the history"),
    ):
        for key, protocol in evaluation.protocols().items():
            groups = [group for group in slices[name] if group[key]["mrr"] is not None]
            rows = [_measured(group[key], "ndcg@10", _group_label(name, group, key)) for group in groups]
            if rows:
                charts.append(figure(f"NDCG@10 by {subject}, {protocol}", bars(rows, f"by {subject}, {protocol}")))
    facts = []
    for name, value in catalogue.items():
        metric, _, k = name.partition("@")
        if metric == "coverage":
            facts.append((name, f"{value:.4f}: the share of all items in at least one user's {k} recommendations"))
        elif value is not None:
            facts.append((name, f"{value:.4f}: mean bits of the recommended items; half as popular is 1 bit more"))
    return together(
        element(
            "p",
            "Each popularity group holds a fifth of the training events, from the most to the least popular items. "
            "Bars have 95% intervals.",
            class_="soft",
        ),
        element("div", *charts, class_="charts pairs"),
        element("h3", "Catalogue"),
        name_value_table(facts),
    )


def _group_label(name: str, group: dict[str, Any], protocol: str) -> str:
    users = counted(group[protocol].get("users", group["users"]), "user")
    if name == "history_length":
        return f"{group['from']}{'+' if group['to'] is None else '-' + str(group['to'])} items · {users}"
    if name == "repeats":
        return f"{'repeat' if group['repeat'] else 'no repeat'} · {users}"
    events = f"{grouped_number(group['from'])}-{grouped_number(group['to'])}"
    return f"{counted(group['items'], 'item')} of {events} events · {users}"


def _measured(metrics: dict[str, Any], name: str, label: str) -> Measured:
    return Measured(label, metrics[name], *metrics["ci95"][name])


def _cell(metrics: dict[str, Any], name: str) -> tuple[str | Markup, ...]:
    if metrics[name] is None:
        return ("-",)
    low, high = metrics["ci95"][name]
    return f"{metrics[name]:.4f} ", element("span", f"[{low:.4f}, {high:.4f}]", class_="ci")
