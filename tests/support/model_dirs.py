"""A model directory and its checkpoints, without training."""

import dataclasses
import pathlib

import numpy as np
import tensorflow as tf

from bert4rec_tf.checkpoints import Checkpoints, Progress
from bert4rec_tf.config import Config, ModelConfig
from bert4rec_tf.model.bert4rec import Bert4Rec, build_model
from bert4rec_tf.model_dir import open_model_dir
from bert4rec_tf.training.optimizer import make_optimizer
from tfrecords.config import DataConfig, RecordsConfig
from tfrecords.manifest import Manifest
from tfrecords.vocabulary import Vocabulary

CONFIG = Config(data=DataConfig(max_seq_length=5), model=ModelConfig(hidden_size=4, num_heads=1, num_layers=1))
VOCABULARY = Vocabulary(("a\tb", "c\n", "\u2028"), np.array([3, 2, 1]), ("A", None, None))
MANIFEST = Manifest(
    RecordsConfig(CONFIG.data, CONFIG.masking),
    {"format": "synthetic"},
    {"items": 3},
    (),
    VOCABULARY.sha256(),
    {"train": ()},
)


@dataclasses.dataclass
class Run:
    """The state of a training run, without the training."""

    model: Bert4Rec
    optimizer: tf.keras.optimizers.Optimizer
    progress: Progress
    checkpoints: Checkpoints

    def go_to(self, step: int) -> None:
        """Sets the step and every weight to `step`."""
        self.progress.step.assign(step)
        for weight in self.model.weights:
            weight.assign(tf.fill(weight.shape, float(step)))


def start_run(model_dir: pathlib.Path, to_keep: int = 2) -> Run:
    model = build_model(CONFIG.model, VOCABULARY.size, CONFIG.data.max_seq_length)
    progress = Progress(total_steps=10)
    optimizer = make_optimizer(CONFIG.training, progress.total_steps)
    optimizer.build(model.trainable_variables)
    tracked = {"model": model, "optimizer": optimizer, "progress": progress}
    return Run(model, optimizer, progress, Checkpoints(model_dir, tracked, to_keep))


def trained_dir(tmp_path: pathlib.Path) -> pathlib.Path:
    """Holds a best checkpoint of step 1 and a latest one of step 2."""
    model_dir = tmp_path / "model"
    open_model_dir(model_dir, CONFIG, MANIFEST, VOCABULARY)
    run = start_run(model_dir)
    for step, best in ((1, True), (2, False)):
        run.go_to(step)
        run.checkpoints.save(best=best)
    return model_dir


def files_in(directory: pathlib.Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def damage(directory: pathlib.Path, kind: str) -> None:
    """Damages a checkpoint as a full disk, an incomplete copy or a faulty disk would."""
    (data,), (index,) = directory.glob("*.data-*"), directory.glob("*.index")
    content = data.read_bytes()
    if kind == "data cut":
        data.write_bytes(content[: len(content) // 2])
    elif kind == "data flipped":
        data.write_bytes(bytes([content[0] ^ 0xFF]) + content[1:])
    elif kind == "data missing":
        data.unlink()
    elif kind == "index cut":
        index.write_bytes(index.read_bytes()[:20])
    elif kind == "index missing":
        index.unlink()


DAMAGES = ["data cut", "data flipped", "data missing", "index cut", "index missing"]
