"""A model that answers requests in this process: an exported version, or a model directory."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from bert4rec_tf.config import Config
from bert4rec_tf.model_dir import CONFIG_FILE, load_model
from bert4rec_tf.model_store import fetch_model
from bert4rec_tf.serving.export_store import fetch_version
from bert4rec_tf.serving.nearest_items import NearestItems, read_item_vectors
from bert4rec_tf.serving.recommender import DEFAULT_MAX_K, Recommender
from bert4rec_tf.serving.versions import list_versions
from tfrecords.config import DataConfig
from tfrecords.errors import InputError
from tfrecords.stores import Store, check_path, is_url
from tfrecords.vocabulary import NUM_SPECIAL_IDS, Vocabulary

_EXTRA = "assets.extra"
_METADATA_FILE = f"{_EXTRA}/metadata.json"


@dataclasses.dataclass(frozen=True, eq=False)
class ServedModel:
    """The signatures of a model, and what their callers need to know.

    Attributes:
        version: the name of the exported version, or of a model directory's checkpoint, such as "step-1200".
        fingerprint: a hash that differs for models with other weights.
        signatures: by name, see `serving.recommender.Recommender`.
        vocabulary: its items, the ones that came after the training included.
        max_k: the largest `k` of the signature "recommend".
        categorical: names of the categorical features that filters may use.
        takes_times: whether the signatures take times.
        data: the settings that the model's records were built with; None: the version does not tell.
        read_item_vectors: returns the items' vectors, float32 [items, D].
        kept_alive: owns the graphs of the signatures.
    """

    version: str
    fingerprint: str
    signatures: Mapping[str, Any]
    vocabulary: Vocabulary
    max_k: int
    categorical: tuple[str, ...]
    takes_times: bool
    data: DataConfig | None
    read_item_vectors: Callable[[], np.ndarray]
    kept_alive: object

    @functools.cached_property
    def item_vectors(self) -> np.ndarray:
        """float32 [items, D], in the order of the vocabulary."""
        return self.read_item_vectors()

    @functools.cached_property
    def nearest_items(self) -> NearestItems:
        """Searches the items' vectors."""
        return NearestItems(self.item_vectors)

    @classmethod
    def load(cls, directory: str | pathlib.Path) -> "ServedModel":
        """Loads a model directory of `train`, an export directory (its newest version), or one version of it.

        All of them may be in an object store.

        Raises:
            InputError: the directory is none of these.
        """
        check_path("directory", directory)
        if is_url(directory):
            in_store = Store.open(directory).stamp(CONFIG_FILE) is not None
            return cls._of_model_dir(fetch_model(directory)) if in_store else cls._of_version(fetch_version(directory))
        path = pathlib.Path(directory)
        if (path / CONFIG_FILE).is_file():
            return cls._of_model_dir(path)
        exported = list_versions(path) if path.is_dir() else []
        version = exported[-1] if exported else path
        if not (version / "saved_model.pb").is_file():
            raise InputError(
                "`directory` must be a model directory of train, or a directory that export.py wrote. "
                f"Received: {os.fspath(directory)!r}"
            )
        return cls._of_version(version)

    @classmethod
    def _of_model_dir(cls, path: pathlib.Path) -> "ServedModel":
        trained = load_model(path)
        features = trained.item_features
        module = Recommender(trained.model, trained.vocabulary, top_k=10, item_features=features)
        digest = hashlib.sha256(trained.vocabulary.to_bytes())
        for weight in trained.model.weights:
            digest.update(np.ascontiguousarray(weight.numpy()).data)
        return cls(
            version=f"step-{trained.state['step']}",
            fingerprint=digest.hexdigest(),
            signatures=module.signatures(),
            vocabulary=trained.vocabulary,
            max_k=module.max_k,
            categorical=() if features is None else tuple(feature.name for feature in features.categorical()),
            takes_times=module.takes_times,
            data=trained.manifest.config.data,
            read_item_vectors=lambda: trained.model.item_table.numpy()[NUM_SPECIAL_IDS:],
            kept_alive=module,
        )

    @classmethod
    def _of_version(cls, version: pathlib.Path) -> "ServedModel":
        loaded = tf.saved_model.load(str(version))
        file = version / _METADATA_FILE
        metadata = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        vocabulary = Vocabulary.load(version / _EXTRA)
        digest = hashlib.sha256(vocabulary.to_bytes())
        for name in ("saved_model.pb", "variables/variables.index"):  # the index holds a checksum of each weight
            digest.update((version / name).read_bytes())
        return cls(
            version=version.name,
            fingerprint=digest.hexdigest(),
            signatures=loaded.signatures,
            vocabulary=vocabulary,
            max_k=metadata.get("max_k", DEFAULT_MAX_K),
            categorical=tuple(metadata.get("categorical_features", [])),
            takes_times=metadata.get("takes_times", False),
            data=Config.from_dict(metadata["config"], str(file)).data if "config" in metadata else None,
            read_item_vectors=lambda: read_item_vectors(version),
            kept_alive=loaded,
        )
