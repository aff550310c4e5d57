"""The paper's ablations (Table 5, N of Table 4, d and the masking rate of Figures 3 and 4), each with the same steps.

python benchmarks/ablations.py --dataset=ml-1m --input=ml-1m.txt --config=configs/ml-1m.json --steps=400 \
    --work_dir=/tmp/ablations

It ranks the validation split: nothing is chosen on the test. results_table.py makes the table of what it leaves.
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
_DATASET = flags.DEFINE_string("dataset", None, "its name, for the results: ml-1m, beauty ...", required=True)
_INPUT = flags.DEFINE_string("input", None, "the log, as pipelines/make_tfrecords.py takes it", required=True)
_CONFIG = flags.DEFINE_string("config", None, "JSON of settings: what the ablations change", required=True)
_SET = flags.DEFINE_multi_string("set", [], "section.field=value over --config, for all of them; repeatable")
_STEPS = flags.DEFINE_integer("steps", None, "of each training", required=True)
_ONLY = flags.DEFINE_list("only", [], "names of ablations, added to the file where it has others; without: all anew")
_WORK = flags.DEFINE_string("work_dir", None, "for records and models; what is there is gone on with", required=True)
_RESULTS = flags.DEFINE_string("results_dir", str(ROOT / "results"), "where ablations-DATASET.json goes")

# Name -> what it sets; the names are those of results/published_ablations.json. Records are built anew only for
# settings of `data` and `masking`.
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
    """Each in turn, but for those that change nothing; the file grows with each."""
    asked = set(_ONLY.value) or set(ABLATIONS)
    unknown = asked - set(ABLATIONS)
    if unknown:
        raise InputError(f"--only takes {', '.join(ABLATIONS)}. Received: {', '.join(unknown)}")
    unchanged = configured(_SET.value)
    results = pathlib.Path(_RESULTS.value) / f"ablations-{_DATASET.value}.json"
    results.parent.mkdir(parents=True, exist_ok=True)
    of_all = {
        "dataset": _DATASET.value,
        "config": pathlib.Path(_CONFIG.value).name,
        "set": _SET.value,
        "steps": _STEPS.value,
    }
    found = added_to(results, of_all) if _ONLY.value and results.exists() else {**of_all, "ablations": {}}
    for name, changes in ABLATIONS.items():
        assignments = [*_SET.value, *(f"{field}={json.dumps(value)}" for field, value in changes.items())]
        if changes.get("masking.masking_rates", 0) > max(unchanged.masking.masking_rates):
            # The paper's configurations cap the masked items at what their own rate gives.
            assignments.append("masking.max_predictions=null")
        if changes and (name not in asked or configured(assignments) == unchanged):
            continue
        if not changes and name in found["ablations"]:  # what the others are compared with
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
        shown = [metrics[protocol]["ndcg@10"] for protocol in ("full", "sampled")]
        shown = ["-" if value is None else f"{value:.4f}" for value in shown]
        print(f"{name}: NDCG@10 {shown[0]} over all items, {shown[1]} over the negatives", flush=True)


def added_to(results: pathlib.Path, of_all: dict[str, Any]) -> dict[str, Any]:
    """What the file holds, which must be of the same settings: its rows are compared."""
    found: dict[str, Any] = json.loads(results.read_text())
    there = {name: found[name] for name in of_all}
    if there != of_all:
        raise InputError(
            f"--only adds to {results}, which must be of the same settings. Received: {of_all}, there: {there}. "
            "Fix: the same flags, or another --results_dir"
        )
    return found


def configured(assignments: list[str]) -> Config:
    """What --config and these come to."""
    return Config.from_dict(read_settings(_CONFIG.value, assignments))


def run(work: pathlib.Path, name: str, assignments: list[str]) -> dict[str, Any]:
    """Records where they are new, training, and the metrics of the validation split."""
    of_records = [assignment for assignment in assignments if assignment.startswith(("data.", "masking."))]
    folder = "-".join(["records", *of_records]).replace("/", "_").replace(" ", "")
    model, metrics = work / name.replace(" ", "_"), work / f"{name.replace(' ', '_')}.json"
    config = f"--config={_CONFIG.value}"
    call(
        "pipelines/make_tfrecords.py",
        f"--input={_INPUT.value}",
        f"--output_dir={work / folder}",
        config,
        *flagged(of_records),
    )
    steps = [f"training.num_steps={_STEPS.value}", f"training.steps_per_epoch={_STEPS.value}"]
    where = [f"--data_dir={work / folder}", f"--model_dir={model}"]
    call("train.py", *where, config, *flagged([*assignments, *steps]))
    call("evaluate.py", *where, "--split=validation", f"--output={metrics}")
    return json.loads(metrics.read_text())


def flagged(assignments: list[str]) -> list[str]:
    """As `--set`."""
    return [f"--set={assignment}" for assignment in assignments]


def call(script: str, *arguments: str) -> None:
    """Runs a command of the project, and ends with it if it fails."""
    done = subprocess.run([sys.executable, str(ROOT / script), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)


if __name__ == "__main__":
    app.run(main)
