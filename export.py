"""Writes a SavedModel for TF Serving.

python export.py --model_dir=models/ml-1m --export_dir=exports/ml-1m
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags

from bert4rec_tf.errors import command
from bert4rec_tf.serving import export

_MODEL = flags.DEFINE_string("model_dir", None, "made by train.py", required=True)
_EXPORT = flags.DEFINE_string(
    "export_dir", None, "TF Serving's model_base_path: versions appear below it", required=True
)
_TOP_K = flags.DEFINE_integer("top_k", 10, "items in an answer")


@command
def main() -> None:
    """Flags, and one call."""
    print(f"wrote {export(_MODEL.value, _EXPORT.value, _TOP_K.value)}")


if __name__ == "__main__":
    app.run(main)
