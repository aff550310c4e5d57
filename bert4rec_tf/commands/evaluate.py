"""`evaluate.py` and `bert4rec-evaluate`: rank the held-out items of every user, or compare two such evaluations."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import flags

from bert4rec_tf.api.evaluation_records import EvaluationRecords, OtherSystem
from bert4rec_tf.api.predictions import Predictions, ranking_function
from bert4rec_tf.command_line import command
from bert4rec_tf.commands.entry_point import run_main
from bert4rec_tf.config import Config, EvaluationConfig, read_settings
from bert4rec_tf.evaluation.baselines import BASELINES
from bert4rec_tf.evaluation.comparison import Run, compare_runs, print_comparison, read_run
from bert4rec_tf.evaluation.evaluate import merge_evaluation_settings
from bert4rec_tf.evaluation.results import hardware, print_results, write_json, write_metrics
from bert4rec_tf.model_dir import TrainedModel
from bert4rec_tf.model_store import fetch_model
from bert4rec_tf.report.evaluated_model import Evaluation
from bert4rec_tf.report.item_map import read_item_groups
from bert4rec_tf.report.report import write_report
from bert4rec_tf.trained_average import TrainedAverage
from tfrecords.errors import InputError, check_local
from tfrecords.manifest import Manifest
from tfrecords.store_cache import new_temporary_folder
from tfrecords.stores import Store, check_path, is_url

_MODEL = flags.DEFINE_multi_string(
    "model_dir", None, "model directory written by train.py; repeatable: the scores of several models are averaged"
)
_BASELINE = flags.DEFINE_enum(
    "baseline",
    None,
    list(BASELINES),
    "baseline to evaluate instead of a model: `popularity`; `category_popularity`, the items that share most "
    "categories with the last one, by popularity; or `optimum`, the best possible ranking of a log made by "
    "make_tfrecords.py --dataset=synthetic",
)
_SCORES = flags.DEFINE_string(
    "scores",
    None,
    "predictions to evaluate instead of a model: Parquet, CSV, TSV or JSONL with user_id and item_ids (best first), or "
    "user_id, item_id and score",
)
_RANKER = flags.DEFINE_string(
    "ranker",
    None,
    "MODULE:FUNCTION to evaluate instead of a model; it takes user ids and histories, and returns a list of item ids "
    "for each user, best first",
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
_COMPARE_WITH = flags.DEFINE_string(
    "compare_with",
    None,
    "metrics file of a second run, written by --output on the same records and split, to show beside the model in "
    "--report",
)
_GROUPS = flags.DEFINE_string(
    "item_groups", None, "TSV file with the columns item_id and genre, to colour the item map of --report"
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "JSON file to write with the metrics or the comparison; the metrics of each user go beside it"
)

_TRACKER = flags.DEFINE_enum(
    "tracker",
    "tensorboard",
    ["tensorboard", "mlflow"],
    "mlflow: adds the metrics and the report to the MLflow run of --model_dir; tensorboard: adds nothing",
)


@command
def main() -> None:
    """Evaluates one model or baseline, or compares two evaluations."""
    for flag in (_SCORES, _COMPARE, _REPORT, _COMPARE_WITH, _GROUPS):
        check_local(flag.name, flag.value)
    for stored in (_DATA, _OUTPUT):
        check_path(stored.name, stored.value)
    for path in _model_dirs():
        check_path(_MODEL.name, path)
    if _COMPARE.value is not None:
        _check_compare_flags()
        comparison = compare_runs(_COMPARE.value)
        if _OUTPUT.value:
            with _written(_OUTPUT.value) as output:
                write_json(output, comparison)
        print_comparison(comparison)
        return
    _check_evaluation_flags()
    if _TRACKER.value == "mlflow":
        from bert4rec_tf.tracking.mlflow_run import MlflowRun  # MLflow is an optional package
    records = EvaluationRecords.open(str(_DATA.value), "run the same command again when the records are complete")
    item_groups = read_item_groups(_GROUPS.value, records.vocabulary) if _GROUPS.value else None
    model_dirs = [fetch_model(model_dir) for model_dir in _model_dirs()]
    trained = records.load_models(model_dirs) if model_dirs else None
    rules = _evaluation_config(trained)
    second_run = _second_run(records.manifest, rules.drop_seen)
    ranks, metrics = records.evaluate(trained or _other_system(), _SPLIT.value, rules)
    metrics["hardware"] = hardware()
    if _OUTPUT.value:
        with _written(_OUTPUT.value) as output:
            write_metrics(output, metrics, ranks, records.vocabulary)
    if _REPORT.value and isinstance(trained, TrainedModel):
        evaluation = Evaluation(
            model_dir=model_dirs[0],
            data_dir=pathlib.Path(records.data_dir),
            trained=trained,
            manifest=records.manifest,
            vocabulary=records.vocabulary,
            ranks=ranks,
            metrics=metrics,
            second_run=second_run,
        )
        with records.verified.unchanged():
            write_report(pathlib.Path(_REPORT.value), evaluation, item_groups)
    if _TRACKER.value == "mlflow" and isinstance(trained, TrainedModel):
        run = MlflowRun(_model_dirs()[0], trained.config, trained.manifest.sha256())
        run.add_evaluation(_SPLIT.value, metrics, pathlib.Path(_REPORT.value) if _REPORT.value else None)
    print_results(metrics, records.manifest)


@contextlib.contextmanager
def _written(output: str) -> Iterator[pathlib.Path]:
    """Yields a path for --output, and uploads the files beside it, and it last, if it is in an object store."""
    if not is_url(output):
        yield pathlib.Path(output)
        return
    folder, _, name = output.rpartition("/")
    store, local = Store.open(folder), new_temporary_folder("metrics")
    yield local / name
    store.upload(local, [path.name for path in local.iterdir() if path.name != name])
    store.upload(local, [name])


def _other_system() -> OtherSystem | str:
    """The system of --baseline, --scores or --ranker."""
    if _SCORES.value:
        predictions = Predictions.read(_SCORES.value)
        return OtherSystem(_SCORES.value, predictions.description, predictions.lists_of, reads_histories=False)
    if _RANKER.value:
        function = ranking_function(_RANKER.value)
        return OtherSystem(_RANKER.value, {"ranker": _RANKER.value}, function, reads_histories=True)
    return str(_BASELINE.value)


def _model_dirs() -> list[str]:
    return _MODEL.value or []


def _check_compare_flags() -> None:
    systems = (_MODEL, _BASELINE, _SCORES, _RANKER)
    flags_of_an_evaluation = (*systems, _DATA, _SPLIT, _SET, _DROP_SEEN, _REPORT, _COMPARE_WITH, _GROUPS, _TRACKER)
    given = [flag.name for flag in flags_of_an_evaluation if flag.present]
    if given:
        raise InputError(
            f"--compare reads two finished evaluations. Received: --{', --'.join(given)} besides. "
            "Fix: evaluate each with --output first"
        )


def _check_evaluation_flags() -> None:
    others = [f"--{flag.name}={flag.value}" for flag in (_BASELINE, _SCORES, _RANKER) if flag.value]
    given = [*(f"--model_dir={model_dir}" for model_dir in _model_dirs()), *others]
    if len(others) + bool(_model_dirs()) != 1:
        raise InputError(
            f"Give one of --model_dir, --baseline, --scores and --ranker. Received: {', '.join(given) or 'none'}"
        )
    if not _DATA.value:
        raise InputError("--data_dir must name the records to evaluate on. Received: none. Fix: --data_dir=data/ml-1m")
    for flag, is_wanted in (("--tracker=mlflow", _TRACKER.value == "mlflow"), ("--report", _REPORT.value)):
        if is_wanted and len(_model_dirs()) != 1:
            raise InputError(f"{flag} needs one model. Received: {', '.join(given)}. Fix: give one --model_dir")
    if _TRACKER.value == "mlflow":
        check_local("model_dir with --tracker=mlflow", _model_dirs()[0])
    if _COMPARE_WITH.value and not _REPORT.value:
        raise InputError(
            f"--compare_with needs --report. Received: --compare_with={_COMPARE_WITH.value} only. "
            "Fix: --report=report.html, or --compare=a/metrics.json,b/metrics.json without a report"
        )
    if _GROUPS.value and not _REPORT.value:
        raise InputError(
            f"--item_groups needs --report. Received: --item_groups={_GROUPS.value} only. Fix: --report=report.html"
        )


def _second_run(manifest: Manifest, drop_seen: bool) -> Run | None:
    """The run of --compare_with, if given, after a check that it can be compared with this evaluation."""
    if not _COMPARE_WITH.value:
        return None
    second_run = read_run(_COMPARE_WITH.value, "compare_with")
    second_run.check_rules("this evaluation", _SPLIT.value, manifest.sha256(), drop_seen)
    return second_run


def _evaluation_config(trained: TrainedModel | TrainedAverage | None) -> EvaluationConfig:
    """The settings of the (first) model, or the defaults for a baseline, with --set and --drop_seen applied."""
    drop_seen = [] if _DROP_SEEN.value is None else [f"evaluation.drop_seen={str(_DROP_SEEN.value).lower()}"]
    overrides = read_settings(None, [*_SET.value, *drop_seen])
    section = merge_evaluation_settings(trained.config.to_dict()["evaluation"] if trained else {}, overrides)
    return Config.from_dict({"evaluation": section}, "flags").evaluation


def run() -> None:
    """Runs the command."""
    run_main(main, __name__)
