"""Ranks the held-out items, or compares two such evaluations.

python evaluate.py --model_dir=models/ml-1m --data_dir=data/ml-1m --output=metrics.json
python evaluate.py --compare=a/metrics.json,b/metrics.json --output=comparison.json

Beside metrics.json it writes metrics.users.parquet, one row a user, which --compare reads. --report=report.html tells
about a model in one page.
"""

import json
import os
import pathlib

from absl import app, flags

from bert4rec_tf.command_line import command
from bert4rec_tf.config import Config, EvaluationConfig, read_settings
from bert4rec_tf.evaluation.baselines import last_item_scorer, popularity_scorer
from bert4rec_tf.evaluation.comparison import PROTOCOLS, compare_runs
from bert4rec_tf.evaluation.evaluate import Scorer, evaluate, make_ranker
from bert4rec_tf.evaluation.metrics import TOP_K
from bert4rec_tf.evaluation.results import hardware, metrics_json, print_metrics, print_slices
from bert4rec_tf.evaluation.user_ranks import users_file, write_users
from bert4rec_tf.model_dir import TrainedModel, load_model
from bert4rec_tf.report.evaluated_model import Evaluation
from bert4rec_tf.report.item_map import read_item_groups
from bert4rec_tf.report.report import write_report
from pipelines.sources.synthetic import MarkovLog
from tfrecords.errors import InputError, check_local
from tfrecords.files import write_whole
from tfrecords.manifest import Manifest, VerifiedRecords
from tfrecords.vocabulary import Vocabulary

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
_MODEL = flags.DEFINE_string("model_dir", None, "made by train.py")
_BASELINE = flags.DEFINE_enum(
    "baseline", None, ["popularity", "optimum"], "instead of --model_dir; optimum: of --dataset=synthetic"
)
_DATA = flags.DEFINE_string("data_dir", None, "made by pipelines/make_tfrecords.py")
_SPLIT = flags.DEFINE_enum("split", "test", ["test", "validation"], "what is asked")
_SET = flags.DEFINE_multi_string("set", [], "evaluation.field=value over the model's configuration; repeatable")
_DROP_SEEN = flags.DEFINE_bool(
    "drop_seen", None, "sets evaluation.drop_seen: leave out items of the user's history, as serving does by default"
)
_COMPARE = flags.DEFINE_list("compare", None, "two metrics files, A,B, written by --output: is B better than A?")
_REPORT = flags.DEFINE_string("report", None, "a page on the model and what it does, as HTML; needs nothing beside it")
_GROUPS = flags.DEFINE_string(
    "item_groups", None, "TSV with a header item_id, genre: colours --report's map of the items"
)
_OUTPUT = flags.DEFINE_string("output", None, "metrics, or the comparison, as JSON; users beside it as Parquet")


@command
def main() -> None:
    """Flags to one call: an evaluation, or the comparison of two."""
    for flag in (_MODEL, _DATA, _COMPARE, _REPORT, _GROUPS, _OUTPUT):
        check_local(flag.name, flag.value)
    if _COMPARE.value is not None:
        _compare(_COMPARE.value)
        return
    if bool(_MODEL.value) == bool(_BASELINE.value):
        raise InputError(f"Give either --model_dir or --baseline. Received: {_MODEL.value!r} and {_BASELINE.value!r}")
    if not _DATA.value:
        raise InputError("--data_dir must name the records to ask. Received: none. Fix: --data_dir=data/ml-1m")
    if _REPORT.value and not _MODEL.value:
        raise InputError(f"--report is on a model. Received: --baseline={_BASELINE.value}. Fix: name a --model_dir")
    if _GROUPS.value and not _REPORT.value:
        raise InputError(f"--item_groups colours a report. Received: {_GROUPS.value} alone. Fix: --report=report.html")
    manifest = Manifest.load(_DATA.value)
    records = VerifiedRecords(_DATA.value, manifest, "run the same command again when the records are complete")
    vocabulary = Vocabulary.load(_DATA.value)
    item_groups = read_item_groups(_GROUPS.value, vocabulary) if _GROUPS.value else None
    trained = _trained(vocabulary) if _MODEL.value else None
    scorer, described = _scorer(trained, manifest, vocabulary)
    drop_seen = _evaluation_config(trained).drop_seen
    max_items = trained.config.data.max_seq_length - 1 if trained else 1  # a baseline reads the last item at most
    ranker = make_ranker(scorer, TOP_K, drop_seen)
    with records.unchanged():
        ranks = evaluate(ranker, _DATA.value, manifest, _SPLIT.value, max_items=max_items)
    metrics = metrics_json(ranks, described, manifest, vocabulary, _SPLIT.value, drop_seen)
    metrics["hardware"] = hardware()
    if _OUTPUT.value:
        pathlib.Path(_OUTPUT.value).parent.mkdir(parents=True, exist_ok=True)
        write_users(users_file(_OUTPUT.value), ranks, vocabulary)
        write_whole(pathlib.Path(_OUTPUT.value), json.dumps(metrics, indent=1) + "\n")
    if _REPORT.value and trained is not None:
        directories = (pathlib.Path(str(_MODEL.value)), pathlib.Path(_DATA.value))
        evaluation = Evaluation(*directories, trained, manifest, vocabulary, ranks, metrics)
        with records.unchanged():
            write_report(pathlib.Path(_REPORT.value), evaluation, item_groups)
    print_metrics(_SPLIT.value, metrics, manifest)
    if "unseen_users" in metrics:
        print_metrics(f"{_SPLIT.value}, unseen in training", metrics["unseen_users"], manifest)
    print_slices(metrics)


