"""Measures how the cost of records, of a training step and of an answer grows, beside what a simple rule predicts.

python benchmarks/growth.py --work_dir=/tmp/growth
python benchmarks/growth.py --work_dir=/tmp/growth --picture=docs/images/growth.svg

The constants of a rule are measured at the points that the printed table calls "given". What was measured is kept in
measured.jsonl of --work_dir, so an interrupted run goes on. The picture needs requirements-docs.txt.
"""

import functools
import json
import math
import multiprocessing
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Literal, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import app, flags

from bert4rec_tf.command_line import command

ROOT = pathlib.Path(__file__).resolve().parents[1]
_WORK = flags.DEFINE_string("work_dir", None, "directory for logs, records and what was measured", required=True)
_PICTURE = flags.DEFINE_string("picture", None, "SVG file to draw what was measured in; default: draw nothing")
_LARGEST = flags.DEFINE_integer("largest_log", 100_000_000, "events of the largest log", lower_bound=1_000_000)
_SLOTS, _MASKED, _SAMPLED = 6_400, 0.3, 1024  # slots of a batch, share that is masked, items that are sampled
_ANSWERS = 22


class Series(NamedTuple):
    """How one cost grows with one size.

    Attributes:
        name: of the cost.
        x: the size.
        unit: of the cost.
        sizes: where it is measured.
        given: the size that the rule's constant is measured at.
        measure: size -> the cost.
        rule: size -> what the cost is proportional to.
        has_start: whether the first size gives a constant part, and only what is beyond it is proportional.
    """

    name: str
    x: str
    unit: str
    sizes: list[int]
    given: int
    measure: Callable[[int], float]
    rule: Callable[[int], float]
    has_start: bool = False

    def expected(self, costs: dict[int, float]) -> dict[int, float]:
        """The cost at each size by the rule."""
        start, first = (costs[self.sizes[0]], self.rule(self.sizes[0])) if self.has_start else (0.0, 0.0)
        slope = (costs[self.given] - start) / (self.rule(self.given) - first)
        return {size: start + slope * (self.rule(size) - first) for size in self.sizes}


@command
def main() -> None:
    """Measures what was not measured yet, and prints a table for each series."""
    work = pathlib.Path(_WORK.value)
    work.mkdir(parents=True, exist_ok=True)
    file = work / "measured.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    found = {(row["name"], row["x"], row["size"]): row["cost"] for row in map(json.loads, lines)}
    measured = []
    for series in all_series(work):
        costs = {}
        for size in series.sizes:
            cost = found.get((series.name, series.x, size))
            if cost is None:
                cost = series.measure(size)
                with file.open("a", encoding="utf-8") as stream:
                    row = {"name": series.name, "x": series.x, "size": size, "cost": cost}
                    stream.write(json.dumps(row) + "\n")
            costs[size] = cost
        measured.append((series, costs))
        print(table(series, costs), flush=True)
    if _PICTURE.value:
        draw(pathlib.Path(_PICTURE.value), measured)


def all_series(work: pathlib.Path) -> list[Series]:
    """What is measured."""
    logs = [
        events for events in (1_000_000, 3_000_000, 10_000_000, 30_000_000, 100_000_000) if events <= _LARGEST.value
    ]
    items = [1_000, 10_000, 100_000, 1_000_000, 10_000_000]
    lengths, sizes, rows = [50, 100, 200, 400, 800], [64, 128, 256, 512], [1, 4, 16, 64, 256]

    def step(loss: str, number: int = 10_000, length: int = 50, size: int = 64) -> float:
        return in_a_process(step_milliseconds, loss, number, length, size)

    def answer(number: int, of_rows: int) -> float:
        return in_a_process(answer_milliseconds, number, of_rows)

    sampled = functools.partial(step, "sampled_softmax")
    return [
        Series("records", "events", "s", logs, logs[-2], functools.partial(build_seconds, work), float, has_start=True),
        Series("step, softmax over all items", "items", "ms", items[:3], items[1], functools.partial(step, "softmax"),
               lambda number: step_flops(number, 50, 64)),
        Series("step, sampled softmax", "items", "ms", items, items[1], sampled, lambda _: 1.0),
        Series("step of 6,400 slots", "N", "ms", lengths, lengths[1], lambda length: sampled(length=length),
               lambda length: step_flops(_SAMPLED, length, 64)),
        Series("step of 6,400 slots", "d", "ms", sizes, sizes[1], lambda size: sampled(size=size),
               lambda size: step_flops(_SAMPLED, 50, size)),
        Series("answer to one row, one core", "items", "ms", items, items[3], lambda number: answer(number, 1), float,
               has_start=True),
        Series("answer over 100,000 items, one core", "rows", "ms", rows, 64, lambda of: answer(100_000, of), float,
               has_start=True),
    ]  # fmt: skip


