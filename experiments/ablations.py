"""Trains the paper's ablations (Table 5, N of Table 4, d of Figure 3, masking rate of Figure 4) for equal steps.

python experiments/ablations.py --dataset=ml-1m --input=ml-1m.txt --config=configs/ml-1m.json --steps=400 \
    --work_dir=/tmp/ablations

Evaluates on the validation split, so that no choice depends on the test split. results_table.py makes the table.
"""

import json
import pathlib
import subprocess
import sys
from typing import Any

from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from bert4rec_tf.command_line import command
from bert4rec_tf.config import Config, read_settings
from tfrecords.errors import InputError

ROOT = pathlib.Path(__file__).resolve().parents[1]
_DATASET = flags.DEFINE_string(
    "dataset", None, "name of the log in the names of the results files, such as ml-1m", required=True
)
_INPUT = flags.DEFINE_string(
    "input", None, "log to build the records from: a path or glob, as --input of make_tfrecords.py", required=True
)
_CONFIG = flags.DEFINE_string("config", None, "JSON file of the settings that the ablations change", required=True)
_SET = flags.DEFINE_multi_string(
    "set", [], "section.field=value; replaces a setting of --config in all trainings; repeatable"
)
_STEPS = flags.DEFINE_integer("steps", None, "number of steps of each training", required=True)
_ONLY = flags.DEFINE_list(
    "only", [], "names of the ablations to run and add to the results file; default: run all, into a new file"
)
_WORK = flags.DEFINE_string(
    "work_dir", None, "directory for records and models; existing ones are resumed", required=True
)
_RESULTS = flags.DEFINE_string("results_dir", str(ROOT / "results"), "directory to write ablations-DATASET.json in")

# Name -> settings; the names are those of results/published_ablations.json. Only settings of `data` and `masking`
# need new records.
ABLATIONS: dict[str, dict[str, Any]] = {
    "as configured": {},
    "without positions": {"model.positions": "none"},
    "without feed-forward": {"model.feed_forward": False},
    "without layer norm": {"model.layer_norm": "none"},
    "without residuals": {"model.residual": False},
    "without dropout": {"model.dropout": 0.0, "model.attention_dropout": 0.0},
    **{f"layers = {layers}": {"model.num_layers": layers} for layers in (1, 2, 3, 4)},
    **{f"heads = {heads}": {"model.num_heads": heads} for heads in (1, 2, 4, 8)},
    **{f"N = {length}": {"data.max_seq_length": length} for length in (10, 20, 30, 50, 100, 200)},
    **{f"d = {size}": {"model.hidden_size": size} for size in (16, 32, 64, 128)},
    **{f"masking rate = {rate}": {"masking.masking_rates": rate} for rate in (0.1, 0.2, 0.4, 0.6, 0.8)},
    "last-item instances alone": {"masking.duplicate_factor": 0},
    "left to right": {"model.attention": "causal"},
}


@command
def main() -> None:
    """Runs each ablation that changes a setting of --config, and writes the results file after each."""
    selected = set(_ONLY.value) or set(ABLATIONS)
    unknown = selected - set(ABLATIONS)
    if unknown:
        raise InputError(
            f"--only takes {', '.join(ABLATIONS)}. Received: {', '.join(unknown)}. Fix: choose names of this list"
        )
    unchanged = configured(_SET.value)
    results = pathlib.Path(_RESULTS.value) / f"ablations-{_DATASET.value}.json"
    results.parent.mkdir(parents=True, exist_ok=True)
    common = {
        "dataset": _DATASET.value,
        "config": pathlib.Path(_CONFIG.value).name,
        "set": _SET.value,
        "steps": _STEPS.value,
    }
    found: dict[str, Any] = {**common, "ablations": {}}
    if _ONLY.value and results.exists():
        found = read_results(results, common)
    for name, changes in ABLATIONS.items():
        assignments = [*_SET.value, *(f"{field}={json.dumps(value)}" for field, value in changes.items())]
        if changes.get("masking.masking_rates", 0) > max(unchanged.masking.masking_rates):
            # max_predictions of the paper's configurations is the number of masked items at their own rate.
            assignments.append("masking.max_predictions=null")
        if changes and (name not in selected or configured(assignments) == unchanged):
            continue
        if not changes and name in found["ablations"]:  # the unchanged run is there already
            continue
        metrics = run(pathlib.Path(_WORK.value) / _DATASET.value, name, assignments)
        found["hardware"], found["users"] = metrics["hardware"], metrics["users"]
        found["ablations"][name] = {
            "full": metrics["full"],
            "sampled": metrics["sampled"],
            "seconds": metrics["model"]["training"]["elapsed_seconds"],
        }
        found["ablations"] = {name: found["ablations"][name] for name in ABLATIONS if name in found["ablations"]}
        results.write_text(json.dumps(found, indent=1) + "\n")
        values = [metrics[protocol]["ndcg@10"] for protocol in ("full", "sampled")]
        full, sampled = ("-" if value is None else f"{value:.4f}" for value in values)
        print(f"{name}: NDCG@10 {full} over all items, {sampled} over the negatives", flush=True)


def read_results(results: pathlib.Path, common: dict[str, Any]) -> dict[str, Any]:
    """Reads the results file. Its rows are compared with each other, so all must have the same settings."""
    found: dict[str, Any] = json.loads(results.read_text())
    in_file = {name: found[name] for name in common}
    if in_file != common:
        raise InputError(
            f"--only adds to {results}, which must be of the same settings. Received: {common}, in the file: "
            f"{in_file}. Fix: use the same flags, or another --results_dir"
        )
    return found


def configured(assignments: list[str]) -> Config:
    """The configuration of --config with these settings."""
    return Config.from_dict(read_settings(_CONFIG.value, assignments))


def run(work: pathlib.Path, name: str, assignments: list[str]) -> dict[str, Any]:
    """Builds the records if they are new, trains, and returns the metrics of the validation split."""
    record_settings = [assignment for assignment in assignments if assignment.startswith(("data.", "masking."))]
    folder = "-".join(["records", *record_settings]).replace("/", "_").replace(" ", "")
    model, metrics = work / name.replace(" ", "_"), work / f"{name.replace(' ', '_')}.json"
    config = f"--config={_CONFIG.value}"
    call(
        "pipelines/make_tfrecords.py",
        f"--input={_INPUT.value}",
        f"--output_dir={work / folder}",
        config,
        *flagged(record_settings),
    )
    steps = [f"training.num_steps={_STEPS.value}", f"training.steps_per_epoch={_STEPS.value}"]
    directories = [f"--data_dir={work / folder}", f"--model_dir={model}"]
    call("train.py", *directories, config, *flagged([*assignments, *steps]))
    call("evaluate.py", *directories, "--split=validation", f"--output={metrics}")
    return json.loads(metrics.read_text())


def flagged(assignments: list[str]) -> list[str]:
    """Assignments as `--set` flags."""
    return [f"--set={assignment}" for assignment in assignments]


def call(script: str, *arguments: str) -> None:
    """Runs a command of the project; exits with its output if it fails."""
    done = subprocess.run([sys.executable, str(ROOT / script), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)


if __name__ == "__main__":
    app.run(main)
