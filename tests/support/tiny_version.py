"""Small exported versions. The prefix of an item id tells its version."""

import pathlib

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog, PredictLog

from bert4rec_tf.config import ModelConfig
from bert4rec_tf.model.bert4rec import build_model
from bert4rec_tf.serving.item_scores import item_scores
from bert4rec_tf.serving.ivf_index import InvertedFileIndex
from bert4rec_tf.serving.recommender import Recommender
from bert4rec_tf.serving.warmup import WARM_UP_FILE, write_warm_up
from tfrecords.vocabulary import Vocabulary

NUM_ITEMS = 12
TOP_K = 4
MAX_SEQ_LENGTH = 6


def write_version(path: pathlib.Path, prefix: str, index: str = "exact") -> pathlib.Path:
    """Writes a version with random weights and the items `prefix`0, `prefix`1 ..., by falling popularity."""
    item_ids, counts = tuple(f"{prefix}{number}" for number in range(NUM_ITEMS)), np.arange(NUM_ITEMS, 0, -1)
    vocabulary = Vocabulary(item_ids, counts, ("A title",) * NUM_ITEMS)
    model = build_model(ModelConfig(hidden_size=8, initializer_range=1.0), vocabulary.size, MAX_SEQ_LENGTH)
    cells = InvertedFileIndex(item_scores(model, vocabulary), num_cells=3) if index == "ivf" else None
    recommender = Recommender(model, vocabulary, TOP_K, cells)
    return save_version(path, recommender, vocabulary, MAX_SEQ_LENGTH)


def save_version(
    path: pathlib.Path, recommender: Recommender, vocabulary: Vocabulary, max_seq_length: int, **warm_up: bool
) -> pathlib.Path:
    """Writes a version that appears whole; `warm_up`: further arguments of `write_warm_up`."""
    building = path.with_name(f".tmp-{path.name}")
    tf.saved_model.save(recommender, str(building), signatures=recommender.signatures())
    (building / "assets.extra").mkdir()
    (building / "assets.extra" / "vocabulary.jsonl").write_bytes(vocabulary.to_bytes())
    write_warm_up(building, vocabulary, max_seq_length, **warm_up)
    return building.rename(path)


def write_bad_warm_up(version: pathlib.Path) -> None:
    """Replaces the warm-up requests by one that every version refuses: `k` is 0."""
    request = PredictRequest()
    request.model_spec.signature_name = "recommend"
    request.inputs["item_ids"].CopyFrom(tf.make_tensor_proto([["b1"]]))
    request.inputs["k"].CopyFrom(tf.make_tensor_proto([0]))
    with tf.io.TFRecordWriter(str(version / WARM_UP_FILE)) as writer:
        writer.write(PredictionLog(predict_log=PredictLog(request=request)).SerializeToString())
