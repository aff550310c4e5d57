"""Ranks the held-out items.

python evaluate.py --model_dir=models/ml-1m --data_dir=data/ml-1m --output=metrics.json
"""

import json
import os
import pathlib
import platform
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
from absl import app, flags

from bert4rec_tf.errors import InputError, command
from bert4rec_tf.evaluation import Scorer, evaluate, last_item_scorer, make_ranker, metrics_json, popularity_scorer
from bert4rec_tf.model_dir import load_model, write_whole
from bert4rec_tf.vocabulary import Vocabulary
from pipelines.synthetic import MarkovLog
from tfrecords.manifest import Manifest, verify

_MODEL = flags.DEFINE_string("model_dir", None, "made by train.py")
_BASELINE = flags.DEFINE_enum(
    "baseline", None, ["popularity", "optimum"], "instead of --model_dir; optimum: of --dataset=synthetic"
)
_DATA = flags.DEFINE_string("data_dir", None, "made by pipelines/make_tfrecords.py", required=True)
_SPLIT = flags.DEFINE_enum("split", "test", ["test", "validation"], "what is asked")
_OUTPUT = flags.DEFINE_string("output", None, "metrics as JSON")


@command
def main() -> None:
    """Flags to a scorer, and one call."""
    if bool(_MODEL.value) == bool(_BASELINE.value):
        raise InputError(f"Give either --model_dir or --baseline. Received: {_MODEL.value!r} and {_BASELINE.value!r}")
    manifest = Manifest.load(_DATA.value)
    verify(_DATA.value, manifest)
    scorer, described = _scorer(manifest)
    metrics = metrics_json(
        evaluate(make_ranker(scorer), _DATA.value, manifest, _SPLIT.value), described, manifest, _SPLIT.value
    )
    metrics["hardware"] = _hardware()
    if _OUTPUT.value:
        pathlib.Path(_OUTPUT.value).parent.mkdir(parents=True, exist_ok=True)
        write_whole(pathlib.Path(_OUTPUT.value), json.dumps(metrics, indent=1) + "\n")
    _report(_SPLIT.value, metrics, manifest)
    if "unseen_users" in metrics:
        _report(f"{_SPLIT.value}, unseen in training", metrics["unseen_users"], manifest)


def _report(who: str, metrics: dict[str, Any], manifest: Manifest) -> None:
    for protocol, says in (("full", "all items"), ("sampled", f"{manifest.config.data.num_negatives} negatives")):
        values = metrics[protocol]
        shown = "  ".join(f"{name} {value:.4f}" for name, value in values.items() if name != "ci95")
        print(f"{who}, {metrics['users']:,} users, {says + ':':<15} {shown}")


def _scorer(manifest: Manifest) -> tuple[Scorer, dict[str, object]]:
    vocabulary = Vocabulary.load(_DATA.value)
    if _BASELINE.value == "popularity":
        return popularity_scorer(vocabulary), {"baseline": "popularity"}
    if _BASELINE.value == "optimum":
        log = MarkovLog.from_description(manifest.source)
        return last_item_scorer(log.transitions(), vocabulary, log.item_ids()), {"baseline": "optimum"}
    trained = load_model(str(_MODEL.value))
    if trained.vocabulary.item_ids != vocabulary.item_ids:  # titles and counts may differ
        raise InputError(
            f"A model is evaluated on records with its own vocabulary. Received: {_MODEL.value} and "
            f"{_DATA.value}, which differ. Fix: name the --data_dir that it was trained on"
        )
    return trained.model.score_next_item, {"config": trained.config.to_dict(), "training": trained.state}


def _hardware() -> dict[str, object]:
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    return {
        "cpu": names[0].partition(":")[2].strip() if names else platform.processor(),
        "cores": os.cpu_count(),
        "gpus": len(tf.config.list_physical_devices("GPU")),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
    }


if __name__ == "__main__":
    app.run(main)
