"""Kills the pipeline at random moments, runs it again, and compares the output with that of an undisturbed run.

python benchmarks/pipeline_kills.py --work_dir=/tmp/pipeline_kills
"""

import hashlib
import pathlib
import random
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import app, flags

from bert4rec_tf.command_line import command

ROOT = pathlib.Path(__file__).resolve().parents[1]
_KILLS = flags.DEFINE_integer("kills", 100, "number of runs to kill", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 1, "seed of the random moments")
_WORK = flags.DEFINE_string("work_dir", None, "directory for the records", required=True)
_LOG = ["--dataset=synthetic:num_users=700", "--num_workers=2"]


@command
def main() -> None:
    """Kills and repeats each run. Exits with 1 if an output differs or another file is left beside it."""
    work = pathlib.Path(_WORK.value)
    started = time.monotonic()
    build(work / "clean" / "data")
    seconds = time.monotonic() - started
    clean, moments, survived = hashes(work / "clean"), random.Random(_SEED.value), 0
    for number in range(_KILLS.value):
        killed = work / f"killed-{number}"
        process = subprocess.Popen(make_command(killed / "data"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moments.uniform(0, seconds))
        survived += process.poll() is not None
        process.send_signal(signal.SIGKILL)
        process.wait()
        build(killed / "data")
        if hashes(killed) != clean:
            sys.exit(f"error: {killed} differs from the output of a clean run")
    print(f"{_KILLS.value} runs, {_KILLS.value - survived} of them killed before their end: all outputs identical")


def make_command(output_dir: pathlib.Path) -> list[str]:
    """The command of one run. Only the output directory differs between runs."""
    return [sys.executable, str(ROOT / "pipelines" / "make_tfrecords.py"), f"--output_dir={output_dir}", *_LOG]


def build(output_dir: pathlib.Path) -> None:
    """Runs the command to its end."""
    subprocess.run(make_command(output_dir), check=True, stdout=subprocess.DEVNULL)


def hashes(directory: pathlib.Path) -> dict[str, str]:
    """sha256 of every file, including files left beside the output."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


if __name__ == "__main__":
    app.run(main)
