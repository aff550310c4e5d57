"""Writes a SavedModel for TF Serving, or takes the newest one back.

python export.py --model_dir=models/ml-1m --export_dir=exports/ml-1m
python export.py rollback --export_dir=exports/ml-1m
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags

from bert4rec_tf.command_line import command
from bert4rec_tf.serving.export import Publishing, export
from bert4rec_tf.serving.recommender import DEFAULT_MAX_K
from bert4rec_tf.serving.versions import rollback
from tfrecords.errors import InputError, check_local

_MODEL = flags.DEFINE_string("model_dir", None, "made by train.py")
_EXPORT = flags.DEFINE_string(
    "export_dir", None, "TF Serving's model_base_path: versions appear below it", required=True
)
_TOP_K = flags.DEFINE_integer("top_k", 10, "items in an answer")
_MAX_K = flags.DEFINE_integer(
    "max_k", None, f"the largest `k` that a request may have; default: {DEFAULT_MAX_K:,}, or --top_k if that is larger"
)
_INDEX = flags.DEFINE_enum("index", "exact", ["exact", "ivf"], "ivf: approximate, for catalogues of 100,000 items up")
_RECALL = flags.DEFINE_float("min_recall", 0.95, "with --index=ivf: recall@100 to reach on --data_dir")
_DATA = flags.DEFINE_string("data_dir", None, "records whose users measure recall and regression")
_REGRESSION = flags.DEFINE_float(
    "max_regression", None, "refuse a model whose NDCG@10 is lower than the served one's by more than this share of it"
)
_KEEP = flags.DEFINE_integer("keep_versions", None, "delete versions, the oldest first, until so many are left")
_POLL = flags.DEFINE_float(
    "poll_seconds",
    1.0,
    "seconds between two times that the server reads models.config (its --model_config_file_poll_wait_seconds); twice "
    "as long is waited before a version with a label goes, in `rollback` and with --keep_versions of 1 or 2",
)


@command
def main() -> None:
    """Flags, and one call."""
    for flag in (_MODEL, _EXPORT, _DATA):
        check_local(flag.name, flag.value)
    if _MODEL.value is None:
        raise InputError("--model_dir must name a model made by train.py. Received: nothing")
    publishing = Publishing(
        top_k=_TOP_K.value,
        max_k=_MAX_K.value,
        index=_INDEX.value,
        min_recall=_RECALL.value,
        data_dir=_DATA.value,
        max_regression=_REGRESSION.value,
        keep_versions=_KEEP.value,
        poll_seconds=_POLL.value,
    )
    print(f"wrote {export(_MODEL.value, _EXPORT.value, publishing)}")


@command
def roll_back() -> None:
    """The same, backwards."""
    withdrawn, served = rollback(_EXPORT.value, _POLL.value)
    print(f"withdrew version {withdrawn}; {served} is served again")


if __name__ == "__main__":
    if sys.argv[1:2] == ["rollback"]:
        app.run(roll_back, argv=[sys.argv[0], *sys.argv[2:]])
    app.run(main)
