"""A model directory: settings, vocabulary, records' manifest and checkpoints of one run.

config.json  vocabulary.jsonl  manifest.json     copies that make the directory self-contained; config.json is last
item_features.parquet                            of the items, if the model uses their features
checkpoints/latest/ckpt-400/  …/best/ckpt-200/   TensorFlow checkpoints by step
history.jsonl  tensorboard/                      one line per validation; scalars
mlflow_run.json                                  the id of the MLflow run, with --tracker=mlflow
"""

import dataclasses
import json
import pathlib
from typing import Any

import tensorflow as tf

from bert4rec_tf.checkpoints import Progress, restore_best
from bert4rec_tf.config import Config, fields_with
from bert4rec_tf.model.bert4rec import Bert4Rec, build_model
from bert4rec_tf.model.folding import fold_item_vectors
from bert4rec_tf.model.item_features import FeatureArrays
from bert4rec_tf.model_store import fetch_model
from tfrecords.errors import InputError, writing
from tfrecords.files import write_whole
from tfrecords.item_features import ItemFeatures
from tfrecords.manifest import ITEM_FEATURES_FILE, MANIFEST_FILE, Manifest
from tfrecords.settings import MODEL_NAME, without_model_name
from tfrecords.store_cache import showing
from tfrecords.stores import is_url
from tfrecords.vocabulary import VOCABULARY_FILE, Vocabulary

CONFIG_FILE = "config.json"
HISTORY_FILE = "history.jsonl"


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A loaded model directory.

    Attributes:
        model: the model with the weights of the best checkpoint.
        vocabulary: the vocabulary of its records.
        config: the settings of the run.
        manifest: the manifest of its records.
        state: step, elapsed seconds and validation metric of that checkpoint.
        item_features: that the model was trained with; None: with none.

    >>> trained.config.model.model_name
    'BERT4Rec, random prefix'
    >>> trained.model.count_params(), trained.vocabulary.size, trained.config.training.num_steps
    (3869, 13, 60)
    >>> sorted(trained.state)
    ['elapsed_seconds', 'step', 'validation_ndcg@10']
    """

    model: Bert4Rec
    vocabulary: Vocabulary
    config: Config
    manifest: Manifest
    state: dict[str, Any]
    item_features: ItemFeatures | None = None

    def description(self) -> dict[str, Any]:
        """Its name, its settings and the state of its training, as JSON values for metrics and metadata.

        >>> trained.description()["training"]["step"]
        60
        """
        return {MODEL_NAME: self.config.model.model_name, "config": self.config.to_dict(), "training": self.state}

    def check_vocabulary(self, vocabulary: Vocabulary, received: str) -> None:
        """Refuses records of other items; titles and counts may differ.

        Args:
            vocabulary: of the records.
            received: what was given, for the message.

        Raises:
            InputError: the items differ.

        >>> trained.check_vocabulary(Vocabulary.load("data"), "the records in data")
        """
        if self.vocabulary.item_ids != vocabulary.item_ids:
            raise InputError(
                f"A model must be evaluated on records with its own vocabulary. Received: {received}, which differ. "
                "Fix: name the --data_dir that the model was trained on"
            )


def open_model_dir(
    model_dir: str | pathlib.Path,
    config: Config,
    manifest: Manifest,
    vocabulary: Vocabulary,
    item_features: ItemFeatures | None = None,
) -> None:
    """Makes a model directory, or checks that an existing one belongs to this run.

    Args:
        model_dir: where it is.
        config: of the run.
        manifest: of its records.
        vocabulary: of its records.
        item_features: that the model uses; None: it uses none.

    Raises:
        InputError: the directory holds another run (names the first difference), or other files.
    """
    directory = pathlib.Path(model_dir)
    if (directory / CONFIG_FILE).is_file():
        _check_same_run(directory, config, manifest)
        return
    if directory.exists() and not directory.is_dir():
        raise InputError(f"--model_dir must be a directory. Received: {directory}, a file")
    known = {VOCABULARY_FILE, MANIFEST_FILE, ITEM_FEATURES_FILE, f".{CONFIG_FILE}.tmp"}
    if directory.exists() and any(path.name not in known for path in directory.iterdir()):
        raise InputError(
            f"--model_dir must be new, empty or made by train.py. Received: {directory}, which holds "
            "something else. Fix: name another directory"
        )
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / VOCABULARY_FILE).write_bytes(vocabulary.to_bytes())
        (directory / MANIFEST_FILE).write_bytes(manifest.to_bytes())
        if item_features is not None:
            (directory / ITEM_FEATURES_FILE).write_bytes(item_features.to_bytes())
    named = {MODEL_NAME: config.model.model_name} | config.to_dict()
    write_whole(directory / CONFIG_FILE, json.dumps(named, indent=1) + "\n")


def load_model(model_dir: str | pathlib.Path, *, fold: bool = True) -> TrainedModel:
    """Loads the best checkpoint of a model directory (the latest one if there was no validation).

    If the best one is damaged, warns on stderr, naming both, and loads another one, see `checkpoints.restore_best`.

    Args:
        model_dir: the model directory, on this machine or in an object store.
        fold: whether the features of items become part of the item table, see `fold_item_vectors`. The model then
            ranks and serves as a model without features does.

    Raises:
        InputError: there is no trained model, or all checkpoints are damaged.

    >>> load_model("model").vocabulary.size
    13
    """
    directory = fetch_model(model_dir)
    if is_url(model_dir):
        with showing(model_dir, directory):
            return load_model(directory, fold=fold)
    config, vocabulary = _read_config(directory), Vocabulary.load(directory)
    manifest = Manifest.load(directory)
    features = None if config.model.item_features == "none" else ItemFeatures.load(directory)
    arrays = None if features is None else FeatureArrays.of(features, vocabulary.counts)
    model = build_model(
        config.model, vocabulary.size, config.data.max_seq_length, item_features=arrays, draw_items=False
    )
    progress = Progress(0)
    restore_best(directory, tf.train.Checkpoint(model=model, progress=progress))
    model = fold_item_vectors(model) if fold else model
    return TrainedModel(model, vocabulary, config, manifest, progress.to_dict(), features)


def _read_config(directory: pathlib.Path) -> Config:
    path = directory / CONFIG_FILE
    if not path.is_file():
        raise InputError(f"--model_dir must be made by train.py. Received: {directory}, without a {CONFIG_FILE}")
    try:
        return Config.from_dict(without_model_name(json.loads(path.read_text(encoding="utf-8"))), str(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} must be JSON. Received: line {error.lineno}: {error.msg}") from None


def _check_same_run(directory: pathlib.Path, config: Config, manifest: Manifest) -> None:
    old, new = _read_config(directory).to_dict(), config.to_dict()
    for section in ("model", "training", "evaluation"):  # `evaluation` decides which checkpoint is the best
        resumable = fields_with(type(getattr(config, section)), "resumable")
        for field, value in new[section].items():
            if value != old[section][field] and field not in resumable:
                raise InputError(
                    f"`{section}.{field}` must equal that of the run in {directory}. Received: {value!r}, that run's "
                    f"value is {old[section][field]!r}. Fix: name another --model_dir, or set "
                    f"{section}.{field}={old[section][field]!r}"
                )
    trained_on = Manifest.load(directory).sha256()
    if trained_on != manifest.sha256():
        raise InputError(
            f"A run must resume with its own records. Received: {directory} was trained on other "
            "records than --data_dir holds. Fix: name another --model_dir"
        )