def _compare(metrics_files: list[str]) -> None:
    evaluating = (_MODEL, _BASELINE, _DATA, _SPLIT, _SET, _DROP_SEEN, _REPORT, _GROUPS)
    others = [flag.name for flag in evaluating if flag.present]
    if others:
        raise InputError(
            f"--compare reads two evaluations that are done. Received: --{', --'.join(others)} besides. "
            "Fix: evaluate each with --output first"
        )
    found = compare_runs(metrics_files)
    if _OUTPUT.value:
        pathlib.Path(_OUTPUT.value).parent.mkdir(parents=True, exist_ok=True)
        write_whole(pathlib.Path(_OUTPUT.value), json.dumps(found, indent=1) + "\n")
    print(f"A: {found['a']}\nB: {found['b']}\n{found['split']}, {found['users']:,} users")
    print(f"{'':<16}{'A':>8}{'B':>9}{'B - A':>9}{'95% interval':>20}{'p':>9}{'p (Holm)':>10}")
    for protocol in PROTOCOLS:
        for name, row in found[protocol].items():
            low, high = row["ci95"]
            shown = f"{row['a']:>8.4f} {row['b']:>8.4f} {row['difference']:>+8.4f}   [{low:+.4f}, {high:+.4f}]"
            print(f"{protocol + ' ' + name:<16}{shown} {row['p']:>8.4f} {row['p_holm']:>9.4f}")


def _evaluation_config(trained: TrainedModel | None) -> EvaluationConfig:
    """The model's, or the default for a baseline, and the flags over it."""
    own_flag = [] if _DROP_SEEN.value is None else [f"evaluation.drop_seen={str(_DROP_SEEN.value).lower()}"]
    settings = read_settings(None, [*_SET.value, *own_flag])
    others = sorted(settings.keys() - {"evaluation"})
    if others:
        raise InputError(
            f"evaluate.py takes settings of `evaluation` alone. Received: --set={others[0]}.… Fix: give those of "
            f"`{others[0]}` to the command that they are for, make_tfrecords.py or train.py"
        )
    kept = trained.config.to_dict()["evaluation"] if trained else {}
    return Config.from_dict({"evaluation": kept | settings.get("evaluation", {})}, "flags").evaluation


def _trained(vocabulary: Vocabulary) -> TrainedModel:
    trained = load_model(str(_MODEL.value))
    if trained.vocabulary.item_ids != vocabulary.item_ids:  # titles and counts may differ
        raise InputError(
            f"A model is evaluated on records with its own vocabulary. Received: {_MODEL.value} and "
            f"{_DATA.value}, which differ. Fix: name the --data_dir that it was trained on"
        )
    return trained


def _scorer(
    trained: TrainedModel | None, manifest: Manifest, vocabulary: Vocabulary
) -> tuple[Scorer, dict[str, object]]:
    if trained is not None:
        return trained.model.score_next_item, {"config": trained.config.to_dict(), "training": trained.state}
    if _BASELINE.value == "popularity":
        return popularity_scorer(vocabulary), {"baseline": "popularity"}
    log = MarkovLog.from_description(manifest.source)
    return last_item_scorer(log.transitions(), vocabulary, log.item_ids()), {"baseline": "optimum"}


if __name__ == "__main__":
    app.run(main)
