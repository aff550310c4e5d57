"""Is the model good? Its metrics beside the popularity baseline on the same users, and beside a second run."""

import dataclasses
from typing import Any

from bert4rec_tf.evaluation.baselines import popularity_scorer
from bert4rec_tf.evaluation.comparison import PROTOCOLS, Run, compare
from bert4rec_tf.evaluation.evaluate import evaluate, make_ranker
from bert4rec_tf.evaluation.metrics import sampled_metrics
from bert4rec_tf.report.evaluated_model import Evaluation
from bert4rec_tf.report.html import Markup, element, together

HEADLINE_METRICS = ("ndcg@10", "hr@10")
_VERDICT_METRIC = "ndcg@10"


@dataclasses.dataclass(frozen=True)
class Rival:
    """What the model is compared with, on the same users.

    Attributes:
        name: "popularity", or the metrics file of the second run.
        metrics: protocol -> `sampled_metrics` of its ranks.
        comparison: from `compare`, with the rival as A and the model as B.
    """

    name: str
    metrics: dict[str, dict[str, Any]]
    comparison: dict[str, Any]

    def verdict(self) -> tuple[str, str]:
        """Whether the model ranks better over all items, in words, and the sentence with the figures."""
        row = self.comparison["full"][_VERDICT_METRIC]
        low, high = row["ci95"]
        if low > 0:
            words = f"The model ranks better than {self.name}."
        elif high < 0:
            words = f"The model ranks worse than {self.name}."
        else:
            words = f"The model and {self.name} do not differ reliably."
        times = f"{times_as_much(row)} " if row["a"] else "against "
        figures = (
            f"NDCG@10 over all items is {row['b']:.4f}, {times}{self.name}'s {row['a']:.4f} "
            f"(95% interval of the difference [{low:+.4f}, {high:+.4f}])."
        )
        return words, figures


def rivals(evaluation: Evaluation) -> list[Rival]:
    """The popularity baseline, and the second run if there is one.

    The baseline is computed as `evaluate.py --baseline=popularity` does, with this evaluation's split and rule.

    Raises:
        InputError: the second run has other users or targets.
    """
    metrics, vocabulary = evaluation.metrics, evaluation.vocabulary
    ranker = make_ranker(popularity_scorer(vocabulary), drop_seen=metrics["drop_seen"])
    ranks = evaluate(ranker, evaluation.data_dir, evaluation.manifest, metrics["split"], max_items=1)
    model = Run.from_evaluation("this evaluation", metrics, evaluation.ranks, vocabulary)
    others = [Run.from_evaluation("popularity", metrics, ranks, vocabulary)]
    if evaluation.second_run is not None:
        others.append(evaluation.second_run)
    return [
        Rival(
            run.name,
            {protocol: sampled_metrics(run.ranks[protocol]) for protocol in PROTOCOLS},
            compare(run, model),
        )
        for run in others
    ]


def times_as_much(row: dict[str, Any]) -> str:
    """How many times the rival's mean the model's mean is; "" if the rival's is 0."""
    return f"{row['b'] / row['a']:.3g} times" if row["a"] else ""


def headline_section(evaluation: Evaluation, others: list[Rival]) -> Markup:
    """The verdict, and a table for each protocol."""
    verdicts = [element("p", element("strong", words), " ", figures) for words, figures in map(Rival.verdict, others)]
    tables = []
    for protocol, candidates in evaluation.protocols().items():
        head = element("tr", *(element("th", text) for text in (candidates, *map(str.upper, HEADLINE_METRICS))))
        rows = [_row("this model", evaluation.metrics[protocol])]
        for rival in others:
            rows.append(_row(rival.name, rival.metrics[protocol]))
            if rival.comparison[protocol]:
                rows.append(_difference_row(rival, protocol))
        tables.append(element("table", element("thead", head), element("tbody", *rows)))
    return together(*verdicts, *tables)


def _row(name: str, metrics: dict[str, Any]) -> Markup:
    cells = [
        f"{metrics[metric]:.4f} [{metrics['ci95'][metric][0]:.4f}, {metrics['ci95'][metric][1]:.4f}]"
        if metrics[metric] is not None
        else "-"
        for metric in HEADLINE_METRICS
    ]
    return element("tr", element("th", name), *(element("td", cell) for cell in cells))


def _difference_row(rival: Rival, protocol: str) -> Markup:
    cells = []
    for metric in HEADLINE_METRICS:
        row = rival.comparison[protocol][metric]
        low, high = row["ci95"]
        cells.append(f"{row['difference']:+.4f} [{low:+.4f}, {high:+.4f}] {times_as_much(row)}".rstrip())
    return element("tr", element("th", f"difference from {rival.name}"), *(element("td", cell) for cell in cells))
