"""`export.py` and `bert4rec-export`: write a SavedModel for TF Serving, promote or withdraw it, or roll back."""

import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import flags

from bert4rec_tf.command_line import command
from bert4rec_tf.commands.entry_point import run_main
from bert4rec_tf.serving.export import ExportOptions, export
from bert4rec_tf.serving.export_store import roll_back_store
from bert4rec_tf.serving.recommender import DEFAULT_MAX_K
from bert4rec_tf.serving.versions import promote, rollback, withdraw
from pipelines.sources.item_features import read_feature_table
from tfrecords.errors import InputError, check_local
from tfrecords.manifest import Manifest
from tfrecords.stores import check_path, is_url

_MODEL = flags.DEFINE_multi_string(
    "model_dir",
    None,
    "model directory written by train.py; repeatable: the version averages the scores of several models",
)
_EXPORT = flags.DEFINE_string(
    "export_dir",
    None,
    "directory to write versions in, each in a folder of its own; TF Serving's model_base_path",
    required=True,
)
_TOP_K = flags.DEFINE_integer("top_k", 10, "number of items in an answer, unless a request sets `k`")
_MAX_K = flags.DEFINE_integer(
    "max_k", None, f"largest `k` that a request may have; default: {DEFAULT_MAX_K:,}, or --top_k if that is larger"
)
_FEATURES = flags.DEFINE_string(
    "item_features",
    None,
    "table of items with the features that the model was trained with; its items that came after the training are "
    "recommended too, by their features alone",
)
_INDEX = flags.DEFINE_enum(
    "index",
    "exact",
    ["exact", "ivf"],
    "search over the items: `exact` scores all of them; `ivf` is approximate and faster, for 100,000 items or more",
)
_RECALL = flags.DEFINE_float(
    "min_recall", 0.95, "recall@100 that --index=ivf must reach over the validation users of --data_dir"
)
_DATA = flags.DEFINE_string(
    "data_dir",
    None,
    "directory of records written by pipelines/make_tfrecords.py; --index=ivf and --max_regression measure over its "
    "validation users",
)
_REGRESSION = flags.DEFINE_float(
    "max_regression",
    None,
    "refuse a model whose NDCG@10 is significantly lower than the served one's, by more than this share of it; "
    "default: publish without a comparison",
)
_KEEP = flags.DEFINE_integer(
    "keep_versions",
    None,
    "number of versions to keep, including the new one; the oldest ones are deleted; default: keep all",
)
_TRACKER = flags.DEFINE_enum(
    "tracker",
    "tensorboard",
    ["tensorboard", "mlflow"],
    "mlflow: adds the exported model and its signature to the MLflow run of --model_dir; tensorboard: adds nothing",
)
_LABEL = flags.DEFINE_enum(
    "label",
    "stable",
    ["stable", "canary"],
    "label of the new version: `stable` is served at once; `canary` is loaded beside the served one until "
    "`export.py promote` or `export.py withdraw`",
)
_POLL = flags.DEFINE_float(
    "poll_seconds",
    1.0,
    "how often the server reads models.config (its --model_config_file_poll_wait_seconds); the command waits twice "
    "this time before it removes a version with a label: in `rollback`, `promote` and `withdraw`, with "
    "--keep_versions of 1 or 2, and when a canary replaces another one",
)


@command
def main() -> None:
    """Exports a model."""
    check_local(_FEATURES.name, _FEATURES.value)
    for flag in (_EXPORT, _DATA):
        check_path(flag.name, flag.value)
    for path in _MODEL.value or ():
        check_path(_MODEL.name, path)
    if not _MODEL.value:
        raise InputError(
            "--model_dir must name a model written by train.py. Received: none. Fix: --model_dir=models/ml-1m"
        )
    options = ExportOptions(
        top_k=_TOP_K.value,
        max_k=_MAX_K.value,
        index=_INDEX.value,
        min_recall=_RECALL.value,
        data_dir=_DATA.value,
        max_regression=_REGRESSION.value,
        keep_versions=_KEEP.value,
        poll_seconds=_POLL.value,
        label=_LABEL.value,
    )
    table = None
    if _FEATURES.value:
        trained_kinds = Manifest.load(_MODEL.value[0]).source.get("item_features", {}).get("kinds", {})
        table = read_feature_table(_FEATURES.value, usual_kinds=trained_kinds)
    if _TRACKER.value == "mlflow":
        from bert4rec_tf.tracking.mlflow_run import MlflowRun  # MLflow is an optional package

        if len(_MODEL.value) > 1:
            received = ", ".join(f"--model_dir={path}" for path in _MODEL.value)
            raise InputError(f"--tracker=mlflow needs one model. Received: {received}. Fix: give --model_dir once")
        check_local("model_dir with --tracker=mlflow", _MODEL.value[0])
        check_local("export_dir with --tracker=mlflow", _EXPORT.value)
    version = export(_MODEL.value, _EXPORT.value, options, table)
    print(f"wrote {version}" + (", the canary" if options.label == "canary" else ""))
    if _TRACKER.value == "mlflow":
        MlflowRun.of_version(_MODEL.value[0], pathlib.Path(version)).add_model(pathlib.Path(version))


@command
def roll_back() -> None:
    """Withdraws the newest version."""
    check_path(_EXPORT.name, _EXPORT.value)
    withdrawn, served = (
        roll_back_store(_EXPORT.value) if is_url(_EXPORT.value) else rollback(_EXPORT.value, _POLL.value)
    )
    print(f"withdrew version {withdrawn}; {served} is served again")


@command
def promote_canary() -> None:
    """Serves the canary."""
    print(f"version {promote(_EXPORT.value, _KEEP.value, _POLL.value)} is served")


@command
def withdraw_canary() -> None:
    """Withdraws the canary."""
    withdrawn = withdraw(_EXPORT.value, _POLL.value)
    print("there is no canary" if withdrawn is None else f"withdrew canary {withdrawn}; the served version stays")


def run() -> None:
    """Runs the command."""
    actions = {"rollback": roll_back, "promote": promote_canary, "withdraw": withdraw_canary}
    action = actions.get("".join(sys.argv[1:2]))
    if action is not None:
        run_main(action, __name__, [sys.argv[0], *sys.argv[2:]])
    run_main(main, __name__)
