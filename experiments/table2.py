"""Compares BERT4Rec with the other systems of the paper's Table 2 on one log; writes results/table2-LOG.json.

python experiments/table2.py --dataset=beauty-5core --input=beauty-5core.csv --config=bert4rec-sparse \
    --set=data.tie_order=input --work_dir=/tmp/table2 --rectools_python=/tmp/rectools/bin/python \
    --recbole_python=/tmp/recbole/bin/python

Every system is trained on the same split, and evaluated on the same users by evaluate.py. What is there already is
kept, so the same command goes on after an interruption.
"""

import dataclasses
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time
from typing import Any

from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from bert4rec_tf.api.evaluation_records import EvaluationRecords
from bert4rec_tf.api.predictions import Predictions
from bert4rec_tf.command_line import command
from bert4rec_tf.evaluation.comparison import compare_runs
from bert4rec_tf.evaluation.evaluate import evaluate
from bert4rec_tf.evaluation.list_ranker import ListRanker
from bert4rec_tf.evaluation.results import hardware, metrics_json, write_metrics

ROOT = pathlib.Path(__file__).resolve().parents[1]
_DATASET = flags.DEFINE_string("dataset", None, "name of the log in results/ and in published.json", required=True)
_INPUT = flags.DEFINE_string("input", None, "log, as --input of make_tfrecords.py", required=True)
_CONFIG = flags.DEFINE_string("config", "auto", "settings of BERT4Rec: a JSON file, the name of a recipe, or `auto`")
_SET = flags.DEFINE_multi_string("set", [], "section.field=value; replaces a setting of --config; repeatable")
_WORK = flags.DEFINE_string("work_dir", None, "directory for records, models and predictions", required=True)
_BERT4REC = flags.DEFINE_multi_string(
    "bert4rec",
    [],
    "metrics of a BERT4Rec on the same records, written by evaluate.py --output or reproduce.py, instead of training "
    "one; repeatable, one for each seed; the first one is compared user by user if its users' file is beside it",
)
_RECTOOLS = flags.DEFINE_string(
    "rectools_python",
    None,
    "Python of an environment of experiments/systems/requirements-rectools.txt; default: not run",
)
_RECBOLE = flags.DEFINE_string(
    "recbole_python", None, "Python of an environment of experiments/systems/requirements-recbole.txt; default: not run"
)
_LEFT_OUT = flags.DEFINE_multi_string("leave_out", [], "NAME=REASON: a system that is not run, and why; repeatable")
_LIMIT = flags.DEFINE_float(
    "system_minutes", 60.0, "limit for the training of each system besides BERT4Rec, in minutes of 2 cores' time"
)
_SEEDS = flags.DEFINE_integer("seeds", 3, "number of seeds of the systems that train fast; others have the first seed")
_SEED = flags.DEFINE_integer("seed", 1, "the first seed of every system that draws")
_RESULTS = flags.DEFINE_string("results_dir", str(ROOT / "results"), "directory to write the results in")
_TOP_K = 100  # items of a list: a rank beyond it counts as a miss
_METRICS = ("hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr")
# The scripts keep to the limit, in processor time. The time limit of the process is for a busy machine, and for reading
# the log and writing the rankings.
_TIMEOUT_FACTOR, _TIMEOUT_MINUTES = 5.0, 30.0
_PROTOCOLS = ("full", "sampled")


@dataclasses.dataclass(frozen=True)
class System:
    """A system to compare with.

    Attributes:
        name: in the table and, if the paper has it, in published.json.
        library: what it is from, with its settings.
        script: of `experiments/systems/`, or "train", train.py; None: it cannot be run.
        environment: "own", or the flag that names its Python.
        options: of the script, or of train.py.
        seeds: "none": it draws nothing; "all": it trains fast; "first".
        options_of: what replaces options for a log.
        reason: why it cannot be run.
    """

    name: str
    library: str
    script: str | None = None
    environment: str = "own"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    seeds: str = "first"
    options_of: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    reason: str = ""


