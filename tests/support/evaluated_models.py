"""A small evaluated model whose item titles are hostile, for tests of the report."""

import json
import math
import pathlib

from bert4rec_tf.checkpoints import Checkpoints, Progress
from bert4rec_tf.config import Config
from bert4rec_tf.evaluation.evaluate import evaluate, make_ranker
from bert4rec_tf.evaluation.results import metrics_json
from bert4rec_tf.model.bert4rec import build_model
from bert4rec_tf.model_dir import load_model, open_model_dir
from bert4rec_tf.report.evaluated_model import Evaluation
from pipelines.build import build_records
from pipelines.sources.synthetic import MarkovLog
from tfrecords.manifest import Manifest
from tfrecords.vocabulary import Vocabulary

NASTY = ["<script>alert(1)</script>", "\"quoted\" & 'so' <b>", "</style></title><img src=x onerror=y>", "a\x00\x1bb"]
LOG = MarkovLog(num_users=80, num_items=40, num_themes=4, min_events=5, max_events=12)
CONFIG = Config.from_dict(
    {
        "data": {"max_seq_length": 8, "min_user_events": 1, "num_negatives": 7},
        "model": {"hidden_size": 8, "num_heads": 2, "num_layers": 3, "initializer_range": 1.0},
    }
)


def history_lines(steps: list[int], losses: list[float]) -> str:
    """The content of history.jsonl for validations at these steps, with NDCG@10 from the step."""

    def metrics(value: float) -> dict:
        return {"ndcg@10": value, "ci95": {"ndcg@10": [max(0, value - 0.01), value + 0.01]}}

    lines = []
    for step, loss in zip(steps, losses, strict=True):
        found = {"full": metrics(step / 1000), "sampled": metrics(step / 500)}
        lines.append(json.dumps({"step": step, "elapsed_seconds": 0.6 * step, "loss": loss, "validation": found}))
    return "\n".join(lines) + "\n"


def small_evaluation(root: pathlib.Path, split: str = "test", drop_seen: bool = True) -> Evaluation:
    """A random model of `CONFIG` on `LOG`, with three validations, and its evaluation. Writes below `root`."""
    data_dir, model_dir = root / "data", root / "<i>model"
    titles = dict(zip(sorted(LOG.item_ids()), NASTY * 9, strict=False))  # the last four have none
    build_records(LOG, titles, CONFIG, str(data_dir))
    manifest, vocabulary = Manifest.load(data_dir), Vocabulary.load(data_dir)
    open_model_dir(model_dir, CONFIG, manifest, vocabulary)
    model, progress = build_model(CONFIG.model, vocabulary.size, CONFIG.data.max_seq_length), Progress(100)
    progress.step.assign(20)
    progress.elapsed_seconds.assign(90)
    Checkpoints(model_dir, {"model": model, "progress": progress}, to_keep=1).save(best=True)
    (model_dir / "history.jsonl").write_text(history_lines([10, 20, 30], [3, 2, math.nan]))
    trained = load_model(model_dir)
    ranks = evaluate(make_ranker(trained.model.score_next_item, 10, drop_seen), data_dir, manifest, split)
    described = {"config": trained.config.to_dict(), "training": trained.state}
    metrics = metrics_json(ranks, described, manifest, vocabulary, split, drop_seen)
    metrics["hardware"] = {"cpu": "A & B", "cores": 2, "gpus": 1, "python": "3", "tensorflow": "2"}
    return Evaluation(model_dir, data_dir, trained, manifest, vocabulary, ranks, metrics)
