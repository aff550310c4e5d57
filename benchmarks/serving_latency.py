"""Times an exported version on one core in C++'s LoadSavedModel, beside the encoder's matrix products alone.

python benchmarks/serving_latency.py --version=exports/ml-1m/1764000000 --data_dir=data/ml-1m
"""

import json
import os
import pathlib
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np
import tensorflow as tf
from absl import app, flags

from bert4rec_tf.command_line import command
from bert4rec_tf.config import Config, ModelConfig
from bert4rec_tf.inputs.user_histories import iterate_raw_histories
from tests.support import cpp_runner

_VERSION = flags.DEFINE_string("version", None, "directory of an exported version", required=True)
_DATA = flags.DEFINE_string("data_dir", None, "directory of the records whose test users are requested", required=True)
_REPEATS = flags.DEFINE_integer("repeats", 40, "number of repeats of each request")
_USERS = 256
_LARGE = 64


class MatrixProducts(tf.Module):
    """Only the encoders' matrix products, for one history of N slots. Variables keep TensorFlow from folding them."""

    def __init__(self, models: list[Config]):
        super().__init__()
        self._products: list[tuple[tf.Variable, tf.Variable]] = []
        for each in models:
            self._add(each.model, each.data.max_seq_length)

    def _add(self, config: ModelConfig, length: int) -> None:
        size, heads = config.hidden_size, config.num_heads
        inner = config.feed_forward_size or 4 * size
        for block in range(config.num_layers):
            queries = 1 if block == config.num_layers - 1 else length
            part = size // heads
            for left, right in (
                ([queries, size], [size, size]),  # query
                ([length, size], [size, 2 * size]),  # key and value
                ([heads, queries, part], [heads, part, length]),
                ([heads, queries, length], [heads, length, part]),
                ([queries, size], [size, size]),  # output
                ([queries, size], [size, inner]),
                ([queries, inner], [inner, size]),
            ):
                self._products.append((tf.Variable(tf.random.normal(left)), tf.Variable(tf.random.normal(right))))
        self._products.append((tf.Variable(tf.random.normal([1, size])), tf.Variable(tf.random.normal([size, size]))))

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32, "x")])
    def all(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes every product once, and returns one element of each."""
        found = [tf.reshape(tf.matmul(left, right), [-1])[0] for left, right in self._products]
        return {"y": tf.stack(found) + x}


@command
def main() -> None:
    """Times the products, requests of one user, and requests of 64 users."""
    version = pathlib.Path(_VERSION.value)
    metadata = json.loads((version / "assets.extra" / "metadata.json").read_text())
    models = [Config.from_dict(member["config"]) for member in metadata.get("members", [metadata])]
    length = max(config.data.max_seq_length for config in models)
    histories = [row for users in iterate_raw_histories(_DATA.value, "test", 64, _USERS) for row in users.item_ids]
    histories = [[item_id for item_id in row if item_id] for row in histories]
    longest = sorted(histories, key=len, reverse=True)[:25]
    full_length = [(row * length)[-(length - 1) :] for row in longest]  # shorter ones are repeated
    with tempfile.TemporaryDirectory() as work:
        program = cpp_runner.build(pathlib.Path(work))
        products = MatrixProducts(models)
        tf.saved_model.save(products, f"{work}/products", signatures={"all": products.all})
        (alone,) = timed(program, pathlib.Path(work) / "products", [("all", {"x": np.float32(0)})], 1000)
        one = np.concatenate(timed(program, version, [make_request([row]) for row in full_length], _REPEATS.value))
        p50, p99 = np.percentile(one, [50, 99])
        print(f"matrix products of {len(models)} encoder(s), {length} slots: p50 {np.median(alone):.0f} us")
        print(f"one user, {length - 1} items: p50 {p50:.0f} us ({p50 / np.median(alone):.2f} times the products)")
        print(f"                  p99 {p99:.0f} us ({p99 / p50:.2f} times p50); {len(one):,} requests")
        for name, rows in (("real histories", histories), (f"{length - 1} items each", full_length * 11)):
            rows = rows[:_USERS]
            singles = [make_request([row]) for row in rows]
            single = sum(np.median(times) for times in timed(program, version, singles, 5))
            batches = [make_request(rows[first : first + _LARGE]) for first in range(0, len(rows), _LARGE)]
            joint = sum(np.median(times) for times in timed(program, version, batches, 5))
            print(
                f"{name}: {1e6 * len(rows) / single:.0f} users/s one by one, {1e6 * len(rows) / joint:.0f} by "
                f"{_LARGE} ({single / joint:.2f} times)"
            )


def timed(program: pathlib.Path, version: pathlib.Path, requests: list, repeats: int) -> list[np.ndarray]:
    """Microseconds of each repeat of each request, on one core and one thread."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    try:
        answers, times = cpp_runner.run(program, version, requests, repeats)
    finally:
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    for answer in answers:
        assert isinstance(answer, dict), answer
    return [np.array(row) for row in times]


def make_request(rows: list[list[str]]) -> tuple[str, dict[str, object]]:
    """A request to `serving_default` for these histories."""
    width = max(map(len, rows))
    return "serving_default", {"item_ids": [row + [""] * (width - len(row)) for row in rows]}


if __name__ == "__main__":
    app.run(main)
