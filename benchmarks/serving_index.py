"""Times exact and approximate search over a million items, on one core, against reading the item table once.

python benchmarks/million_items.py --work_dir=/tmp/million
python benchmarks/serving_index.py --work_dir=/tmp/million
"""

import json
import os
import pathlib
import subprocess
import sys
import time

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests"))

import cpp_runner
import numpy as np
from absl import app, flags

from bert4rec_tf.gate import histories_of

ROOT = pathlib.Path(__file__).resolve().parents[1]
_WORK = flags.DEFINE_string("work_dir", None, "of million_items.py", required=True)
_REPEATS = flags.DEFINE_integer("repeats", 10, "of each request")
_K, _USERS, _D = 100, 32, 64


def main(_: list[str]) -> None:
    """Exports both, asks the same users of both, and reads the table."""
    work = pathlib.Path(_WORK.value)
    versions = {}
    for index in ("exact", "ivf"):
        exports = work / index
        if not exports.exists():
            command = ["export.py", f"--model_dir={work / 'model'}", f"--export_dir={exports}", f"--index={index}"]
            command += [f"--data_dir={work / 'data'}", f"--top_k={_K}"]
            subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
        (versions[index],) = exports.glob("[0-9]*")
    rows = [row for rows, _ in histories_of(str(work / "data"), "test", _USERS, _USERS) for row in rows]
    requests = [("serving_default", {"item_ids": [row]}) for row in rows]
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    program, found, times = cpp_runner.build(work), {}, {}
    for index, version in versions.items():
        found[index], measured = cpp_runner.run(program, version, requests, _REPEATS.value)
        times[index] = float(np.median(np.concatenate([np.array(row) for row in measured]))) / 1000
    recall = np.mean(
        [
            len(set(a["item_ids"][0]) & set(b["item_ids"][0])) / _K
            for a, b in zip(found["ivf"], found["exact"], strict=True)
        ]
    )
    described = json.loads((versions["ivf"] / "assets.extra" / "metadata.json").read_text())
    items = sum(1 for _ in (versions["exact"] / "assets.extra" / "vocabulary.jsonl").open("rb"))
    read = reading(items * _D)
    print(f"{items:,} items, d = {_D}; reading the table once: {read:.1f} ms ({4e-6 * items * _D / read:.1f} GB/s)")
    print(f"exact, top {_K}: p50 {times['exact']:.1f} ms, {times['exact'] / read:.2f} times the reading")
    print(f"ivf, top {_K}: p50 {times['ivf']:.2f} ms, {times['exact'] / times['ivf']:.1f} times as fast")
    print(f"recall@{_K} on {len(rows)} test users: {recall:.4f}; at export: {described['index']}")


def reading(floats: int) -> float:
    """Milliseconds to read so many float32 once, by BLAS's inner product of the table with itself."""
    table = np.random.default_rng(1).random(floats, np.float32)
    seconds = []
    for _ in range(20):
        started = time.perf_counter()
        np.dot(table, table)
        seconds.append(time.perf_counter() - started)
    return 1000 * float(np.median(seconds))


if __name__ == "__main__":
    app.run(main)
