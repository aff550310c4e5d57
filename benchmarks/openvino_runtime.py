"""Compares OpenVINO with TensorFlow on one core: equal answers, and the users that each answers in a second.

python benchmarks/openvino_runtime.py --model_dir=models/ml-1m --data_dir=data/ml-1m
"""

import os
import pathlib
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np
import tensorflow as tf
from absl import app, flags

from bert4rec_tf.command_line import command
from bert4rec_tf.inputs.evaluation_batches import evaluation_batches
from bert4rec_tf.model_dir import load_model
from tests.support.integer_graph import Answer, IntegerGraph, openvino_answer
from tfrecords.manifest import Manifest

_MODEL = flags.DEFINE_string("model_dir", None, "directory of a trained model", required=True)
_DATA = flags.DEFINE_string("data_dir", None, "directory of the records whose test users are asked", required=True)
_USERS = flags.DEFINE_integer("users", 500, "number of test users")
_REPEATS = flags.DEFINE_integer("repeats", 5, "number of repeats; the fastest counts")
_K, _ROWS = 10, 64


@command
def main() -> None:
    """Asks both the same requests of one user and of 64."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before TensorFlow starts its threads
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    trained, manifest = load_model(_MODEL.value), Manifest.load(_DATA.value)
    max_items = trained.model.max_seq_length - 1
    batches = evaluation_batches(_DATA.value, manifest, "test", _ROWS, _USERS.value, max_items)
    many = [batch["item_ids"].numpy() for batch in batches]
    one = [row[None, : np.count_nonzero(row)] for rows in many for row in rows]
    with tempfile.TemporaryDirectory() as work:
        graph = IntegerGraph(trained.model, trained.vocabulary, _K)
        graph.save(pathlib.Path(work))
        openvino = openvino_answer(pathlib.Path(work), threads=1)
        answers = [(*openvino(rows), *graph.answer(rows)) for rows in many]
        equal = sum(int((ids == expected).all(axis=1).sum()) for _, ids, _, expected in answers)
        largest = max(float(np.abs(scores - expected).max()) for scores, _, expected, _ in answers)
        print(f"equal lists of {_K} items: {equal:,} of {len(one):,} users; scores differ by {largest:.1e} at most")
        for name, requests in (("one by one", one), (f"by {_ROWS}", many)):
            first, second = (_users_per_second(answer, requests) for answer in (graph.answer, openvino))
            print(f"{name}: TensorFlow {first:,.0f} users/s, OpenVINO {second:,.0f} ({second / first:.2f} times)")


def _users_per_second(answer: Answer, requests: list[np.ndarray]) -> float:
    def seconds() -> float:
        started = time.perf_counter()
        for request in requests:
            answer(request)
        return time.perf_counter() - started

    seconds()  # the first requests of each shape prepare their memory
    return sum(map(len, requests)) / min(seconds() for _ in range(_REPEATS.value))


if __name__ == "__main__":
    app.run(main)