def _recbole(name: str, settings: str, seeds: str, **options: Any) -> System:
    model = options["model"]
    return System(name, f"RecBole 1.2.1, {model}: {settings}", "recbole_models", "recbole", options, seeds)


# RecBole's defaults, unless a row gives other settings: Adam with a rate of .001, batches of 2,048.
SYSTEMS = (
    System("first-order Markov chain", "ours", "markov_chain", seeds="none"),
    System(
        "ItemKNN",
        "implicit 0.7.3 by RecTools 0.19.0: cosine, 100 neighbours",
        "rectools_models",
        "rectools",
        {"system": "itemknn", "options": {"K": 100}},
        "none",
    ),
    System(
        "EASE",
        "RecTools 0.19.0: regularization 500",
        "rectools_models",
        "rectools",
        {"system": "ease", "options": {"regularization": 500.0}},
        "none",
    ),
    _recbole("BPR-MF", "64 factors", "all", model="BPR", embedding_size=64),
    _recbole("NCF", "64 factors, layers of 128 and 64, dropout .1", "first", model="NeuMF"),
    _recbole("FPMC", "64 factors", "first", model="FPMC", embedding_size=64),
    _recbole(
        "GRU4Rec",
        "cross-entropy, 1 layer of 128, dropout .3, the last 20 items",
        "first",
        model="GRU4Rec",
        loss_type="CE",
        MAX_ITEM_LIST_LENGTH=20,
    ),
    System(
        "GRU4Rec+",
        "its authors' code",
        reason="not run: its code is in no package registry, and its licence allows research and education only",
    ),
    _recbole(
        "Caser",
        "cross-entropy, 8 horizontal and 4 vertical filters, dropout .4, the last 5 items as in its paper",
        "first",
        model="Caser",
        loss_type="CE",
        MAX_ITEM_LIST_LENGTH=5,
    ),
    System(
        "SASRec",
        "ours, left to right: sizes, dropout and Adam as in its paper, cross-entropy over all items",
        "train",
        options={
            "model.attention": "causal", "model.hidden_size": 50, "model.num_layers": 2, "model.num_heads": 1,
            "model.feed_forward_size": 50, "model.dropout": 0.5, "model.attention_dropout": 0.5,
            "model.layer_norm": "pre", "model.head_projection": "false", "training.loss": "softmax",
            "training.batch_size": 128, "training.learning_rate": 0.001, "training.beta_2": 0.98,
            "training.weight_decay": 0.0, "training.schedule": "constant", "training.num_steps": 1_000_000,
            "training.num_length_buckets": 4, "training.validation_users": 2048, "training.early_stopping_epochs": 10,
        },
        options_of={"ml-1m": {"model.dropout": 0.2, "model.attention_dropout": 0.2}},
    ),
)  # fmt: skip


@command
def main() -> None:
    """Runs everything that is not there yet, and prints the table."""
    work = pathlib.Path(_WORK.value)
    work.mkdir(parents=True, exist_ok=True)
    data, split = work / "data", work / "split"
    settings = [f"--config={_CONFIG.value}", *(f"--set={assignment}" for assignment in _SET.value)]
    _run("pipelines/make_tfrecords.py", f"--input={_INPUT.value}", f"--output_dir={data}", *settings,
         *([] if split.is_dir() else [f"--split_dir={split}"]))  # fmt: skip
    best = [pathlib.Path(path) for path in _BERT4REC.value] or [_trained(settings, _SEED.value, data, work, "BERT4Rec")]
    pop = work / "POP.json"
    if not pop.is_file():
        _run("evaluate.py", "--baseline=popularity", f"--data_dir={data}", f"--output={pop}")
    rows = [
        {"name": "BERT4Rec", "library": "ours", "seconds": statistics.mean(map(_training_seconds, best))}
        | _summary(best),
        {"name": "POP", "library": "ours"} | _summary([pop]) | _lead(best[0], pop),
    ]
    rows += [_row(system, data, split, work, best[0]) for system in SYSTEMS]
    published = json.loads((ROOT / "results" / "published.json").read_text())
    for row in rows:
        found = [each for each in published if (each["dataset"], each["name"]) == (_DATASET.value, row["name"])]
        row["published"] = found[0] if found else None
    result = {
        "dataset": _DATASET.value,
        "config": _CONFIG.value,
        "set": _SET.value,
        "system_minutes": _LIMIT.value,
        "top_k": _TOP_K,
        "date": time.strftime("%Y-%m-%d"),
        "hardware": hardware(),
        "systems": rows,
    }
    path = pathlib.Path(_RESULTS.value) / f"table2-{_DATASET.value}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        print(f"{row['name']:<26} {_figures(row)}")
    print(f"wrote {path}")


