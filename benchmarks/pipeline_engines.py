"""Builds records of the same logs with DuckDB and with Spark, and compares the sha256 of all files.

python benchmarks/pipeline_engines.py --log=ml-1m.txt --log=/tmp/pipeline_memory/5000000.csv --work_dir=/tmp/engines

With --workers, Spark runs on a standalone cluster on loopback, and the bytes that its driver reads and receives, and
that its tasks write, are printed too. With --before, the Spark engine of another checkout is measured beside this one;
its manifest may differ:

git worktree add /tmp/before c48c63a
python benchmarks/pipeline_engines.py --log=/tmp/pipeline_memory/5000000.csv --work_dir=/tmp/engines --workers=2 \
    --before=/tmp/before
"""

import hashlib
import json
import pathlib
import shutil
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import app, flags

from bert4rec_tf.command_line import command

ROOT = pathlib.Path(__file__).resolve().parents[1]
_LOGS = flags.DEFINE_multi_string("log", None, "log to build records of; repeatable", required=True)
_WORK = flags.DEFINE_string("work_dir", None, "directory for the records", required=True)
_SET = flags.DEFINE_multi_string("set", [], "--set of the pipeline: section.field=value; repeatable")
_WORKERS = flags.DEFINE_integer(
    "workers", 0, "workers of one core in Spark's cluster; 0: no cluster, Spark runs in one process", lower_bound=0
)
_MEMORY = flags.DEFINE_string("executor_memory", "1g", "memory of each worker's executor")
_BEFORE = flags.DEFINE_string("before", None, "another checkout, whose Spark engine is measured too")


@command
def main() -> None:
    """Builds the records of each log with all engines. Exits with 1 if a file differs."""
    work = pathlib.Path(_WORK.value)
    checkouts = {"spark": ROOT}
    if _BEFORE.value:
        checkouts = {f"spark of {_BEFORE.value}": pathlib.Path(_BEFORE.value).resolve(), **checkouts}
    for log in map(pathlib.Path, _LOGS.value):
        output_dir = work / log.stem / "duckdb"
        seconds = run(build(ROOT, "duckdb", log, output_dir))
        expected, printed = hashes(output_dir), [f"  duckdb: {seconds:.1f} s"]
        for number, (name, checkout) in enumerate(checkouts.items()):
            output_dir = work / log.stem / f"spark-{number}"
            command = build(checkout, "spark", log, output_dir)
            figures = on_cluster(command, work / "cluster") if _WORKERS.value else f"{run(command):.1f} s"
            found = hashes(output_dir)
            # Another version may have other settings, which the manifest names.
            ignored = set() if checkout == ROOT else {"manifest.json"}
            different = sorted(item for item in expected.items() ^ found.items() if item[0] not in ignored)
            if different:
                sys.exit(f"error: {log}: {name}: {len(different)} files differ; the first is {different[0][0]}")
            printed.append(f"  {name}: {figures}")
        print(f"{log.name}: {len(expected)} files, all equal", *printed, sep="\n")


def build(checkout: pathlib.Path, engine: str, log: pathlib.Path, output_dir: pathlib.Path) -> list[str]:
    """The command that builds the records of a log, without the interpreter."""
    command = [str(checkout / "pipelines" / "make_tfrecords.py"), f"--engine={engine}"]
    command += [f"--input={log}", f"--output_dir={output_dir}", "--overwrite"]
    return command + [f"--set={setting}" for setting in _SET.value]


def run(command: list[str]) -> float:
    """Runs a script. Returns its seconds."""
    started = time.monotonic()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def on_cluster(command: list[str], directory: pathlib.Path) -> str:
    """Runs a script on a cluster of its own. Returns its figures."""
    from tests.support.spark_cluster import loopback_cluster  # imports pyspark

    shutil.rmtree(directory, ignore_errors=True)
    (directory / "events").mkdir(parents=True)
    with loopback_cluster(directory, _WORKERS.value, _MEMORY.value) as cluster:
        events = {"spark_eventLog_enabled": "true", "spark_eventLog_dir": (directory / "events").absolute().as_uri()}
        plain = {"spark_eventLog_compress": "false", "spark_eventLog_rolling_enabled": "false"}
        submitted = cluster.submit(*command, spark_executor_memory=_MEMORY.value, **events, **plain)
        started, read = time.monotonic(), 0
        with (directory / "driver.log").open("wb") as stream:
            process = subprocess.Popen(submitted, env=cluster.environment, stdout=stream, stderr=stream)
            while process.poll() is None:
                read = max([read, *map(bytes_read, children(process.pid))])
                time.sleep(0.05)
        seconds = time.monotonic() - started
    if process.returncode:
        sys.exit(f"error: exit code {process.returncode}, see {directory / 'driver.log'}")
    (log,) = (directory / "events").iterdir()
    received, shuffled, written = task_bytes(log)
    sizes = {"the driver read": read, "and received": received, "tasks shuffled": shuffled, "and wrote": written}
    return f"{seconds:.1f} s, " + ", ".join(f"{name} {size / 1e6:,.1f} MB" for name, size in sizes.items())


def task_bytes(event_log: pathlib.Path) -> tuple[int, int, int]:
    """Bytes of the results of all tasks, of their shuffle files, and of Spark's files between the stages."""
    received = shuffled = written = 0
    with event_log.open() as lines:
        for event in map(json.loads, lines):
            metrics = event.get("Task Metrics") if event["Event"] == "SparkListenerTaskEnd" else None
            if metrics:
                received += metrics["Result Size"]
                shuffled += metrics["Shuffle Write Metrics"]["Shuffle Bytes Written"]
                written += metrics["Output Metrics"]["Bytes Written"]
    return received, shuffled, written


def children(pid: int) -> list[int]:
    """The ids of the running children of a process: of `spark-submit`, the driver's Python."""
    found = list[int]()
    for path in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, path.read_text().split())
        except OSError:  # the thread has ended
            continue
    return found


def bytes_read(pid: int) -> int:
    """What a process has read from files."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/io").read_text().split()
    except OSError:  # the process has ended
        return 0
    return int(fields[fields.index("rchar:") + 1])


def hashes(directory: pathlib.Path) -> dict[str, str]:
    """Hex digests of the files in a directory, by path."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


if __name__ == "__main__":
    app.run(main)
