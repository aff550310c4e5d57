"""Is the model good? Its metrics beside the popularity baseline on the same users, and beside a second run."""

import dataclasses
from typing import Any

from bert4rec_tf.evaluation.baselines import popularity_scorer
from bert4rec_tf.evaluation.comparison import PROTOCOLS, Run, compare
from bert4rec_tf.evaluation.evaluate import evaluate, make_ranker
from bert4rec_tf.evaluation.metrics import sampled_metrics
from bert4rec_tf.report.evaluated_model import Evaluation

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
        times = f"{self.times_as_much(row)} " if row["a"] else "against "
        figures = (
            f"NDCG@10 over all items is {row['b']:.4f}, {times}{self.name}'s {row['a']:.4f} "
            f"(95% interval of the difference [{low:+.4f}, {high:+.4f}])."
        )
        return words, figures

    @staticmethod
    def times_as_much(row: dict[str, Any]) -> str:
        """How many times the rival's mean the model's mean is; `row` is from `paired_bootstrap`, with "a" above 0."""
        ratio = row["b"] / row["a"]
        return f"{ratio:.{2 if ratio < 10 else 1}f} times"


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
