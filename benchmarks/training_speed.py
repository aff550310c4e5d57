"""Times training beside RecTools' and RecBole's models, and beside the machine's matrix product.

python benchmarks/training_speed.py --log=ml-1m.txt --max_seq_length=200 --masking_rate=0.2 --work_dir=/tmp/speed \
    --rectools_python=/tmp/rectools/bin/python --recbole_python=/tmp/recbole/bin/python
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import app, flags

from bert4rec_tf.command_line import command
from bert4rec_tf.config import TrainingConfig
from bert4rec_tf.inputs.length_buckets import choose_buckets, steps_per_pass
from tfrecords.manifest import Manifest

ROOT = pathlib.Path(__file__).resolve().parents[1]
_LOG = flags.DEFINE_string("log", None, "log of `user item` lines, in order of time for each user", required=True)
_LENGTH = flags.DEFINE_integer("max_seq_length", None, "maximum sequence length N", required=True)
_RATE = flags.DEFINE_float("masking_rate", None, "share of masked items (rho in the paper)", required=True)
_WORK = flags.DEFINE_string("work_dir", None, "directory for records, models and logs; must not exist", required=True)
_COPIES = flags.DEFINE_integer("duplicate_factor", 4, "masked instances of each window in one pass of train.py")
_PASSES = flags.DEFINE_integer("passes", 3, "passes of train.py; the first one compiles and does not count")
_RECTOOLS = flags.DEFINE_string(
    "rectools_python", None, "Python of an environment with rectools[torch]; default: leave RecTools out"
)
_RECBOLE = flags.DEFINE_string(
    "recbole_python", None, "Python of an environment with recbole; default: leave RecBole out"
)
_PEER_STEPS = flags.DEFINE_integer("peer_steps", 25, "steps of RecTools and RecBole, including four to warm up")
_HIDDEN, _LAYERS, _HEADS, _DROPOUT, _BATCH = 64, 2, 2, 0.2, 128
_PEAK = """
import time, tensorflow as tf
a = tf.random.normal([4096, 4096])
product = tf.function(lambda: tf.matmul(a, a))
times = []
for _ in range(12):
    started = time.perf_counter()
    product().numpy()
    times.append(time.perf_counter() - started)
print(2 * 4096**3 / min(times))
"""


@command
def main() -> None:
    """Measures everything in one run, and prints the ratios."""
    work = pathlib.Path(_WORK.value)
    work.mkdir(parents=True)
    records = work / "records"
    settings = [f"data.max_seq_length={_LENGTH.value}", "data.sliding_window=0", "masking.last_item_instances=0"]
    settings += [f"masking.masking_rates={_RATE.value}", f"masking.duplicate_factor={_COPIES.value}"]
    run("pipelines/make_tfrecords.py", f"--input={_LOG.value}", f"--output_dir={records}", *as_flags(settings))
    peak = float(run("-c", _PEAK))
    print(f"float32 matrix product, 4096 x 4096: {peak / 1e9:.0f} GFLOP/s")
    flops, performed = flops_of_a_sequence(Manifest.load(records))
    rates = {}
    for strategy in ("default", "mirrored"):
        rate, waiting = rates[strategy], _ = train(records, work / strategy, strategy)
        print(
            f"{strategy}: {rate:.0f} sequences/s, {waiting:.2%} of it waiting for input; {rate * flops / peak:.1%} of "
            f"the product's FLOP/s for the model's real items, {rate * performed / peak:.1%} counting what is computed"
        )
    print(f"mirrored over 2 logical devices: {rates['mirrored'] / rates['default']:.2f} times one device")
    log = training_part(work)
    for name, python in (("rectools_bert4rec", _RECTOOLS.value), ("recbole_bert4rec", _RECBOLE.value)):
        if python:
            rate = peer(name, python, log)
            print(f"{name}: {rate:.1f} sequences/s; one device here is {rates['default'] / rate:.1f} times as fast")
    for attention in ("prefix", "causal"):
        rates[attention], _ = train(records, work / attention, "default", attention)
        print(f"{attention}: {rates[attention]:.0f} sequences/s")
    if _RECTOOLS.value:
        rate = peer("rectools_fast_sasrec", _RECTOOLS.value, log)
        print(
            f"rectools_fast_sasrec, left to right: {rate:.1f} sequences/s; prefix here is {rates['prefix'] / rate:.1f} "
            f"times as fast, causal {rates['causal'] / rate:.1f} times"
        )


def run(*command: str) -> str:
    """Runs Python and returns its output."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def as_flags(settings: list[str]) -> list[str]:
    """Settings as `--set` flags."""
    return [f"--set={setting}" for setting in settings]


