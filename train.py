"""Trains BERT4Rec on a data directory.

python train.py --data_dir=data/ml-1m --model_dir=models/ml-1m
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from bert4rec_tf.training.host_memory import keep_freed_memory

keep_freed_memory()  # before TensorFlow is imported, whose threads allocate

from absl import app, flags

from bert4rec_tf.command_line import command
from bert4rec_tf.config import read_settings
from bert4rec_tf.serving.export import ExportOptions, export
from bert4rec_tf.training.cluster import DEFAULT_TIMEOUT_MINUTES
from bert4rec_tf.training.strategy import STRATEGIES, make_strategy
from bert4rec_tf.training.trainer import train
from tfrecords.errors import check_local

_DATA = flags.DEFINE_string("data_dir", None, "made by pipelines/make_tfrecords.py", required=True)
_MODEL = flags.DEFINE_string("model_dir", None, "where the model goes; the same again continues", required=True)
_CONFIG = flags.DEFINE_string("config", None, "JSON of settings; see configs/")
_SET = flags.DEFINE_multi_string("set", [], "section.field=value over --config; repeatable")
_STRATEGY = flags.DEFINE_enum("strategy", "default", STRATEGIES, "tf.distribute strategy")
_CLUSTER_TIMEOUT = flags.DEFINE_float(
    "cluster_timeout_minutes",
    DEFAULT_TIMEOUT_MINUTES,
    "with a cluster in TF_CONFIG: how long to wait until all of its processes are there",
)
_MASKING = flags.DEFINE_enum("masking", None, ["pregenerated", "resample"], "sets training.masking")
_WARM = flags.DEFINE_string("warm_start_from", None, "a model directory whose weights a new run starts from")
_PROFILE = flags.DEFINE_bool("profile", False, "write a trace of ten steps past the 20th, or a few more")
_EXPORT = flags.DEFINE_string("export_dir", None, "also export the trained model here, for TF Serving")
_LIMIT = flags.DEFINE_float("time_limit_minutes", None, "end in good order by then, the schedule fitted to it")
_TOP_K = flags.DEFINE_integer("top_k", 10, "with --export_dir: items in an answer")


@command
def main() -> None:
    """Flags to settings and a strategy, and one call."""
    for flag in (_DATA, _MODEL, _CONFIG, _WARM, _EXPORT):
        check_local(flag.name, flag.value)
    masking = [f"training.masking={_MASKING.value}"] if _MASKING.value else []
    settings = read_settings(_CONFIG.value, [*_SET.value, *masking])
    publishing = ExportOptions(_TOP_K.value)  # refuses an impossible one before the training, not after
    strategy = make_strategy(_STRATEGY.value, _CLUSTER_TIMEOUT.value)
    trained = train(_DATA.value, _MODEL.value, settings, strategy, _LIMIT.value, _WARM.value, profile=_PROFILE.value)
    if trained is None:
        return  # the chief reports
    ndcg = trained.state["validation_ndcg@10"]
    validated = "not validated" if ndcg is None else f"best validation NDCG@10 {ndcg:.4f}"
    print(f"{_MODEL.value}: {validated} at step {trained.state['step']:,}")
    if _EXPORT.value:
        print(f"wrote {export(_MODEL.value, _EXPORT.value, publishing)}")


if __name__ == "__main__":
    app.run(main)