def _trained(settings: list[str], seed: int, data: pathlib.Path, work: pathlib.Path, name: str) -> pathlib.Path:
    """The metrics of a model that is trained here."""
    model, metrics = work / f"{name}-model", work / f"{name}.json"
    _run("train.py", f"--data_dir={data}", f"--model_dir={model}", *settings, f"--set=training.seed={seed}")
    if not metrics.is_file():
        _run("evaluate.py", f"--model_dir={model}", f"--data_dir={data}", f"--output={metrics}")
    return metrics


def _training_seconds(metrics: pathlib.Path) -> float:
    return json.loads(metrics.read_text())["model"]["training"]["elapsed_seconds"]


def _options_here(system: System) -> dict[str, Any]:
    """The options of a system on this log."""
    return system.options | system.options_of.get(_DATASET.value, {})


def _training_flags(system: System) -> list[str]:
    """The flags of train.py for a system that it trains. One that is at its limit goes on no further."""
    settings = [f"--set={name}={value}" for name, value in _options_here(system).items()]
    return [f"--time_limit_minutes={_LIMIT.value}", *settings]


def _row(system: System, data: pathlib.Path, split: pathlib.Path, work: pathlib.Path, best: pathlib.Path) -> dict:
    """The row of a system: its metrics, or why there are none."""
    row: dict[str, Any] = {"name": system.name, "library": system.library}
    left_out = dict(entry.partition("=")[::2] for entry in _LEFT_OUT.value)
    python = {"own": sys.executable, "rectools": _RECTOOLS.value, "recbole": _RECBOLE.value}[system.environment]
    if system.script is None:
        return row | {"error": system.reason}
    if system.name in left_out:
        return row | {"error": f"not run: {left_out[system.name]}"}
    if python is None:
        return row | {"error": f"not run: no --{system.environment}_python"}
    number = _SEEDS.value if system.seeds == "all" else 1
    seeds = list(range(_SEED.value, _SEED.value + number))
    evaluated, reports = [], []
    for seed in seeds:
        name = f"{system.name}-seed{seed}"
        if system.script == "train":
            metrics = _trained(_training_flags(system), seed, data, work, name)
            evaluated.append(metrics)
            reports.append({"seconds": _training_seconds(metrics)})
            continue
        error = _rank(system, python, split, work, name, seed)
        if error:
            return row | {"error": error}
        reports.append(json.loads((work / f"{name}.report.json").read_text()))
        evaluated.append(_evaluate(name, data, work))
    if system.seeds != "none":
        row["seeds"] = seeds
    return row | {"training": reports} | _summary(evaluated) | _lead(best, evaluated[0])


