"""The paper's ablations (Table 5, Figures 2 to 4), each trained with the same budget.

python benchmarks/ablations.py --input=ml-1m.txt --config=configs/ml-1m.json --steps=2000 --work_dir=/tmp/ablations
"""

import json
import pathlib
import subprocess
import sys
from typing import Any

from absl import app, flags

ROOT = pathlib.Path(__file__).resolve().parents[1]
_INPUT = flags.DEFINE_string("input", None, "the log, as pipelines/make_tfrecords.py takes it", required=True)
_CONFIG = flags.DEFINE_string("config", None, "JSON of settings: what the ablations change", required=True)
_SET = flags.DEFINE_multi_string("set", [], "section.field=value over --config, for all of them; repeatable")
_STEPS = flags.DEFINE_integer("steps", None, "of each training", required=True)
_ONLY = flags.DEFINE_list("only", [], "names of ablations; without: all")
_WORK = flags.DEFINE_string("work_dir", None, "for records and models; what is there is gone on with", required=True)

# Name -> what it sets. Records are built anew only for settings of `data` and `masking`.
ABLATIONS: dict[str, dict[str, Any]] = {
    "as configured": {},
    "without positions": {"model.positions": "none"},
    "without feed-forward": {"model.feed_forward": False},
    "without layer norm": {"model.layer_norm": "none"},
    "without residuals": {"model.residual": False},
    "without dropout": {"model.dropout": 0, "model.attention_dropout": 0},
    **{f"{layers} layers": {"model.num_layers": layers} for layers in (1, 3, 4)},
    **{f"{heads} heads": {"model.num_heads": heads} for heads in (1, 4, 8)},
    **{f"d = {size}": {"model.hidden_size": size} for size in (16, 32, 128)},
    **{f"masking rate {rate}": {"masking.masking_rates": rate} for rate in (0.1, 0.4, 0.6, 0.8)},
    **{f"N = {length}": {"data.max_seq_length": length} for length in (10, 20, 50)},
    "last-item instances alone": {"masking.duplicate_factor": 0, "masking.last_item_instances": 1},
    "left to right": {"model.attention": "causal"},
}


def main(_: list[str]) -> None:
    """Each in turn; prints a table, and keeps it as ablations.json."""
    work = pathlib.Path(_WORK.value)
    unknown = set(_ONLY.value) - set(ABLATIONS)
    if unknown:
        sys.exit(f"error: --only takes {', '.join(ABLATIONS)}. Received: {', '.join(unknown)}")
    found: dict[str, Any] = {}
    print(f"| | NDCG@10, all items | NDCG@10, negatives | seconds |\n|{'---|' * 4}")
    for name, changes in ABLATIONS.items():
        if _ONLY.value and name not in _ONLY.value:
            continue
        found[name] = run(work, name, changes)
        shown = [found[name][protocol]["ndcg@10"] for protocol in ("full", "sampled")]
        seconds = found[name]["model"]["training"]["elapsed_seconds"]
        print(f"| {name} | {shown[0]:.4f} | {shown[1]:.4f} | {seconds:.0f} |", flush=True)
        (work / "ablations.json").write_text(json.dumps(found, indent=1) + "\n")


def run(work: pathlib.Path, name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Records where they are new, training, and the metrics of the validation split: nothing is chosen on the test."""
    assignments = [*_SET.value, *(f"{field}={json.dumps(value)}" for field, value in changes.items())]
    of_records = [assignment for assignment in assignments if assignment.startswith(("data.", "masking."))]
    folder = "-".join(["records", *of_records]).replace("/", "_").replace(" ", "")
    model, metrics = work / name.replace(" ", "_"), work / f"{name.replace(' ', '_')}.json"
    config = f"--config={_CONFIG.value}"
    command(
        "pipelines/make_tfrecords.py",
        f"--input={_INPUT.value}",
        f"--output_dir={work / folder}",
        config,
        *flagged(of_records),
    )
    steps = [f"training.num_steps={_STEPS.value}", f"training.steps_per_epoch={max(1, _STEPS.value // 4)}"]
    where = [f"--data_dir={work / folder}", f"--model_dir={model}"]
    command("train.py", *where, config, *flagged([*assignments, *steps]))
    command("evaluate.py", *where, "--split=validation", f"--output={metrics}")
    return json.loads(metrics.read_text())


def flagged(assignments: list[str]) -> list[str]:
    """As `--set`."""
    return [f"--set={assignment}" for assignment in assignments]


def command(*arguments: str) -> None:
    """Runs a command of the project, and ends with it if it fails."""
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)


if __name__ == "__main__":
    app.run(main)
