"""BERT4Rec (Sun et al., CIKM 2019, arXiv 1904.06690) for TensorFlow: model, training, evaluation, serving.

Importing the package loads nothing heavy; the public names below import TensorFlow when first touched.

It sets TF_USE_LEGACY_KERAS=1, which makes `tf.keras` Keras 2 (tf_keras) in the whole process, whoever uses it. Where
`tf.keras` was used before as Keras 3, the modules that need Keras 2 raise ImportError.
"""

import importlib
import os
from typing import Any

# tensorflow-recommenders and tf.distribute's proven paths need tf_keras (Keras 2). The switch is only read
# the first time that `tf.keras` is touched, so it must be set before any module of ours imports TensorFlow.
os.environ["TF_USE_LEGACY_KERAS"] = "1"

__version__ = "0.1.0"

_PUBLIC = {
    "Bert4Rec": "bert4rec_tf.model.bert4rec",
    "Config": "bert4rec_tf.config",
    "Recommender": "bert4rec_tf.api.recommender",
    "Vocabulary": "tfrecords.vocabulary",
    "build_records": "bert4rec_tf.api.records",
    "evaluate": "bert4rec_tf.api.runs",
    "export": "bert4rec_tf.serving.export",
    "load_model": "bert4rec_tf.model_dir",
    "recipe_names": "bert4rec_tf.api.recipes",
    "train": "bert4rec_tf.api.runs",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'bert4rec_tf' has no attribute {name!r}")
