"""Compares BERT4Rec with simpler systems on one log, as Table 2 of the paper does; writes results/table2-LOG.json.

python experiments/table2.py --dataset=beauty-5core --input=beauty-5core.csv --config=bert4rec-sparse \
    --set=data.tie_order=input --work_dir=/tmp/table2 --rectools_python=/tmp/rectools/bin/python

Every system gets the same split, and is evaluated on the same users by evaluate.py. What is there already is kept, so
the same command goes on after an interruption.
"""

import dataclasses
import json
import pathlib
import subprocess
import sys
import time
from typing import Any

from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from bert4rec_tf.command_line import command
from bert4rec_tf.evaluation.comparison import compare_runs
from bert4rec_tf.evaluation.results import hardware

ROOT = pathlib.Path(__file__).resolve().parents[1]
_DATASET = flags.DEFINE_string("dataset", None, "name of the log in results/ and in published.json", required=True)
_INPUT = flags.DEFINE_string("input", None, "log, as --input of make_tfrecords.py", required=True)
_CONFIG = flags.DEFINE_string("config", "auto", "settings of BERT4Rec: a JSON file, the name of a recipe, or `auto`")
_SET = flags.DEFINE_multi_string("set", [], "section.field=value; replaces a setting of --config; repeatable")
_WORK = flags.DEFINE_string("work_dir", None, "directory for records, models and predictions", required=True)
_RECTOOLS = flags.DEFINE_string(
    "rectools_python", None, "Python of an environment with rectools and pyarrow; default: leave its systems out"
)
_LIMIT = flags.DEFINE_float("system_minutes", 60.0, "time limit of each system besides BERT4Rec")
_SEED = flags.DEFINE_integer("seed", 1, "seed of every system that draws")
_RESULTS = flags.DEFINE_string("results_dir", str(ROOT / "results"), "directory to write the results in")
_TOP_K = 100  # items of a list: a rank beyond it counts as a miss


@dataclasses.dataclass(frozen=True)
class System:
    """A system to compare with.

    Attributes:
        name: in the table and, if the paper has it, in published.json.
        library: what it is from.
        script: of `experiments/systems/`.
        environment: "own", or the flag that names its Python.
        options: of the script.
    """

    name: str
    library: str
    script: str
    environment: str
    options: dict[str, Any]


SYSTEMS = (
    System("first-order Markov chain", "ours", "markov_chain", "own", {}),
    System("ItemKNN", "implicit: cosine, 100 neighbours", "rectools_items", "rectools", {"system": "itemknn"}),
    System("EASE", "RecTools: regularization 500", "rectools_items", "rectools", {"system": "ease"}),
    System("BPR-MF", "implicit: 64 factors, 200 iterations", "rectools_items", "rectools", {"system": "bpr"}),
)


@command
def main() -> None:
    """Runs everything that is not there yet, and prints the table."""
    work = pathlib.Path(_WORK.value)
    work.mkdir(parents=True, exist_ok=True)
    data, split, model = work / "data", work / "split", work / "model"
    settings = [f"--config={_CONFIG.value}", *(f"--set={assignment}" for assignment in _SET.value)]
    _run("pipelines/make_tfrecords.py", f"--input={_INPUT.value}", f"--output_dir={data}", *settings,
         *([] if split.is_dir() else [f"--split_dir={split}"]))  # fmt: skip
    started = time.monotonic()
    _run("train.py", f"--data_dir={data}", f"--model_dir={model}", *settings, f"--set=training.seed={_SEED.value}")
    rows = [_evaluated("BERT4Rec", "ours", [f"--model_dir={model}"], data, work, time.monotonic() - started)]
    rows[0]["seconds"] = json.loads((model / "history.jsonl").read_text().splitlines()[-1])["elapsed_seconds"]
    rows.append(_evaluated("POP", "ours", ["--baseline=popularity"], data, work, 0.0))
    rows += [_compared(system, data, split, work) for system in SYSTEMS]
    best = work / "BERT4Rec.json"
    for row in rows[1:]:
        if "full" in row:
            of_row = compare_runs([work / f"{row['name']}.json", best])["full"]["ndcg@10"]
            row["bert4rec_minus_this"] = {name: of_row[name] for name in ("difference", "ci95", "p")}
    published = json.loads((ROOT / "results" / "published.json").read_text())
    for row in rows:
        found = [each for each in published if (each["dataset"], each["name"]) == (_DATASET.value, row["name"])]
        row["published"] = found[0] if found else None
    result = {
        "dataset": _DATASET.value,
        "config": _CONFIG.value,
        "set": _SET.value,
        "seed": _SEED.value,
        "top_k": _TOP_K,
        "date": time.strftime("%Y-%m-%d"),
        "hardware": hardware(),
        "systems": rows,
    }
    path = pathlib.Path(_RESULTS.value) / f"table2-{_DATASET.value}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        full = row.get("full")
        figures = f"HR@10 {full['hr@10']:.4f}, NDCG@10 {full['ndcg@10']:.4f}" if full else row["error"]
        print(f"{row['name']:<26} {figures}, {row['seconds']:.0f} s")
    print(f"wrote {path}")


def _compared(system: System, data: pathlib.Path, split: pathlib.Path, work: pathlib.Path) -> dict[str, Any]:
    """The row of a system: its metrics, or why there are none."""
    output, seconds_file = work / f"{system.name}.parquet", work / f"{system.name}.seconds"
    python = {"own": sys.executable, "rectools": _RECTOOLS.value}[system.environment]
    row = {"name": system.name, "library": system.library, "seconds": 0.0}
    if python is None:
        return row | {"error": f"not run: no --{system.environment}_python"}
    if not output.is_file():
        settings = {"split_dir": str(split), "output": str(output), "split": "test", "top_k": _TOP_K}
        settings |= {"seed": _SEED.value} | system.options
        script = ROOT / "experiments" / "systems" / f"{system.script}.py"
        started = time.monotonic()
        try:
            done = subprocess.run(
                [python, str(script), json.dumps(settings)],
                capture_output=True,
                text=True,
                timeout=60 * _LIMIT.value,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return row | {"error": f"not finished in {_LIMIT.value:g} minutes"}
        if done.returncode:
            return row | {"error": f"failed: {(done.stderr.strip().splitlines() or ['without a message'])[-1]:.200}"}
        seconds_file.write_text(f"{time.monotonic() - started:.1f}")
    seconds = float(seconds_file.read_text())
    return _evaluated(system.name, system.library, [f"--scores={output}"], data, work, seconds)


def _evaluated(
    name: str, library: str, system: list[str], data: pathlib.Path, work: pathlib.Path, seconds: float
) -> dict[str, Any]:
    metrics_file = work / f"{name}.json"
    if not metrics_file.is_file():
        _run("evaluate.py", *system, f"--data_dir={data}", f"--output={metrics_file}")
    metrics = json.loads(metrics_file.read_text())
    full = {metric: metrics["full"][metric] for metric in ("hr@10", "ndcg@10")}
    sampled = {metric: metrics["sampled"][metric] for metric in ("hr@10", "ndcg@10")}
    return {"name": name, "library": library, "seconds": round(seconds, 1), "full": full, "sampled": sampled}


def _run(script: str, *arguments: str) -> None:
    done = subprocess.run([sys.executable, str(ROOT / script), *arguments], check=False)
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    app.run(main)
