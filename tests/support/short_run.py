"""A short run in this process, on a small log."""

import pathlib
from typing import Any

import tensorflow as tf

from bert4rec_tf.config import Config
from bert4rec_tf.training.trainer import train
from pipelines.build import build_records
from pipelines.sources.synthetic import MarkovLog

SETTINGS: dict[str, dict[str, Any]] = {
    "model": {"hidden_size": 4, "num_layers": 1, "num_heads": 1},
    "training": {
        "num_steps": 6, "batch_size": 8, "num_length_buckets": 1, "steps_per_epoch": 2, "jit_compile": False,
        "learning_rate": 0.01, "warmup_steps": 1,
    },
}  # fmt: skip


def build(directory: pathlib.Path, seed: int = 1, overwrite: bool = False, **sizes: int) -> pathlib.Path:
    config = Config.from_dict({"data": {"max_seq_length": 6, "min_user_events": 1, "num_shards": 2, "seed": seed}})
    log = MarkovLog(**({"num_users": 30, "num_items": 12, "num_themes": 3, "min_events": 5, "max_events": 9} | sizes))
    build_records(log, {}, config, str(directory), overwrite=overwrite)
    return directory


def train_here(data_dir: pathlib.Path, model_dir: pathlib.Path, **settings: dict[str, Any]) -> None:
    merged = {name: SETTINGS.get(name, {}) | settings.get(name, {}) for name in SETTINGS | settings}
    train(str(data_dir), str(model_dir), merged, tf.distribute.get_strategy())
