"""Measures how fast records become training batches, and how soon a run that resumes has its first batch.

python benchmarks/reading_speed.py --data_dir=data/ml-1m
"""

import multiprocessing
import os
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from bert4rec_tf.inputs.objectives import Objective

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import app, flags

from bert4rec_tf.command_line import command

_DATA_DIR = flags.DEFINE_string("data_dir", None, "directory of records", required=True)
_KINDS = flags.DEFINE_list(
    "objectives",
    ["masked_item", "redrawn", "next_item", "random_prefix", "last_item"],
    "objectives to measure; redrawn: masked items with new masks in every pass",
)
_ROWS = flags.DEFINE_integer("rows", 100_000, "rows to read")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "B")
_BUCKETS = flags.DEFINE_integer("length_buckets", 8, "number of batch shapes")
_CORES = flags.DEFINE_integer("cores", 1, "processor cores to use")


@command
def main() -> None:
    """Measures each objective in a process of its own, on the same cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: _CORES.value])
    for kind in _KINDS.value:
        arguments = (_DATA_DIR.value, kind, _ROWS.value, _BATCH_SIZE.value, _BUCKETS.value)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rate, cpu, steps, start, resumed = pool.apply(measure, arguments)
        print(
            f"{kind}: {rate:,.0f} rows/s, {1e6 * cpu:.1f} us of CPU a row; first batch after {start:.2f} s at the "
            f"start of a pass of {steps:,} batches, after {resumed:.2f} s at its last one",
            flush=True,
        )


def measure(
    data_dir: str, kind: str, rows: int, batch_size: int, num_buckets: int
) -> tuple[float, float, int, float, float]:
    """Measures one objective.

    Returns:
        Rows a second, seconds of CPU time a row, batches of a pass, and the seconds to the first batch at the start
        of a pass and at its end.
    """
    from bert4rec_tf.inputs.objectives import training_instances
    from bert4rec_tf.inputs.training_batches import objective_buckets, steps_per_pass, training_batches
    from tfrecords.manifest import Manifest
    from tfrecords.vocabulary import Vocabulary

    manifest = Manifest.load(data_dir)
    objective = cast("Objective", "masked_item" if kind == "redrawn" else kind)
    vocabulary_size = Vocabulary.load(data_dir).size if kind == "redrawn" else None
    instances = training_instances(manifest, objective, vocabulary_size, causal_rows=0.4)
    buckets = objective_buckets(manifest, objective, num_buckets)
    steps = steps_per_pass(buckets, batch_size)

    def batches(first_step: int) -> Iterator[object]:
        return iter(training_batches(data_dir, instances, buckets, batch_size, 1, first_step))

    def first_batch_after(first_step: int) -> float:
        started = time.monotonic()
        next(batches(first_step))
        return time.monotonic() - started

    first_batch_after(0)  # TensorFlow's own start
    start, resumed = first_batch_after(0), first_batch_after(steps - 1)
    iterator = batches(0)
    for _ in range(20):
        next(iterator)
    number = rows // batch_size
    started, cpu = time.monotonic(), time.process_time()
    for _ in range(number):
        next(iterator)
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    return number * batch_size / seconds, cpu / (number * batch_size), steps, start, resumed


if __name__ == "__main__":
    app.run(main)