def step_flops(scored: int, length: int, size: int) -> float:
    """Matrix products of a training step over 6,400 slots: three times those of the forward pass.

    Args:
        scored: items that each masked slot is compared with.
        length: N.
        size: d.
    """
    slots, masked = _SLOTS, _MASKED * _SLOTS
    block = 24 * size**2 * slots + 4 * size * length * slots
    last = 4 * size**2 * slots + 20 * size**2 * masked + 4 * size * length * masked
    return 3 * (block + last + masked * (2 * size**2 + 2 * size * scored))


def build_seconds(work: pathlib.Path, events: int) -> float:
    """Seconds of make_tfrecords.py over a CSV log."""
    arguments = [f"--work_dir={work / 'records'}", f"--events={events}"]
    script = str(ROOT / "benchmarks" / "pipeline_memory.py")
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=True)
    match = re.search(r"events: +([0-9.]+) s", done.stdout)
    assert match, done.stdout
    shutil.rmtree(work / "records")
    return float(match[1])


def step_milliseconds(loss: Literal["softmax", "sampled_softmax"], items: int, length: int, size: int) -> float:
    """Milliseconds of a training step with two layers."""
    from benchmarks.large_catalogues import measure

    seconds, _, _ = measure(loss, items, features=False, length=length, batch_size=_SLOTS // length, hidden_size=size)
    return 1e3 * seconds


def answer_milliseconds(items: int, rows: int) -> float:
    """Milliseconds of a request of `rows` histories of 49 items: two layers, d = 64, the ten best of all items."""
    import numpy as np
    import tensorflow as tf

    from bert4rec_tf.config import ModelConfig
    from bert4rec_tf.model.bert4rec import build_model
    from bert4rec_tf.serving.recommender import Recommender
    from tfrecords.vocabulary import Vocabulary

    tf.config.threading.set_intra_op_parallelism_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    vocabulary = Vocabulary(tuple(map(str, range(items))), np.ones(items, np.int64), (None,) * items)
    recommender = Recommender(build_model(ModelConfig(), vocabulary.size, 50), vocabulary, top_k=10)
    answer = recommender.signatures()["serving_default"]
    histories = tf.constant(np.random.default_rng(1).integers(0, items, [rows, 49]).astype(str))
    seconds = []
    for _ in range(_ANSWERS):
        started = time.perf_counter()
        answer(item_ids=histories)["scores"].numpy()
        seconds.append(time.perf_counter() - started)
    return 1e3 * statistics.median(seconds[2:])


def in_a_process(function: Callable[..., float], *arguments: object) -> float:
    """The result of a call in a process of its own, whose memory and threads do not touch the next one's."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def table(series: Series, costs: dict[int, float]) -> str:
    """The costs as Markdown, beside the rule's."""
    lines = [
        f"{series.name}",
        "",
        f"| {series.x} | measured, {series.unit} | by the rule | ratio |",
        "|---|---|---|---|",
    ]
    known = {series.given, *(series.sizes[:1] if series.has_start else [])}
    for size, expected in series.expected(costs).items():
        shown = "given" if size in known else f"{expected:,.4g}"
        lines.append(f"| {size:,} | {costs[size]:,.4g} | {shown} | {costs[size] / expected:.2f} |")
    return "\n".join([*lines, ""])


def draw(path: pathlib.Path, measured: list[tuple[Series, dict[int, float]]]) -> None:
    """Draws the costs as points and the rules as lines."""
    import matplotlib as mpl

    mpl.use("svg")  # no display is needed
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FormatStrFormatter, LogLocator

    mpl.rcParams |= {"svg.hashsalt": "growth", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    figure, panels = plt.subplots(2, -(-len(measured) // 2), figsize=(14, 6.4))
    for panel in panels.flat[len(measured) :]:
        panel.set_axis_off()
    for panel, (series, costs) in zip(panels.flat, measured, strict=False):
        expected = series.expected(costs)
        panel.plot(expected.keys(), expected.values(), color="#777777", linewidth=1, label="by the rule")
        panel.plot(costs.keys(), costs.values(), "o", color="#2a6fb0", label="measured")
        panel.set(title=series.name, xlabel=series.x, ylabel=series.unit, xscale="log", yscale="log")
        panel.set_xticks(series.sizes, labels=map(short, series.sizes))
        shown = [*costs.values(), *expected.values()]
        low, high = min(shown), max(shown)
        margin = max(1.3, math.sqrt(10 * low / high))  # at least a decade, so that a flat cost looks flat
        panel.set_ylim(low / margin, high * margin)
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        panel.minorticks_off()
    panels.flat[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def short(size: int) -> str:
    """A size as 800, 10k or 3M."""
    return f"{size / 1e6:g}M" if size >= 1e6 else f"{size / 1e3:g}k" if size >= 1e3 else str(size)


if __name__ == "__main__":
    app.run(main)
