"""Times the recommendations to all users beside RecTools' and RecBole's, and kills `recommend.py` at random moments.

python benchmarks/recommend_speed.py --log=ml-1m.txt --max_seq_length=200 --work_dir=/tmp/recommend \
    --rectools_python=/tmp/rectools/bin/python --recbole_python=/tmp/recbole/bin/python
python benchmarks/recommend_speed.py --made_up=20000,100000,50 --max_seq_length=50 --work_dir=/tmp/recommend
python benchmarks/recommend_speed.py --made_up=1000000,10000,50 --max_seq_length=50 --kills=20 --work_dir=/tmp/recommend
"""

import hashlib
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np
from absl import app, flags

from bert4rec_tf.command_line import command

ROOT = pathlib.Path(__file__).resolve().parents[1]
_LOG = flags.DEFINE_string("log", None, "log of `user item` lines, in order of time for each user")
_MADE_UP = flags.DEFINE_list("made_up", None, "USERS,ITEMS,EVENTS of each user: a made-up log instead of --log")
_LENGTH = flags.DEFINE_integer("max_seq_length", None, "maximum sequence length N", required=True)
_WORK = flags.DEFINE_string("work_dir", None, "directory for logs, records and models; must not exist", required=True)
_RECTOOLS = flags.DEFINE_string(
    "rectools_python", None, "Python of an environment with rectools[torch]; default: leave RecTools out"
)
_RECBOLE = flags.DEFINE_string(
    "recbole_python", None, "Python of an environment with recbole; default: leave RecBole out"
)
_KILLS = flags.DEFINE_integer("kills", 0, "number of times to kill the command while it runs a second time")
_SEED = flags.DEFINE_integer("seed", 1, "seed of the made-up log and of the random moments")
_HIDDEN, _LAYERS, _HEADS, _TOP_K = 64, 2, 2, 10
_TRAINED_USERS = 20_000  # of the log: the speed of a model does not depend on its training
_USERS_AT_ONCE = 1024


@command
def main() -> None:
    """Measures everything in one run, and prints the ratios."""
    work = pathlib.Path(_WORK.value)
    work.mkdir(parents=True)
    log = _made_up_log(work / "log.txt") if _MADE_UP.value else pathlib.Path(str(_LOG.value))
    model = _train(work, log)
    seconds, users, scored = _recommend(log, model, work / "whole")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(
        f"recommend.py: {users:,} users in {seconds:.1f} s ({users / seconds:,.0f} users/s), {scored:,.0f} users/s "
        "without start, reading and sorting"
    )
    print(f"peak memory of all processes so far, training included: {peak:.2f} GiB")
    if _KILLS.value:
        runs = _kill(log, model, work / "killed", seconds, _hashes(work / "whole"))
        print(f"{_KILLS.value} kills: the files of all {runs} runs that went on to the end are equal")
    for name, python in (("rectools_bert4rec", _RECTOOLS.value), ("recbole_bert4rec", _RECBOLE.value)):
        if python:
            rate = _peer(name, python, log)
            print(
                f"{name}: {rate:,.0f} users/s without these; recommend.py is {scored / rate:.1f} times as fast, and "
                f"{users / seconds / rate:.1f} times with all"
            )


def _made_up_log(path: pathlib.Path) -> pathlib.Path:
    users, items, events = map(int, _MADE_UP.value or [])
    draw = np.random.default_rng(_SEED.value)
    with path.open("w") as stream:
        for first in range(0, users, 1000):
            number = min(1000, users - first) * events
            found = np.minimum(draw.pareto(0.8, number) * items / 50, items - 1).astype(np.int64).tolist()
            stream.writelines(f"{first + event // events} {item}\n" for event, item in enumerate(found))
    return path


def _train(work: pathlib.Path, log: pathlib.Path) -> pathlib.Path:
    """A model of two steps, trained on the log's first users."""
    some = work / "some_users.txt"
    with log.open() as lines, some.open("w") as stream:
        users: set[str] = set()
        for line in lines:
            users.add(line.split(" ", 1)[0])
            if len(users) > _TRAINED_USERS:
                break
            stream.write(line)
    settings = [f"data.max_seq_length={_LENGTH.value}", "masking.duplicate_factor=1"]
    settings += [f"model.hidden_size={_HIDDEN}", f"model.num_layers={_LAYERS}", f"model.num_heads={_HEADS}"]
    settings += ["training.num_steps=2", "training.jit_compile=false", "training.validation_users=128"]
    shared = [f"--set={setting}" for setting in settings]
    _run("pipelines/make_tfrecords.py", f"--input={some}", f"--output_dir={work / 'records'}", *shared)
    _run("train.py", f"--data_dir={work / 'records'}", f"--model_dir={work / 'model'}", *shared)
    return work / "model"


def _command(log: pathlib.Path, model: pathlib.Path, output: pathlib.Path) -> list[str]:
    return [
        sys.executable, str(ROOT / "recommend.py"), f"--model_dir={model}", f"--input={log}", f"--output={output}",
        f"--top_k={_TOP_K}",
    ]  # fmt: skip


def _recommend(log: pathlib.Path, model: pathlib.Path, output: pathlib.Path) -> tuple[float, int, float]:
    """The seconds of the whole command, the number of users, and users per second while it scores."""
    started = time.perf_counter()
    printed = _run(*_command(log, model, output)[1:])
    seconds = time.perf_counter() - started
    (line,) = (line for line in printed.splitlines() if "users/s" in line)
    users = json.loads((output / "_metadata.json").read_text())["counts"]["users"]
    return seconds, users, float(line.split()[0].replace(",", ""))


def _kill(
    log: pathlib.Path, model: pathlib.Path, output: pathlib.Path, seconds: float, expected: dict[str, str]
) -> int:
    """Kills the command at random moments. Each run continues the files that the killed one before it left.

    A run that ends before it is killed is compared with the expected hashes, and the next one starts from nothing.

    Returns:
        The number of runs that ended.
    """
    moments = random.Random(_SEED.value)
    killed = runs = 0
    while killed < _KILLS.value or output.exists():
        command = _command(log, model, output)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            code = process.wait(moments.uniform(0, seconds) if killed < _KILLS.value else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
            continue
        if code or _hashes(output) != expected:
            sys.exit(f"error: after {killed} kills the files are different (exit code {code})")
        shutil.rmtree(output)
        runs += 1
    return runs


def _hashes(output: pathlib.Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in output.iterdir()}


def _peer(name: str, python: str, log: pathlib.Path) -> float:
    """Users per second of RecTools or RecBole, without their start and their reading of the log."""
    settings: dict[str, Any] = {
        "log": str(log.resolve()), "steps": 2, "warm_up_steps": 0, "hidden_size": _HIDDEN, "num_layers": _LAYERS,
        "num_heads": _HEADS, "max_seq_length": _LENGTH.value, "masking_rate": 0.2, "dropout": 0.1, "batch_size": 128,
        "top_k": _TOP_K, "users_at_once": _USERS_AT_ONCE,
    }  # fmt: skip
    script = ROOT / "benchmarks" / "peers" / f"{name}.py"
    done = subprocess.run([python, str(script), json.dumps(settings)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])["users_per_second"]


def _run(*arguments: str) -> str:
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


if __name__ == "__main__":
    app.run(main)
