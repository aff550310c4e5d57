"""Times exact and approximate search over a million items on one core, beside one pass over the item table.

New items are interpolated from those of a trained model: the vector and the bias of each lie between those of an item
and one of its ten nearest neighbours. The histories are those of test users.

python benchmarks/serving_index.py --model_dir=models/beauty --data_dir=data/beauty --work_dir=/tmp/index
"""

import json
import os
import pathlib
import subprocess
import sys

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np
import tensorflow as tf
from absl import app, flags

from bert4rec_tf.checkpoints import Checkpoints, Progress
from bert4rec_tf.command_line import command
from bert4rec_tf.inputs.user_histories import iterate_raw_histories
from bert4rec_tf.model.bert4rec import build_model
from bert4rec_tf.model_dir import load_model, open_model_dir
from tests.support import cpp_runner
from tests.support.reading_time import reading_milliseconds
from tfrecords.vocabulary import NUM_SPECIAL_IDS, Vocabulary

ROOT = pathlib.Path(__file__).resolve().parents[1]
_MODEL = flags.DEFINE_string("model_dir", None, "model directory written by train.py", required=True)
_DATA = flags.DEFINE_string("data_dir", None, "directory of the records that the model was trained on", required=True)
_WORK = flags.DEFINE_string(
    "work_dir", None, "directory for the larger model and its exports; must not exist", required=True
)
_ITEMS = flags.DEFINE_integer("items", 1_000_000, "number of items of the larger model")
_REPEATS = flags.DEFINE_integer("repeats", 10, "number of repeats of each request")
_K, _USERS, _NEIGHBOURS, _STARTS = 100, 32, 10, 20_000


@command
def main() -> None:
    """Exports both indexes, requests the same users from both, and times a pass over the item table."""
    work = pathlib.Path(_WORK.value)
    work.mkdir(parents=True)
    enlarge(work / "model")
    versions = {}
    for index in ("exact", "ivf"):
        exports = work / index
        command = ["export.py", f"--model_dir={work / 'model'}", f"--export_dir={exports}", f"--index={index}"]
        command += [f"--data_dir={_DATA.value}", f"--top_k={_K}"]
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
        (versions[index],) = exports.glob("[0-9]*")
    rows = [row for users in iterate_raw_histories(_DATA.value, "test", _USERS, _USERS) for row in users.item_ids]
    requests: list[cpp_runner.Request] = [
        ("serving_default", {"item_ids": [[item_id for item_id in row if item_id]]}) for row in rows
    ]
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    program = cpp_runner.build(work)
    found: dict[str, list[set[str]]] = {}
    times: dict[str, float] = {}
    for index, version in versions.items():
        answers, measured = cpp_runner.run(program, version, requests, _REPEATS.value)
        found[index] = [recommended(answer) for answer in answers]
        times[index] = float(np.median(np.concatenate([np.array(row) for row in measured]))) / 1000
    recall = np.mean([len(ivf & exact) / _K for ivf, exact in zip(found["ivf"], found["exact"], strict=True)])
    metadata = json.loads((versions["ivf"] / "assets.extra" / "metadata.json").read_text())
    size = metadata["config"]["model"]["hidden_size"]
    read = reading_milliseconds(_ITEMS.value * size)
    rate = 4e-6 * _ITEMS.value * size / read
    print(f"{_ITEMS.value:,} items, d = {size}; reading the table once: {read:.1f} ms ({rate:.1f} GB/s)")
    print(f"exact, top {_K}: p50 {times['exact']:.1f} ms, {times['exact'] / read:.2f} times the reading")
    print(f"ivf, top {_K}: p50 {times['ivf']:.2f} ms, {times['exact'] / times['ivf']:.1f} times as fast")
    print(f"recall@{_K} on {len(rows)} test users: {recall:.4f}; at export: {metadata['index']}")


def recommended(answer: cpp_runner.Answer) -> set[str]:
    """The items of an answer to a request for one user."""
    assert isinstance(answer, dict), answer  # an error is a string
    return set(answer["item_ids"][0])


def enlarge(path: pathlib.Path) -> None:
    """Writes a model directory with the weights of `--model_dir` and interpolated items."""
    trained, random = load_model(_MODEL.value), np.random.default_rng(1)
    old = trained.vocabulary
    table, bias = trained.model.embedding.item_table.numpy(), trained.model.head.output_bias.numpy()
    starts = random.permutation(len(old.item_ids))[:_STARTS] + NUM_SPECIAL_IDS
    neighbours = []
    half_norms = np.square(table).sum(axis=1) / 2
    half_norms[:NUM_SPECIAL_IDS] = np.inf
    for block in np.array_split(starts, 40):
        nearness = table[block] @ table.T - half_norms
        neighbours.append(tf.math.top_k(nearness, _NEIGHBOURS + 1).indices.numpy()[:, 1:])
    chosen = random.integers(len(starts), size=_ITEMS.value - len(old.item_ids))
    first = starts[chosen]
    second = np.concatenate(neighbours)[chosen, random.integers(_NEIGHBOURS, size=len(chosen))]
    fraction = random.random(len(chosen), np.float32)
    more = table[first] + fraction[:, None] * (table[second] - table[first])
    names = tuple(f"between {number}" for number in range(len(chosen)))
    vocabulary = Vocabulary(
        old.item_ids + names, np.append(old.counts, np.zeros(len(chosen), np.int64)), old.titles + (None,) * len(chosen)
    )
    model = build_model(trained.config.model, vocabulary.size, trained.config.data.max_seq_length)
    for weight, value in zip(model.variables, trained.model.variables, strict=True):
        if weight.shape == value.shape:
            weight.assign(value)
    model.embedding.item_table.assign(np.concatenate([table, more]))
    model.head.output_bias.assign(np.concatenate([bias, bias[first] + fraction * (bias[second] - bias[first])]))
    open_model_dir(path, trained.config, trained.manifest, vocabulary)
    Checkpoints(path, {"model": model, "progress": Progress(1)}, to_keep=1).save(best=True)


if __name__ == "__main__":
    app.run(main)