def _rank(system: System, python: str, split: pathlib.Path, work: pathlib.Path, name: str, seed: int) -> str | None:
    """Trains a system and writes its rankings, unless they are there; gives the reason where it fails."""
    report = work / f"{name}.report.json"
    if report.is_file():  # written last
        return None
    options = _options_here(system)
    if system.environment == "recbole":
        options = {"options": options}
    settings: dict[str, Any] = {
        "split_dir": str(split.resolve()),
        "output": str(work.resolve() / f"{name}.parquet"),
        "candidates_output": str(work.resolve() / f"{name}-negatives.parquet"),
        "report": str(work.resolve() / f"{name}.running.json"),
        "split": "test",
        "top_k": _TOP_K,
        "minutes": _LIMIT.value,
        "seed": seed,
    }
    script = ROOT / "experiments" / "systems" / f"{system.script}.py"
    load = os.getloadavg()[0]
    timeout = 60 * (_TIMEOUT_FACTOR * _LIMIT.value + _TIMEOUT_MINUTES)
    try:
        done = subprocess.run(
            [python, str(script), json.dumps(settings | options)],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            cwd=work,
            # Threads that wait for one another must sleep: spinning, they use up the limit where other work runs.
            env=os.environ | {"OMP_WAIT_POLICY": "passive"},
        )
    except subprocess.TimeoutExpired:
        return f"not finished in {timeout / 60:.0f} minutes"
    (work / f"{name}.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode < 0:  # the kernel kills what takes too much memory, without a message
        return f"failed: ended by {signal.Signals(-done.returncode).name}"
    if done.returncode:
        return f"failed: {(done.stderr.strip().splitlines() or ['without a message'])[-1]:.200}"
    written = json.loads(pathlib.Path(settings["report"]).read_text())
    written["load_average"] = [round(load, 1), round(os.getloadavg()[0], 1)]  # before and after, of the machine
    report.write_text(json.dumps(written) + "\n", encoding="utf-8")
    return None


def _evaluate(name: str, data: pathlib.Path, work: pathlib.Path) -> pathlib.Path:
    """Writes the metrics of a system: all items are ranked by its best ones, the negatives by its candidates.

    It does what evaluate.py --scores does for one file; here, because TensorFlow takes longer to start than to rank.
    """
    output = work / f"{name}.json"
    if output.is_file():
        return output
    records = EvaluationRecords.open(data, "run the same command again")
    found, description = {}, {}
    for protocol, suffix in zip(_PROTOCOLS, ("", "-negatives"), strict=True):
        lists = Predictions.read(str(work / f"{name}{suffix}.parquet"))
        ranker = ListRanker(lists.lists_of, records.vocabulary, True, lists.origin)
        with records.verified.unchanged():
            found[protocol] = evaluate(ranker, records.data_dir, records.manifest, "test", max_items=1)
        description[protocol] = lists.description
    ranks = dataclasses.replace(found["full"], sampled=found["sampled"].sampled)
    metrics = metrics_json(ranks, description, records.manifest, records.vocabulary, "test")
    write_metrics(output, metrics, ranks, records.vocabulary)
    return output


def _summary(evaluated: list[pathlib.Path]) -> dict[str, Any]:
    """The metrics of both protocols, averaged over the seeds, with the first seed's intervals and each seed's value."""
    summary: dict[str, Any] = {}
    for protocol in _PROTOCOLS:
        found = [json.loads(path.read_text())[protocol] for path in evaluated]
        if any(metrics[name] is None for metrics in found for name in _METRICS):
            summary[protocol] = dict.fromkeys(_METRICS)
            continue
        means = {name: statistics.mean(metrics[name] for metrics in found) for name in _METRICS}
        intervals = {name: found[0]["ci95"][name] for name in _METRICS}
        each = {name: [metrics[name] for metrics in found] for name in _METRICS}
        summary[protocol] = means | {"ci95": intervals, "each_seed": each}
    return summary


def _lead(best: pathlib.Path, other: pathlib.Path) -> dict[str, Any]:
    """BERT4Rec minus a system in NDCG@10, by the paired bootstrap, for the protocols that both have."""
    if not best.with_suffix(".users.parquet").is_file():
        return {}
    found = compare_runs([other, best])
    leads = {protocol: found[protocol].get("ndcg@10") for protocol in _PROTOCOLS}
    names = ("difference", "ci95", "p")
    return {
        "bert4rec_minus_this": {
            protocol: {name: lead[name] for name in names} for protocol, lead in leads.items() if lead
        }
    }


def _figures(row: dict[str, Any]) -> str:
    if "error" in row:
        return row["error"]
    found = [row[protocol]["ndcg@10"] for protocol in _PROTOCOLS]
    full, sampled = ("-" if value is None else f"{value:.4f}" for value in found)
    return f"NDCG@10 {full} over all items, {sampled} over the negatives"


def _run(script: str, *arguments: str) -> None:
    done = subprocess.run([sys.executable, str(ROOT / script), *arguments], check=False)
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    app.run(main)
