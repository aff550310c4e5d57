"""From a log to a number that can be trusted: records, training, evaluation, one JSON a seed under results/.

python benchmarks/reproduce.py --dataset=ml-1m --input=ml-1m.txt --config=configs/ml-1m-best.json --seeds=3 \
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
_DATASET = flags.DEFINE_string("dataset", None, "its name, for the results: ml-1m, beauty ...", required=True)
_INPUT = flags.DEFINE_string("input", None, "the log, as pipelines/make_tfrecords.py takes it", required=True)
_CONFIG = flags.DEFINE_string("config", None, "JSON of settings; its name is the results'", required=True)
_SET = flags.DEFINE_multi_string("set", [], "section.field=value over --config; repeatable, named in the results")
_SEEDS = flags.DEFINE_integer("seeds", 1, "how many, from --first_seed", lower_bound=1)
_FIRST = flags.DEFINE_integer("first_seed", 1, "the first one", lower_bound=0)
_LIMIT = flags.DEFINE_float("time_limit_minutes", None, "of each training; without, all of training.num_steps")
_WORK = flags.DEFINE_string("work_dir", None, "for records and models; what is there is gone on with", required=True)
_RESULTS = flags.DEFINE_string("results_dir", str(ROOT / "results"), "where the JSON goes")


@command
def main() -> None:
    """Each seed in turn; the same command again goes on where it was."""
    for seed in range(_FIRST.value, _FIRST.value + _SEEDS.value):
        print(reproduce(seed), flush=True)


def reproduce(seed: int) -> str:
    """One run. Records and negatives are the same for all; masks drawn anew, weights and order follow the seed."""
    config = pathlib.Path(_CONFIG.value).stem
    of_dataset = [] if config.startswith(_DATASET.value) else [_DATASET.value]
    settings = "-".join([*of_dataset, config, *(assignment.replace("=", "-") for assignment in _SET.value)])
    name = f"{settings}-seed{seed}"
    work, seconds = pathlib.Path(_WORK.value), {}
    data, model, metrics_file = work / f"{settings}-data", work / name, work / f"{name}.json"
    where = [f"--data_dir={data}", f"--model_dir={model}"]
    configured = [f"--config={_CONFIG.value}", *(f"--set={assignment}" for assignment in _SET.value)]
    limit = [f"--time_limit_minutes={_LIMIT.value}"] if _LIMIT.value else []
    steps = {
        "records": ["pipelines/make_tfrecords.py", f"--input={_INPUT.value}", f"--output_dir={data}", *configured],
        "training": ["train.py", *where, *configured, f"--set=training.seed={seed}", *limit],
        "evaluation": ["evaluate.py", *where, f"--output={metrics_file}"],
    }
    for step, (script, *arguments) in steps.items():
        started = time.monotonic()
        done = subprocess.run([sys.executable, str(ROOT / script), *arguments], check=False)
        if done.returncode:
            sys.exit(done.returncode)
        seconds[step] = round(time.monotonic() - started, 1)
    history = (model / "history.jsonl").read_text().splitlines()
    seconds["training"] = json.loads(history[-1])["elapsed_seconds"]  # earlier calls counted in
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
