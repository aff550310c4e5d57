"""Times the pipeline command and a plain generator of padded records, in turn on the same log.

python benchmarks/pipeline_speed.py --input=ml-1m.txt --work_dir=/tmp/pipeline_speed

The plain generator is the authors' gen_data_fin.py in present-day Python: one process, lists, random.sample, and one
padded tf.train.Example for each instance. It reads `user item` lines.
"""

import pathlib
import random
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import app, flags

from bert4rec_tf.command_line import command

ROOT = pathlib.Path(__file__).resolve().parents[1]
_INPUT = flags.DEFINE_string("input", None, "log of `user item` lines, such as ml-1m.txt", required=True)
_WORK = flags.DEFINE_string("work_dir", None, "directory for the records", required=True)
_RUNS = flags.DEFINE_integer("runs", 3, "number of runs of each command; the medians are compared", lower_bound=1)
_STEADY = flags.DEFINE_integer(
    "steady_duplicate_factor",
    100,
    "masking.duplicate_factor of the second comparison, in which start-up hardly counts",
    lower_bound=1,
)
_PLAIN = flags.DEFINE_string(
    "plain", None, "FACTOR,FILE: run only the plain generator, with this duplicate factor, and write this file"
)

_MAX_LENGTH, _STEP, _RATE, _MAX_PREDICTIONS = 200, 100, 0.2, 40
_AUTHORS_SECONDS = 131.0  # of gen_data_fin.py with TensorFlow 1.15, 2 cores, duplicate factor 10; 957 bytes an instance


@command
def main() -> None:
    """Runs both commands in turn and prints the ratios."""
    if _PLAIN.value:
        copies, _, output = _PLAIN.value.partition(",")
        generate(pathlib.Path(_INPUT.value), int(copies), output)
        return
    work = pathlib.Path(_WORK.value)
    work.mkdir(parents=True, exist_ok=True)
    plain, ours = [], []
    for _ in range(_RUNS.value):
        plain.append(run_plain(work, 10))
        ours.append(run_ours(work, 10))
    (plain_seconds, instances, plain_bytes), (our_seconds, our_instances, our_bytes) = map(median, (plain, ours))
    print(f"whole command, duplicate factor 10, median of {_RUNS.value}")
    print(f"  plain generator {plain_seconds:6.2f} s, {instances:,} instances of {plain_bytes:.0f} bytes")
    print(f"  this pipeline   {our_seconds:6.2f} s, {our_instances:,} instances of {our_bytes:.0f} bytes")
    print(f"  {plain_seconds / our_seconds:.1f} times as fast; {our_bytes / plain_bytes:.3f} of the bytes an instance")
    print(f"  the authors' code took {_AUTHORS_SECONDS:.0f} s: {_AUTHORS_SECONDS / our_seconds:.0f} times as fast")
    factor = _STEADY.value
    plain_seconds, instances, _ = run_plain(work, factor)
    our_seconds, our_instances, _ = run_ours(work, factor)
    rates = instances / plain_seconds, our_instances / our_seconds
    print(f"whole command, duplicate factor {factor}, one run")
    print(f"  plain generator {plain_seconds:6.2f} s, {rates[0]:,.0f} instances/s")
    print(
        f"  this pipeline   {our_seconds:6.2f} s, {rates[1]:,.0f} instances/s, {rates[1] / rates[0]:.1f} times as many"
    )


def median(runs: list[tuple[float, int, float]]) -> tuple[float, int, float]:
    """The median time, with the instances and bytes, which are the same in all runs."""
    return statistics.median(seconds for seconds, _, _ in runs), runs[0][1], runs[0][2]


def run_plain(work: pathlib.Path, factor: int) -> tuple[float, int, float]:
    """Runs the plain generator. Returns its seconds, its instances, and the bytes per instance."""
    output = work / f"plain-{factor}.tfrecord"
    command = [sys.executable, __file__, f"--input={_INPUT.value}", f"--work_dir={work}", f"--plain={factor},{output}"]
    seconds, printed = timed(command)
    instances = int(printed)
    return seconds, instances, output.stat().st_size / instances


def run_ours(work: pathlib.Path, factor: int) -> tuple[float, int, float]:
    """Runs the pipeline. Returns its seconds, its instances, and the bytes of the training shards per instance."""
    output = work / f"ours-{factor}"
    command = [sys.executable, str(ROOT / "pipelines" / "make_tfrecords.py"), f"--input={_INPUT.value}"]
    command += [f"--output_dir={output}", "--overwrite", f"--set=masking.duplicate_factor={factor}"]
    command += ["--set=masking.max_predictions=40"]
    seconds, printed = timed(command)
    (line,) = (line for line in printed.splitlines() if "training instances" in line)
    instances = int(line.split()[0].replace(",", ""))
    return seconds, instances, sum(path.stat().st_size for path in (output / "train").iterdir()) / instances


def timed(command: list[str]) -> tuple[float, str]:
    """Runs a process. Returns its seconds and its output."""
    started = time.monotonic()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return time.monotonic() - started, done.stdout


def generate(log: pathlib.Path, factor: int, output: str) -> None:
    """Writes padded instances of each user's items without the last two, and prints the number of instances."""
    import tensorflow as tf

    rng = random.Random(1)
    sequences: dict[str, list[str]] = {}
    for line in log.read_text().splitlines():
        user, item = line.split()
        sequences.setdefault(user, []).append(item)
    counts: dict[str, int] = {}
    for items in sequences.values():
        for item in items:
            counts[item] = counts.get(item, 0) + 1
    ids = {item: number for number, item in enumerate(sorted(counts, key=counts.__getitem__, reverse=True), start=3)}

    instances = []
    for user, items in sequences.items():
        training = [ids[item] for item in items[:-2]]
        starts = [*range(len(training) - _MAX_LENGTH, 0, -_STEP), 0] if len(training) > _MAX_LENGTH else [0]
        windows = [training[start : start + _MAX_LENGTH] for start in starts]
        for window in windows:
            for _ in range(factor):
                number = min(_MAX_PREDICTIONS, max(1, round(len(window) * _RATE)))
                instances.append((user, window, sorted(rng.sample(range(len(window)), number))))
            instances.append((user, window, [len(window) - 1]))
    rng.shuffle(instances)

    def integers(values: list[int]) -> tf.train.Feature:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    with tf.io.TFRecordWriter(output) as writer:
        for user, window, positions in instances:
            masked = list(window)
            for position in positions:
                masked[position] = 1
            padding = [0] * (_MAX_LENGTH - len(window))
            prediction_padding = [0] * (_MAX_PREDICTIONS - len(positions))
            weights = [1.0] * len(positions) + [0.0] * len(prediction_padding)
            features = {
                "info": tf.train.Feature(bytes_list=tf.train.BytesList(value=[user.encode()])),
                "input_ids": integers(masked + padding),
                "input_mask": integers([1] * len(window) + padding),
                "masked_lm_positions": integers(positions + prediction_padding),
                "masked_lm_ids": integers([window[position] for position in positions] + prediction_padding),
                "masked_lm_weights": tf.train.Feature(float_list=tf.train.FloatList(value=weights)),
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())
    print(len(instances))


if __name__ == "__main__":
    app.run(main)
