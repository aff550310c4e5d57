"""BERT4Rec (Sun et al., CIKM 2019, arXiv 1904.06690) for TensorFlow: model, training, evaluation, serving.

Importing the package loads nothing heavy; the public names below import TensorFlow when first touched.

It sets TF_USE_LEGACY_KERAS=1, which makes `tf.keras` Keras 2 (tf_keras) in the whole process. If
`tf.keras` was already used as Keras 3, the modules that need Keras 2 raise ImportError.

From a log to recommendations. There are ten films in a ring; each user watches six of them, one after the other:

>>> import bert4rec_tf
>>> import pyarrow as pa
>>> log = pa.table({
...     "user_id": [f"user-{user}" for user in range(20) for _ in range(6)],
...     "item_id": [str((user + event) % 10 + 1) for user in range(20) for event in range(6)],
...     "timestamp": list(range(120)),
... })
>>> titles = {str(number): f"Film {number}" for number in range(1, 11)}
>>> config = {
...     "data": {"max_seq_length": 6, "num_negatives": 3, "num_shards": 1},
...     "model": {"hidden_size": 16, "num_layers": 1, "attention": "prefix", "dense_initializer": "glorot"},
...     "training": {"num_steps": 60, "batch_size": 20, "learning_rate": 0.02, "steps_per_epoch": 60,
...                  "jit_compile": False},
... }
>>> built = bert4rec_tf.build_records(log, "data", config, timestamp_unit="s", titles=titles)
>>> trained = bert4rec_tf.train("data", "model", config)
training BERT4Rec, random prefix
20 instances, 10 items, 3,869 weights; batches of lengths 3; validation every 60 steps
>>> evaluation = bert4rec_tf.evaluate("model", "data")
>>> print(evaluation)
20 users, all items: hr@10 1.0000, ndcg@10 1.0000
>>> recommender = bert4rec_tf.Recommender.load("model")
>>> recommender.recommend([["1", "2", "3"]], k=1).item_ids
[['4']]

The examples of the other docstrings continue this one.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; at run time `__getattr__` imports these names
    from bert4rec_tf.api.recipes import recipe_names as recipe_names
    from bert4rec_tf.api.recommender import Recommendations as Recommendations
    from bert4rec_tf.api.recommender import Recommender as Recommender
    from bert4rec_tf.api.records import build_records as build_records
    from bert4rec_tf.api.runs import Evaluation as Evaluation
    from bert4rec_tf.api.runs import evaluate as evaluate
    from bert4rec_tf.api.runs import train as train
    from bert4rec_tf.api.split_tables import write_split_tables as write_split_tables
    from bert4rec_tf.config import Config as Config
    from bert4rec_tf.config import EvaluationConfig as EvaluationConfig
    from bert4rec_tf.config import ModelConfig as ModelConfig
    from bert4rec_tf.config import TrainingConfig as TrainingConfig
    from bert4rec_tf.model.bert4rec import Bert4Rec as Bert4Rec
    from bert4rec_tf.model_dir import TrainedModel as TrainedModel
    from bert4rec_tf.model_dir import load_model as load_model
    from bert4rec_tf.scoring.output import OutputOptions as OutputOptions
    from bert4rec_tf.serving.export import ExportOptions as ExportOptions
    from bert4rec_tf.serving.export import export as export
    from pipelines.build import BuildResult as BuildResult
    from tfrecords.config import DataConfig as DataConfig
    from tfrecords.config import MaskingConfig as MaskingConfig
    from tfrecords.errors import InputError as InputError
    from tfrecords.manifest import Manifest as Manifest
    from tfrecords.vocabulary import Vocabulary as Vocabulary

# tensorflow-recommenders and tf.distribute's proven paths need tf_keras (Keras 2). The switch is only read
# the first time that `tf.keras` is touched, so it must be set before any module of ours imports TensorFlow.
os.environ["TF_USE_LEGACY_KERAS"] = "1"

__version__ = "0.2.0"

_PUBLIC = {
    "Bert4Rec": "bert4rec_tf.model.bert4rec",
    "BuildResult": "pipelines.build",
    "Config": "bert4rec_tf.config",
    "DataConfig": "tfrecords.config",
    "Evaluation": "bert4rec_tf.api.runs",
    "EvaluationConfig": "bert4rec_tf.config",
    "ExportOptions": "bert4rec_tf.serving.export",
    "InputError": "tfrecords.errors",
    "Manifest": "tfrecords.manifest",
    "MaskingConfig": "tfrecords.config",
    "ModelConfig": "bert4rec_tf.config",
    "OutputOptions": "bert4rec_tf.scoring.output",
    "Recommendations": "bert4rec_tf.api.recommender",
    "Recommender": "bert4rec_tf.api.recommender",
    "TrainedModel": "bert4rec_tf.model_dir",
    "TrainingConfig": "bert4rec_tf.config",
    "Vocabulary": "tfrecords.vocabulary",
    "build_records": "bert4rec_tf.api.records",
    "evaluate": "bert4rec_tf.api.runs",
    "export": "bert4rec_tf.serving.export",
    "load_model": "bert4rec_tf.model_dir",
    "recipe_names": "bert4rec_tf.api.recipes",
    "train": "bert4rec_tf.api.runs",
    "write_split_tables": "bert4rec_tf.api.split_tables",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'bert4rec_tf' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
