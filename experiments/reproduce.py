"""Builds records, trains and evaluates for several seeds, and writes one JSON file for each seed to results/.

python experiments/reproduce.py --dataset=ml-1m --input=ml-1m.txt --config=configs/ml-1m-causal.json --seeds=3 \
    --time_limit_minutes=45 --work_dir=/tmp/reproduce
"""

import json
import pathlib
import shutil
import subprocess
import sys
import time

from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from bert4rec_tf.command_line import command

ROOT = pathlib.Path(__file__).resolve().parents[1]
_DATASET = flags.DEFINE_string(
    "dataset", None, "name of the log in the names of the results files, such as ml-1m", required=True
)
_INPUT = flags.DEFINE_string(
    "input", None, "log to build the records from: a path or glob, as --input of make_tfrecords.py", required=True
)
_CONFIG = flags.DEFINE_string(
    "config", None, "JSON file of settings; the names of the results files contain its name", required=True
)
_SET = flags.DEFINE_multi_string(
    "set",
    [],
    "section.field=value; replaces a setting of --config; the names of the results files contain it; repeatable",
)
_SEEDS = flags.DEFINE_integer("seeds", 1, "number of seeds", lower_bound=1)
_FIRST = flags.DEFINE_integer("first_seed", 1, "the first seed", lower_bound=0)
_LIMIT = flags.DEFINE_float(
    "time_limit_minutes", None, "time limit of each training; default: none, so that training.num_steps are trained"
)
_WORK = flags.DEFINE_string(
    "work_dir", None, "directory for records and models; existing ones are resumed", required=True
)
_RESULTS = flags.DEFINE_string("results_dir", str(ROOT / "results"), "directory to write the results in")


@command
def main() -> None:
    """Runs one seed after the other. Run the same command again to resume."""
    for seed in range(_FIRST.value, _FIRST.value + _SEEDS.value):
        print(reproduce(seed), flush=True)


def reproduce(seed: int) -> str:
    """Runs one seed. All seeds share records and negatives; weights, redrawn masks and batch order differ."""
    config = pathlib.Path(_CONFIG.value).stem
    prefix = [] if config.startswith(_DATASET.value) else [_DATASET.value]
    settings = "-".join([*prefix, config, *(assignment.replace("=", "-") for assignment in _SET.value)])
    name = f"{settings}-seed{seed}"
    work, seconds = pathlib.Path(_WORK.value), {}
    data, model, metrics_file = work / f"{settings}-data", work / name, work / f"{name}.json"
    directories = [f"--data_dir={data}", f"--model_dir={model}"]
    config_flags = [f"--config={_CONFIG.value}", *(f"--set={assignment}" for assignment in _SET.value)]
    limit = [f"--time_limit_minutes={_LIMIT.value}"] if _LIMIT.value else []
    steps = {
        "records": ["pipelines/make_tfrecords.py", f"--input={_INPUT.value}", f"--output_dir={data}", *config_flags],
        "training": ["train.py", *directories, *config_flags, f"--set=training.seed={seed}", *limit],
        "evaluation": ["evaluate.py", *directories, f"--output={metrics_file}"],
    }
    for step, (script, *arguments) in steps.items():
        started = time.monotonic()
        done = subprocess.run([sys.executable, str(ROOT / script), *arguments], check=False)
        if done.returncode:
            sys.exit(done.returncode)
        seconds[step] = round(time.monotonic() - started, 1)
    history = (model / "history.jsonl").read_text().splitlines()
    seconds["training"] = json.loads(history[-1])["elapsed_seconds"]  # includes earlier calls
    metrics = json.loads(metrics_file.read_text())
    metrics["run"] = {
        "dataset": _DATASET.value,
        "config": pathlib.Path(_CONFIG.value).name,
        "set": _SET.value,
        "seed": seed,
        "time_limit_minutes": _LIMIT.value,
        "seconds": seconds,
        "date": time.strftime("%Y-%m-%d"),
    }
    results = pathlib.Path(_RESULTS.value)
    results.mkdir(parents=True, exist_ok=True)
    (results / f"{name}.json").write_text(json.dumps(metrics, indent=1) + "\n")
    shutil.copy(model / "history.jsonl", results / f"{name}-history.jsonl")
    found = [metrics[protocol]["ndcg@10"] for protocol in ("full", "sampled")]
    full, sampled = ("-" if value is None else f"{value:.4f}" for value in found)
    return f"{name}: NDCG@10 {full} over all items, {sampled} over the negatives"


if __name__ == "__main__":
    app.run(main)
