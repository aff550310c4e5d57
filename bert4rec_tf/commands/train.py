"""`train.py` and `bert4rec-train`: train BERT4Rec on a data directory."""

import os
import pathlib

# Level 3: TensorFlow reports errors as exceptions, and writes a warning for each program that it loads from the cache.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from bert4rec_tf.training.compilation_cache import use_compilation_cache
from bert4rec_tf.training.host_memory import keep_freed_memory

# Both before TensorFlow is imported.
keep_freed_memory()
use_compilation_cache()

from absl import flags

from bert4rec_tf.api.auto_recipe import AUTO, describe_training, training_settings
from bert4rec_tf.api.recipes import config_file
from bert4rec_tf.command_line import command
from bert4rec_tf.commands.entry_point import run_main
from bert4rec_tf.config import read_settings
from bert4rec_tf.serving.export import ExportOptions, export
from bert4rec_tf.training.cluster import DEFAULT_TIMEOUT_MINUTES
from bert4rec_tf.training.strategy import STRATEGIES, make_strategy
from bert4rec_tf.training.trainer import needs_mounted_folder, train
from tfrecords.errors import check_local
from tfrecords.manifest import Manifest
from tfrecords.stores import check_path, is_url

_DATA = flags.DEFINE_string("data_dir", None, "data directory, made by pipelines/make_tfrecords.py", required=True)
_MODEL = flags.DEFINE_string("model_dir", None, "output directory; an existing run there is resumed", required=True)
_CONFIG = flags.DEFINE_string(
    "config",
    None,
    "JSON file of settings, the name of a recipe, such as bert4rec-dense, or `auto`, which chooses by the records; "
    "other settings keep their defaults",
)
_SET = flags.DEFINE_multi_string("set", [], "a setting as section.field=value, which overrides --config; repeatable")
_STRATEGY = flags.DEFINE_enum(
    "strategy", "default", STRATEGIES, "how steps are distributed: the tf.distribute strategy; default: one device"
)
_CLUSTER_TIMEOUT = flags.DEFINE_float(
    "cluster_timeout_minutes",
    DEFAULT_TIMEOUT_MINUTES,
    "longest wait, in minutes, for the other processes of the cluster in TF_CONFIG to start",
)
_MASKING = flags.DEFINE_enum(
    "masking",
    None,
    ["pregenerated", "resample"],
    "sets training.masking; pregenerated: masks stored in the records, resample: new masks in every pass",
)
_WARM = flags.DEFINE_string(
    "warm_start_from", None, "model directory whose weights a new run starts from; a resumed run ignores it"
)
_PROFILE = flags.DEFINE_bool("profile", False, "write a TensorBoard trace of at least ten steps, from the 20th on")
_EXPORT = flags.DEFINE_string(
    "export_dir", None, "directory for an export of the trained model for TF Serving; without it, nothing is exported"
)
_LIMIT = flags.DEFINE_float(
    "time_limit_minutes",
    None,
    "longest training time in minutes, earlier calls included; the learning-rate schedule is fitted to it",
)
_TRACKER = flags.DEFINE_enum(
    "tracker",
    "tensorboard",
    ["tensorboard", "mlflow"],
    "where settings and curves go; tensorboard: the folder of that name in --model_dir; mlflow: there, and to MLflow, "
    "in the store of MLFLOW_TRACKING_URI, or else in the folder `mlflow` beside --model_dir",
)
_TOP_K = flags.DEFINE_integer("top_k", 10, "number of items that the exported model recommends; only with --export_dir")


@command
def main() -> None:
    """Reads the flags, trains, and exports if --export_dir is given."""
    check_local(_CONFIG.name, _CONFIG.value)
    for flag in (_DATA, _MODEL, _WARM, _EXPORT):
        check_path(flag.name, flag.value)
    masking = [f"training.masking={_MASKING.value}"] if _MASKING.value else []
    automatic = _CONFIG.value == AUTO
    settings = read_settings(None if automatic else config_file(_CONFIG.value), [*_SET.value, *masking])
    if automatic:
        manifest = Manifest.load(_DATA.value)
        settings = training_settings(manifest, settings)
        print(describe_training(manifest, settings))
    make_tracker = None
    if _TRACKER.value == "mlflow":
        from bert4rec_tf.tracking.mlflow_run import MlflowRun  # MLflow is an optional package

        check_local("model_dir with --tracker=mlflow", _MODEL.value)
        check_local("export_dir with --tracker=mlflow", _EXPORT.value)
        make_tracker = MlflowRun
    publishing = ExportOptions(_TOP_K.value)  # refuses an impossible --top_k before the training
    if _STRATEGY.value in ("multi_worker_mirrored", "parameter_server") and is_url(_MODEL.value):
        raise needs_mounted_folder(_MODEL.value)  # before it waits for the others
    strategy = make_strategy(_STRATEGY.value, _CLUSTER_TIMEOUT.value)
    limits = _LIMIT.value, _WARM.value, _PROFILE.value
    trained = train(_DATA.value, _MODEL.value, settings, strategy, *limits, make_tracker)
    if trained is None:
        return  # only the chief reports
    ndcg = trained.state["validation_ndcg@10"]
    validated = "not validated" if ndcg is None else f"best validation NDCG@10 {ndcg:.4f}"
    print(f"{_MODEL.value}: {validated} at step {trained.state['step']:,}")
    if _EXPORT.value:
        version = export(_MODEL.value, _EXPORT.value, publishing)
        print(f"wrote {version}")
        if make_tracker is not None:
            make_tracker.of_version(_MODEL.value, pathlib.Path(version)).add_model(pathlib.Path(version))


def run() -> None:
    """Runs the command."""
    run_main(main, __name__)
