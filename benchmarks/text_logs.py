"""Measures how fast CSV logs are read: plain, with one unreadable row, and with commas in quoted fields.

python benchmarks/text_logs.py --work_dir=/tmp/text_logs
"""

import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import duckdb
import numpy as np
from absl import app, flags

from bert4rec_tf.command_line import command
from pipelines.sources import load_events
from pipelines.sources.log_source import LogSource
from tfrecords.config import DataConfig

_ROWS = flags.DEFINE_integer("rows", 1_000_000, "rows of a log", lower_bound=1000)
_RUNS = flags.DEFINE_integer("runs", 2, "runs, of which the last one is printed", lower_bound=1)
_WORK = flags.DEFINE_string("work_dir", None, "directory for the logs", required=True)
_HEADER = "user_id,item_id,timestamp\n"
_UNREADABLE = "one,two\n"


@command
def main() -> None:
    """Writes each log, reads it, and prints the time of a row."""
    work = pathlib.Path(_WORK.value)
    work.mkdir(parents=True, exist_ok=True)
    plain = None
    for name, lines in logs(_ROWS.value).items():
        path = work / f"{name.replace(' ', '-')}.csv"
        path.write_text(_HEADER + "".join(lines))
        seconds = [read(path, work / "bad_rows.jsonl") for _ in range(_RUNS.value)][-1]
        plain = plain or seconds
        print(f"{name}: {1e6 * seconds / len(lines):.2f} us a row, {seconds / plain:.1f} times plain", flush=True)


def logs(rows: int) -> dict[str, list[str]]:
    """The lines of each log without the header, by its name."""
    random = np.random.default_rng(1)
    users, items = random.integers(0, 50_000, rows), random.integers(0, 20_000, rows)
    times = random.integers(1_500_000_000, 1_700_000_000, rows)
    plain = [f"{user},item{item},{time}\n" for user, item, time in zip(users, items, times, strict=True)]
    quoted = [f'{user},"item{item}, blue",{time}\n' for user, item, time in zip(users, items, times, strict=True)]
    made = {"plain": plain, "one unreadable row": list(plain)}
    made |= {"quoted commas": quoted, "quoted commas and one unreadable row": list(quoted)}
    for name, lines in made.items():
        if "unreadable" in name:
            lines[rows // 2] = _UNREADABLE
    return made


def read(path: pathlib.Path, bad_rows: pathlib.Path) -> float:
    """Hashes a log, and loads it into DuckDB. Returns the seconds."""
    started = time.monotonic()
    source = LogSource([str(path)])
    with duckdb.connect() as connection:
        load_events.create_events(connection)
        load_events.load_file(connection, source, 0, DataConfig(), bad_rows)
    return time.monotonic() - started


if __name__ == "__main__":
    app.run(main)
