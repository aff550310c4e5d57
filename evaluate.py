"""Ranks the held-out items of every user, or compares two such evaluations.

python evaluate.py --model_dir=models/ml-1m --data_dir=data/ml-1m --output=metrics.json
python evaluate.py --compare=a/metrics.json,b/metrics.json --output=comparison.json

--output also writes metrics.users.parquet beside metrics.json: one row for each user, which --compare reads.
--report=report.html writes one page about the model.
"""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags

from bert4rec_tf.command_line import command
from bert4rec_tf.config import Config, EvaluationConfig, read_settings
from bert4rec_tf.evaluation.baselines import BASELINES, baseline_scorer
from bert4rec_tf.evaluation.comparison import compare_runs, print_comparison
from bert4rec_tf.evaluation.evaluate import Scorer, evaluate, make_ranker, merge_evaluation_settings
from bert4rec_tf.evaluation.metrics import TOP_K
from bert4rec_tf.evaluation.results import hardware, metrics_json, print_results, write_json, write_metrics
from bert4rec_tf.model_dir import TrainedModel, load_model
from bert4rec_tf.report.evaluated_model import Evaluation
from bert4rec_tf.report.item_map import read_item_groups
from bert4rec_tf.report.report import write_report
from pipelines.sources.synthetic import MarkovLog
from tfrecords.errors import InputError, check_local
from tfrecords.manifest import Manifest, VerifiedRecords
from tfrecords.vocabulary import Vocabulary

_MODEL = flags.DEFINE_string("model_dir", None, "model directory written by train.py")
_BASELINE = flags.DEFINE_enum(
    "baseline",
    None,
    list(BASELINES),
    "baseline to evaluate instead of a model: `popularity`, or `optimum`, the best possible ranking of a log made by "
    "make_tfrecords.py --dataset=synthetic",
)
_DATA = flags.DEFINE_string("data_dir", None, "directory of records written by pipelines/make_tfrecords.py")
_SPLIT = flags.DEFINE_enum("split", "test", ["test", "validation"], "split to evaluate")
_SET = flags.DEFINE_multi_string(
    "set", [], "evaluation.field=value; replaces a setting of the model's configuration; repeatable"
)
_DROP_SEEN = flags.DEFINE_bool(
    "drop_seen",
    None,
    "whether items of the user's history are left out of the ranking, as in serving; sets evaluation.drop_seen",
)
_COMPARE = flags.DEFINE_list(
    "compare", None, "two metrics files, A,B, written by --output; tests whether B ranks better than A"
)
_REPORT = flags.DEFINE_string(
    "report", None, "HTML file to write with a report on the model; the page loads no other file"
)
_GROUPS = flags.DEFINE_string(
    "item_groups", None, "TSV file with the columns item_id and genre, to colour the item map of --report"
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "JSON file to write with the metrics or the comparison; the metrics of each user go beside it"
)


@command
def main() -> None:
    """Evaluates one model or baseline, or compares two evaluations."""
    for flag in (_MODEL, _DATA, _COMPARE, _REPORT, _GROUPS, _OUTPUT):
        check_local(flag.name, flag.value)
    if _COMPARE.value is not None:
        _check_compare_flags()
        comparison = compare_runs(_COMPARE.value)
        if _OUTPUT.value:
            write_json(pathlib.Path(_OUTPUT.value), comparison)
        print_comparison(comparison)
        return
    _check_evaluation_flags()
    data_dir = str(_DATA.value)
    manifest = Manifest.load(data_dir)
    records = VerifiedRecords(data_dir, manifest, "run the same command again when the records are complete")
    vocabulary = Vocabulary.load(data_dir)
    item_groups = read_item_groups(_GROUPS.value, vocabulary) if _GROUPS.value else None
    trained = _load_model(vocabulary) if _MODEL.value else None
    scorer, description = _scorer(trained, manifest, vocabulary)
    drop_seen = _evaluation_config(trained).drop_seen
    max_items = trained.config.data.max_seq_length - 1 if trained else 1  # no baseline reads more than the last item
    ranker = make_ranker(scorer, TOP_K, drop_seen)
    with records.unchanged():
        ranks = evaluate(ranker, data_dir, manifest, _SPLIT.value, max_items=max_items)
    metrics = metrics_json(ranks, description, manifest, vocabulary, _SPLIT.value, drop_seen)
    metrics["hardware"] = hardware()
    if _OUTPUT.value:
        write_metrics(pathlib.Path(_OUTPUT.value), metrics, ranks, vocabulary)
    if _REPORT.value and trained is not None:
        directories = (pathlib.Path(str(_MODEL.value)), pathlib.Path(data_dir))
        evaluation = Evaluation(*directories, trained, manifest, vocabulary, ranks, metrics)
        with records.unchanged():
            write_report(pathlib.Path(_REPORT.value), evaluation, item_groups)
    print_results(metrics, manifest)


def _check_compare_flags() -> None:
    flags_of_an_evaluation = (_MODEL, _BASELINE, _DATA, _SPLIT, _SET, _DROP_SEEN, _REPORT, _GROUPS)
    given = [flag.name for flag in flags_of_an_evaluation if flag.present]
    if given:
        raise InputError(
            f"--compare reads two finished evaluations. Received: --{', --'.join(given)} besides. "
            "Fix: evaluate each with --output first"
        )


def _check_evaluation_flags() -> None:
    if bool(_MODEL.value) == bool(_BASELINE.value):
        raise InputError(f"Give either --model_dir or --baseline. Received: {_MODEL.value!r} and {_BASELINE.value!r}")
    if not _DATA.value:
        raise InputError("--data_dir must name the records to evaluate on. Received: none. Fix: --data_dir=data/ml-1m")
    if _REPORT.value and not _MODEL.value:
        raise InputError(f"--report needs a model. Received: --baseline={_BASELINE.value}. Fix: give --model_dir")
    if _GROUPS.value and not _REPORT.value:
        raise InputError(
            f"--item_groups needs --report. Received: --item_groups={_GROUPS.value} only. Fix: --report=report.html"
        )


def _load_model(vocabulary: Vocabulary) -> TrainedModel:
    trained = load_model(str(_MODEL.value))
    trained.check_vocabulary(vocabulary, f"{_MODEL.value} and {_DATA.value}")
    return trained


def _scorer(
    trained: TrainedModel | None, manifest: Manifest, vocabulary: Vocabulary
) -> tuple[Scorer, dict[str, object]]:
    """The scorer, and its description for metrics.json."""
    if trained is not None:
        return trained.model.score_next_item, trained.description()
    name = str(_BASELINE.value)
    scorer = baseline_scorer(name, vocabulary, lambda: MarkovLog.from_description(manifest.source))
    return scorer, {"baseline": name}


def _evaluation_config(trained: TrainedModel | None) -> EvaluationConfig:
    """The model's settings, or the defaults for a baseline, with --set and --drop_seen applied."""
    drop_seen = [] if _DROP_SEEN.value is None else [f"evaluation.drop_seen={str(_DROP_SEEN.value).lower()}"]
    overrides = read_settings(None, [*_SET.value, *drop_seen])
    section = merge_evaluation_settings(trained.config.to_dict()["evaluation"] if trained else {}, overrides)
    return Config.from_dict({"evaluation": section}, "flags").evaluation


if __name__ == "__main__":
    app.run(main)