def train(
    records: pathlib.Path, model_dir: pathlib.Path, strategy: str, attention: str = "bidirectional"
) -> tuple[float, float]:
    """Sequences per second in the passes after the first, and the share of the time spent waiting for input.

    A sequence is an instance of Cloze, or a window of the models of next items.
    """
    settings = [f"model.hidden_size={_HIDDEN}", f"model.num_layers={_LAYERS}", f"model.num_heads={_HEADS}"]
    settings += [f"model.dropout={_DROPOUT}", f"model.attention_dropout={_DROPOUT}", "model.layer_norm=pre"]
    settings += [f"training.batch_size={_BATCH}", "training.learning_rate=0.001", "training.validation_users=128"]
    manifest = Manifest.load(records)
    steps = steps_of_a_pass(manifest)
    settings += [f"training.num_steps={_PASSES.value * steps}", f"training.steps_per_epoch={steps}"]
    settings += [f"model.attention={attention}"]
    run(
        "train.py",
        f"--data_dir={records}",
        f"--model_dir={model_dir}",
        f"--strategy={strategy}",
        "--masking=resample",
        *as_flags(settings),
    )
    lines = [json.loads(line) for line in (model_dir / "history.jsonl").read_text().splitlines()][1:]
    items = sum(row.length * row.instances for row in manifest.length_histogram) / manifest.instances()
    if attention != "bidirectional":
        items -= 1  # the last item of a window is only predicted
    rates = [line["items_per_second"] / items for line in lines]
    return statistics.median(rates), statistics.median(line["input_wait_share"] for line in lines)


def steps_of_a_pass(manifest: Manifest) -> int:
    """The steps of one pass with the default number of length buckets."""
    return steps_per_pass(choose_buckets(manifest.length_histogram, TrainingConfig().num_length_buckets), _BATCH)


def flops_of_a_sequence(manifest: Manifest) -> tuple[float, float]:
    """The mean FLOPs of a sequence in training: three times the forward pass's matrix products, without padding.

    Returns:
        The FLOPs of the paper's equations, with every block over every item; and those of this implementation, which
        computes the last block only at the masked slots.
    """
    d, items = _HIDDEN, manifest.counts["items"]
    whole = computed = instances = 0.0
    for row in manifest.length_histogram:
        length = row.length
        masks = max(1, round(_RATE.value * length))
        block = 24 * d * d * length + 4 * d * length**2
        last = 4 * d * d * length + 20 * d * d * masks + 4 * d * length * masks
        head = masks * (2 * d * d + 2 * d * items)
        whole += 3 * row.instances * (_LAYERS * block + head)
        computed += 3 * row.instances * ((_LAYERS - 1) * block + last + head)
        instances += row.instances
    return whole / instances, computed / instances


def training_part(work: pathlib.Path) -> pathlib.Path:
    """Writes the log without each user's last two items, for RecTools and RecBole."""
    users: dict[str, list[str]] = {}
    for line in pathlib.Path(_LOG.value).read_text(encoding="utf-8").splitlines():
        user, item = line.split()
        users.setdefault(user, []).append(item)
    path = work / "training_part.txt"
    path.write_text("".join(f"{user} {item}\n" for user, items in users.items() for item in items[:-2]))
    return path


def peer(name: str, python: str, log: pathlib.Path) -> float:
    """Sequences per second in the training steps of a model of RecTools or RecBole."""
    settings: dict[str, Any] = {
        "log": str(log.resolve()), "steps": _PEER_STEPS.value, "warm_up_steps": 4, "hidden_size": _HIDDEN,
        "num_layers": _LAYERS, "num_heads": _HEADS, "max_seq_length": _LENGTH.value, "masking_rate": _RATE.value,
        "dropout": _DROPOUT, "batch_size": _BATCH,
    }  # fmt: skip
    script = ROOT / "benchmarks" / "peers" / f"{name}.py"
    done = subprocess.run([python, str(script), json.dumps(settings)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])["sequences_per_second"]


if __name__ == "__main__":
    app.run(main)
