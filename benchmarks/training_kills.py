"""Kills a training at random moments, resumes it, and compares the weights with those of an uninterrupted run.

python benchmarks/training_kills.py --work_dir=/tmp/training_kills
"""

import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import tensorflow as tf
from absl import app, flags

from bert4rec_tf.command_line import command

ROOT = pathlib.Path(__file__).resolve().parents[1]
_KILLS = flags.DEFINE_integer("kills", 50, "number of runs to kill", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 1, "seed of the random moments")
_WORK = flags.DEFINE_string("work_dir", None, "directory for the records and the models", required=True)
_STEPS, _EPOCH = 240, 60
_SETTINGS = [
    "model.hidden_size=32",
    "training.batch_size=64",
    "training.num_length_buckets=1",
    f"training.num_steps={_STEPS}",
    f"training.steps_per_epoch={_EPOCH}",
    "training.learning_rate=0.003",
    "training.checkpoint_minutes=0.003",
    "training.masking=resample",
]


@command
def main() -> None:
    """Kills and resumes each training. Exits with 1 if the weights or the validation metrics differ."""
    work = pathlib.Path(_WORK.value)
    records = work / "records"
    log = "--dataset=synthetic:num_users=400,num_items=100,num_themes=10"
    subprocess.run(
        [sys.executable, "pipelines/make_tfrecords.py", log, f"--output_dir={records}"],
        cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    started = time.monotonic()
    train(records, work / "uninterrupted").wait()
    seconds = time.monotonic() - started
    expected, moments, killed_at = outcome(work / "uninterrupted"), random.Random(_SEED.value), []
    for number in range(_KILLS.value):
        model_dir = work / f"killed-{number}"
        process = train(records, model_dir)
        time.sleep(moments.uniform(0.5, 1) * seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        saved = [int(path.name.removeprefix("ckpt-")) for path in model_dir.glob("checkpoints/latest/ckpt-*")]
        killed_at.append(max(saved, default=0))
        if train(records, model_dir).wait() or outcome(model_dir) != expected:
            sys.exit(f"error: {model_dir}, killed after step {killed_at[-1]}, differs from an uninterrupted run")
        shutil.rmtree(model_dir)
    within = [step for step in killed_at if 0 < step < _STEPS]
    between = sum(step % _EPOCH != 0 for step in within)
    print(
        f"{_KILLS.value} runs killed, {len(within)} with a checkpoint and before the end ({between} between two "
        f"validations): all weights and validations equal, sha256 {expected[0][:16]}"
    )


def train(records: pathlib.Path, model_dir: pathlib.Path) -> "subprocess.Popen[bytes]":
    """Starts a training."""
    command = [sys.executable, "train.py", f"--data_dir={records}", f"--model_dir={model_dir}"]
    command += [f"--set={setting}" for setting in _SETTINGS]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def outcome(model_dir: pathlib.Path) -> tuple[str, list[tuple[int, dict]]]:
    """The sha256 of the last checkpoint's weights, moments and counters, without elapsed time; and all validations."""
    reader = tf.train.load_checkpoint(str(model_dir / f"checkpoints/latest/ckpt-{_STEPS}/state"))
    digest = hashlib.sha256()
    for name in sorted(reader.get_variable_to_shape_map()):
        if "elapsed_seconds" not in name and "_CHECKPOINTABLE_OBJECT_GRAPH" not in name:
            digest.update(name.encode() + reader.get_tensor(name).tobytes())
    lines = (model_dir / "history.jsonl").read_text().splitlines()
    return digest.hexdigest(), [(entry["step"], entry["validation"]) for entry in map(json.loads, lines)]


if __name__ == "__main__":
    app.run(main)
