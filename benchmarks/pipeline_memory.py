"""Measures the pipeline's peak memory and time per event for two sizes of log.

python benchmarks/pipeline_memory.py --work_dir=/tmp/pipeline_memory

Writes a CSV log in which the events of each user are spread over the whole time, so that the sort has to move all of
them. Runs the command on it with --memory_limit, and adds up the resident memory of all its processes twenty times a
second. Runs on Linux only.
"""

import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np
import pyarrow as pa
from absl import app, flags
from pyarrow import csv

from bert4rec_tf.command_line import command

ROOT = pathlib.Path(__file__).resolve().parents[1]
_EVENTS = flags.DEFINE_multi_integer(
    "events", [5_000_000, 50_000_000], "number of events of a log; repeatable", lower_bound=1000
)
_LIMIT = flags.DEFINE_string("memory_limit", "1GB", "--memory_limit of the pipeline")
_SET = flags.DEFINE_multi_string("set", [], "--set of the pipeline: section.field=value; repeatable")
_USER_EVENTS = flags.DEFINE_integer("events_per_user", 100, "mean number of events of a user", lower_bound=1)
_WORK = flags.DEFINE_string(
    "work_dir", None, "directory for the logs (1.5 GB for 50 million events) and the records", required=True
)

_ITEMS = 100_000
_CHUNK = 1_000_000


@command
def main() -> None:
    """Writes each log, runs the command on it, and prints both figures."""
    work = pathlib.Path(_WORK.value)
    work.mkdir(parents=True, exist_ok=True)
    per_event = []
    for events in _EVENTS.value:
        name = f"{events}" if _USER_EVENTS.value == _USER_EVENTS.default else f"{events}-of-{_USER_EVENTS.value}"
        log = work / f"{name}.csv"
        if not log.exists():
            write_log(log, events)
        seconds, peak = run_pipeline(log, work / f"{name}.records")
        per_event.append(1e6 * seconds / events)
        print(f"{events:>12,} events: {seconds:7.1f} s, {per_event[-1]:.2f} us an event, peak {peak / 1e9:.2f} GB")
    if len(per_event) > 1:
        print(f"time per event, last over first: {per_event[-1] / per_event[0]:.2f}")


def write_log(path: pathlib.Path, events: int) -> None:
    """Writes a CSV file of user_id, item_id and timestamp in time order. Item frequencies follow a power law."""
    random = np.random.default_rng(1)
    cumulative = np.cumsum(1 / np.arange(1, _ITEMS + 1) ** 0.8)
    schema = pa.schema([("user_id", pa.int64()), ("item_id", pa.int64()), ("timestamp", pa.int64())])
    temporary = path.with_suffix(".tmp")
    with csv.CSVWriter(temporary, schema) as writer:
        for first in range(0, events, _CHUNK):
            number = min(_CHUNK, events - first)
            columns = [
                random.integers(0, max(events // _USER_EVENTS.value, 1), number),
                np.searchsorted(cumulative, random.random(number) * cumulative[-1]),
                1_600_000_000 + first + np.arange(number),
            ]
            writer.write(pa.table(dict(zip(schema.names, columns, strict=True)), schema=schema))
    temporary.replace(path)


def run_pipeline(log: pathlib.Path, output_dir: pathlib.Path) -> tuple[float, int]:
    """Runs the pipeline. Returns its seconds, and the peak of the bytes that all of its processes hold together."""
    command = [sys.executable, str(ROOT / "pipelines" / "make_tfrecords.py"), f"--input={log}"]
    command += [f"--output_dir={output_dir}", "--overwrite", f"--memory_limit={_LIMIT.value}"]
    command += [f"--set={setting}" for setting in _SET.value]
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(map(resident_bytes, process_tree(process.pid))))
        time.sleep(0.05)
    if process.returncode:
        sys.exit(f"error: {' '.join(command)} ended with {process.returncode}")
    return time.monotonic() - started, peak


def process_tree(pid: int) -> Iterator[int]:
    """The ids of a process and of its running descendants."""
    yield pid
    for children in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            pids = children.read_text().split()
        except OSError:
            continue
        for child in pids:
            yield from process_tree(int(child))


def resident_bytes(pid: int) -> int:
    """The resident memory of a process, including shared pages."""
    try:
        return 4096 * int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0


if __name__ == "__main__":
    app.run(main)
