"""Exports a model of 200,000 items, and prints as JSON by how many MB a request of 400 rows grows the process.

python tests/support/request_memory.py EMPTY_DIR
"""

import json
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

import numpy as np
import tensorflow as tf

from bert4rec_tf.config import ModelConfig
from bert4rec_tf.model.bert4rec import build_model
from bert4rec_tf.serving.recommender import Recommender
from tfrecords.vocabulary import Vocabulary

NUM_ITEMS, ROWS = 200_000, 400


def export(path: str) -> None:
    """Saves a model with random weights."""
    names = tuple(f"item {number}" for number in range(NUM_ITEMS))
    vocabulary = Vocabulary(names, np.arange(NUM_ITEMS, 0, -1), (None,) * NUM_ITEMS)
    model = build_model(ModelConfig(hidden_size=8), vocabulary.size, 10)
    recommender = Recommender(model, vocabulary, top_k=10)
    tf.saved_model.save(recommender, path, signatures=recommender.signatures())


def peak_mb() -> float:
    """The highest resident memory since `reset_peak`."""
    (line,) = (line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def reset_peak() -> None:
    """Sets the highest resident memory to the current one."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def main(path: str) -> None:
    """Exports the model, then runs a small and a large request of each signature."""
    export(path)
    histories = np.array([[f"item {row}"] for row in range(ROWS)], object)
    excluded = [b"item %d" % number for number in range(50_000)]
    values = tf.train.Feature(bytes_list=tf.train.BytesList(value=excluded))
    long = tf.train.Example(features=tf.train.Features(feature={"excluded_item_ids": values})).SerializeToString()
    requests = {"serving_default": histories, "examples": np.array([long] + [b""] * (ROWS - 1), object)}
    grown = {}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        loaded = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], path)
        for name, value in requests.items():
            signature = loaded.signature_def[name]
            (fed,) = signature.inputs.values()
            fetched = [output.name for output in signature.outputs.values()]
            session.run(fetched, {fed.name: value[-1:]})
            reset_peak()
            before = peak_mb()
            session.run(fetched, {fed.name: value})
            grown[name] = round(peak_mb() - before)
    print(json.dumps(grown))


if __name__ == "__main__":
    main(sys.argv[1])
