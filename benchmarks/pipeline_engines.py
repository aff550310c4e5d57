"""Builds records of the same logs with DuckDB and with Spark, and compares the sha256 of all files.

python benchmarks/pipeline_engines.py --log=ml-1m.txt --log=/tmp/pipeline_memory/5000000.csv --work_dir=/tmp/engines
"""

import hashlib
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import app, flags

from bert4rec_tf.command_line import command

ROOT = pathlib.Path(__file__).resolve().parents[1]
_LOGS = flags.DEFINE_multi_string("log", None, "log to build records of; repeatable", required=True)
_WORK = flags.DEFINE_string("work_dir", None, "directory for the records", required=True)
_ENGINES = ("duckdb", "spark")


@command
def main() -> None:
    """Builds the records of each log with both engines. Exits with 1 if a file differs."""
    for log in map(pathlib.Path, _LOGS.value):
        seconds, hashes = [], []
        for engine in _ENGINES:
            output_dir = pathlib.Path(_WORK.value) / log.stem / engine
            command = [sys.executable, str(ROOT / "pipelines" / "make_tfrecords.py"), f"--engine={engine}"]
            command += [f"--input={log}", f"--output_dir={output_dir}", "--overwrite"]
            started = time.monotonic()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.monotonic() - started)
            files = sorted(path for path in output_dir.rglob("*") if path.is_file())
            hashes.append({str(path.relative_to(output_dir)): sha256(path) for path in files})
        if hashes[0] != hashes[1]:
            different = sorted(hashes[0].items() ^ hashes[1].items())
            sys.exit(f"error: {log}: {len(different)} files differ; the first is {different[0][0]}")
        times = ", ".join(f"{engine} {each:.1f} s" for engine, each in zip(_ENGINES, seconds, strict=True))
        print(f"{log.name}: {len(hashes[0])} files, all equal; {times}")


def sha256(path: pathlib.Path) -> str:
    """Hex digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    app.run(main)
