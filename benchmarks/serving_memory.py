"""Measures the memory and the time to export, load and ask a version of millions of items.

The weights are random, since neither memory nor time depends on them. A C++ program loads the version as TF Serving
does.

python benchmarks/serving_memory.py --work_dir=/tmp/serving_memory --items=10000000
"""

import multiprocessing
import os
import pathlib
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import app, flags

from bert4rec_tf.command_line import command
from tests.support.reading_time import reading_milliseconds

ROOT = pathlib.Path(__file__).resolve().parents[1]
_WORK = flags.DEFINE_string("work_dir", None, "directory for the model and its export; must not exist", required=True)
_ITEMS = flags.DEFINE_integer("items", 10_000_000, "number of items")
_SIZE = flags.DEFINE_integer("hidden_size", 64, "size of an item's vector")
_REPEATS = flags.DEFINE_integer("repeats", 5, "number of repeats of each request")
_LOG = "synthetic:num_users=100,num_items=50,num_themes=5"
_K, _LENGTH, _ROWS = 100, 50, 64


@command
def main() -> None:
    """Runs each part in a process of its own, so that the memory of one does not count for another."""
    work = pathlib.Path(_WORK.value)
    work.mkdir(parents=True)
    settings = [f"--set=data.max_seq_length={_LENGTH}", "--set=data.num_negatives=5"]
    records = [f"--dataset={_LOG}", f"--output_dir={work / 'data'}", *settings]
    subprocess.run([sys.executable, "pipelines/make_tfrecords.py", *records], cwd=ROOT, check=True, stdout=sys.stderr)
    _in_a_process(write_model, work, _ITEMS.value, _SIZE.value)
    print(f"{_ITEMS.value:,} items, d = {_SIZE.value}: a table of {4 * _ITEMS.value * _SIZE.value / 2**30:.2f} GiB")
    seconds, peak, _ = _in_a_process(export_model, work)
    print(f"export.py: {seconds:.0f} s, peak {peak:.2f} GiB", flush=True)
    size = sum(path.stat().st_size for path in (work / "exports").rglob("*") if path.is_file()) / 2**30
    print(f"the version takes {size:.2f} GiB on disk")
    _, peak, (one, many) = _in_a_process(ask, work, _REPEATS.value)
    _, _, milliseconds = _in_a_process(reading_milliseconds, _ITEMS.value * _SIZE.value)
    print(f"loaded and asked in C++: peak {peak:.2f} GiB")
    print(
        f"top {_K} of one row on one core: {one:.0f} ms, {one / milliseconds:.2f} times reading the table once "
        f"({milliseconds:.0f} ms); of {_ROWS} rows: {many / _ROWS:.0f} ms a row"
    )


def _in_a_process(function: Callable[..., Any], *arguments: object) -> tuple[float, float, Any]:
    """The seconds of a call, the peak memory in GiB of the process that it started, or of its own, and its result."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (function, arguments))


def _measured(function: Callable[..., Any], arguments: tuple[object, ...]) -> tuple[float, float, Any]:
    started = time.perf_counter()
    result = function(*arguments)
    used = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return time.perf_counter() - started, (used[1] or used[0]) / 2**20, result


def write_model(work: pathlib.Path, items: int, size: int) -> None:
    """Writes a model directory with random weights."""
    import numpy as np

    from bert4rec_tf.checkpoints import Checkpoints, Progress
    from bert4rec_tf.config import Config
    from bert4rec_tf.model.bert4rec import build_model
    from bert4rec_tf.model_dir import open_model_dir
    from tfrecords.manifest import Manifest
    from tfrecords.vocabulary import Vocabulary

    manifest = Manifest.load(work / "data")
    data = {"max_seq_length": _LENGTH, "num_negatives": 5}
    config = Config.from_dict({"data": data, "model": {"hidden_size": size}, "training": {"num_steps": 1}}, "")
    vocabulary = Vocabulary(tuple(map(str, range(items))), np.ones(items, np.int64), (None,) * items)
    model = build_model(config.model, vocabulary.size, _LENGTH)
    open_model_dir(work / "model", config, manifest, vocabulary)
    Checkpoints(work / "model", {"model": model, "progress": Progress(1)}, to_keep=1).save(best=True)


def export_model(work: pathlib.Path) -> None:
    """Runs export.py."""
    flags_ = [f"--model_dir={work / 'model'}", f"--export_dir={work / 'exports'}", f"--top_k={_K}"]
    subprocess.run([sys.executable, "export.py", *flags_], cwd=ROOT, check=True, stdout=sys.stderr)


def ask(work: pathlib.Path, repeats: int) -> tuple[float, float]:
    """Milliseconds of a request of one row, and of one of many rows, on one core."""
    import numpy as np

    from tests.support import cpp_runner

    (version,) = (work / "exports").glob("[0-9]*")
    random = np.random.default_rng(1)
    rows = [[str(item) for item in row] for row in random.integers(0, 1000, [_ROWS, _LENGTH - 1])]
    requests: list[cpp_runner.Request] = [
        ("serving_default", {"item_ids": rows[:1]}),
        ("serving_default", {"item_ids": rows}),
    ]
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    answers, measured = cpp_runner.run(cpp_runner.build(work), version, requests, repeats)
    assert all(isinstance(answer, dict) and answer["item_ids"].shape[1] == _K for answer in answers), answers
    return float(np.median(measured[0])) / 1000, float(np.median(measured[1])) / 1000


if __name__ == "__main__":
    app.run(main)
