"""Makes the tables of results/: runs for docs/results.md and README.md, ablations for docs/experiments.md.

python experiments/results_table.py          prints the tables
python experiments/results_table.py --write  also writes them into the pages, between their markers
"""

import collections
import itertools
import json
import pathlib
import statistics
import sys
from typing import Any

from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from bert4rec_tf.command_line import command
from bert4rec_tf.config import ModelConfig

ROOT = pathlib.Path(__file__).resolve().parents[1]
_IN_README = ("ml-1m", "beauty")
_IN_PAPER = ("ml-1m", "beauty")  # the logs of the paper, which ranks among negatives
_NOT_IN_README = (
    "`configs/beauty-causal.json`",
    "`configs/beauty-causal.json`, `model.neighbours=0.3`",
    "`configs/ml-1m-causal.json`, `model.neighbours=0.3`",
    "`configs/ml-1m-cloze.json`, `data.sliding_window=0`, `model.neighbours=0`, `training.last_item_share=0.6`",
)
_WRITE = flags.DEFINE_bool("write", False, "whether to write the tables into the pages, between their markers")
_HELD_OUT = {True: "held out", False: "trained on", None: ""}  # for most users; None: the source does not tell
_METRICS = (("full", "hr@10"), ("full", "ndcg@10"), ("sampled", "hr@10"), ("sampled", "ndcg@10"))


@command
def main() -> None:
    """Prints the tables of every dataset that has runs or ablations, and writes them with --write."""
    for path, tables in pages().items():
        text = path.read_text(encoding="utf-8")
        for name, rows in tables.items():
            print(f"{path.relative_to(ROOT)}, {name}\n{rows}\n")
            text = with_table(text, name, rows)
        if _WRITE.value:
            path.write_text(text, encoding="utf-8")


def pages() -> dict[pathlib.Path, dict[str, str]]:
    """The pages with tables: page -> name of the markers -> rows."""
    ours: dict[str, list[dict[str, Any]]] = {}
    for run in runs():
        ours.setdefault(run["run"]["dataset"], []).append(run)
    published = json.loads((ROOT / "results" / "published.json").read_text())
    ablated = [json.loads(path.read_text()) for path in sorted((ROOT / "results").glob("ablations-*.json"))]
    compared = [json.loads(path.read_text()) for path in sorted((ROOT / "results").glob("table2-*.json"))]
    averaged: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((ROOT / "results").glob("average-*.json")):  # average-DATASET-NUMBER.json
        averaged.setdefault(path.stem.removeprefix("average-").rpartition("-")[0], []).append(
            json.loads(path.read_text())
        )
    full, short = {}, {}
    for dataset in sorted(ours):
        rivals = [result for result in published if result["dataset"] == dataset]
        full[f"results: {dataset}"] = table(ours[dataset], rivals)
        if dataset in _IN_README:
            shown = [run for run in ours[dataset] if _name(run) not in _NOT_IN_README]
            short[f"results: {dataset}, short"] = table(shown, [row for row in rivals if row.get("short")])
    return {
        ROOT / "README.md": short,
        ROOT / "docs" / "results.md": full
        | {f"table2: {run['dataset']}": other_systems(run) for run in compared}
        | {f"averages: {dataset}": averages(metrics) for dataset, metrics in averaged.items()},
        ROOT / "docs" / "experiments.md": {f"ablations: {run['dataset']}": ablations(run) for run in ablated},
    }


def runs() -> list[dict[str, Any]]:
    """The runs of `reproduce.py`, ordered by configuration and seed."""
    found = [json.loads(path.read_text()) for path in (ROOT / "results").glob("*-seed*.json")]
    return sorted((run for run in found if "run" in run), key=lambda run: (_name(run), run["run"]["seed"]))


def table(ours: list[dict[str, Any]], published: list[dict[str, Any]]) -> str:
    """Our configurations, each averaged over its seeds, above the published results; `ours` is ordered as by `runs`."""
    lines = [
        "| model | validation item | HR@10, all items | NDCG@10, all items | HR@10, 100 negatives "
        "| NDCG@10, 100 negatives | training |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, group in itertools.groupby(ours, _name):
        same = list(group)
        minutes = statistics.mean(run["run"]["seconds"]["training"] for run in same) / 60
        seeds = f"{len(same)} seeds" if len(same) > 1 else f"seed {same[0]['run']['seed']}"
        cells = " | ".join(_measured(same, *metric) for metric in _METRICS)
        held_out = _held_out(same[0])
        model = ModelConfig(**same[0]["model"]["config"]["model"]).model_name
        lines.append(f"| **{model}** ({name}, {seeds}) | {held_out} | {cells} | {minutes:.0f} min |")
    for result in published:
        cells = " | ".join(_number(result.get(protocol, {}).get(name)) for protocol, name in _METRICS)
        held_out = _HELD_OUT[result.get("validation_held_out")]
        lines.append(f"| {result['name']} ({result['source']}) | {held_out} | {cells} | |")
    return "\n".join(lines)


def _held_out(metrics: dict[str, Any]) -> str:
    """Whether most users' validation items were left out of the training."""
    counts = metrics["data"]["counts"]
    return _HELD_OUT[counts["validated_users"] == counts["evaluated_users"]]


def _name(run: dict[str, Any]) -> str:
    """The name of a configuration: its file, and the settings that `--set` replaced."""
    return ", ".join([f"`configs/{run['run']['config']}`", *(f"`{setting}`" for setting in run["run"].get("set", []))])


def ablations(run: dict[str, Any]) -> str:
    """Each ablation beside the paper's: NDCG@10 over the 100 negatives, and its change from the full model."""
    published = json.loads((ROOT / "results" / "published_ablations.json").read_text()).get(run["dataset"], {})
    unchanged = run["ablations"]["as configured"]["sampled"]["ndcg@10"]
    lines = [
        "| ablation | paper: NDCG@10, 100 negatives | change | here: NDCG@10, 100 negatives | change "
        "| here: NDCG@10, all items | minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in run["ablations"].items():
        here, paper = row["sampled"]["ndcg@10"], published.get(name)
        cells = [_number(paper), _change(paper, published.get("as configured"))]
        cells += [_number(here), _change(here, unchanged), _number(row["full"]["ndcg@10"])]
        lines.append(f"| {name} | {' | '.join(cells)} | {row['seconds'] / 60:.1f} |")
    return "\n".join(lines)


def other_systems(run: dict[str, Any]) -> str:
    """The systems of a file of `table2.py` beside the published figures, with BERT4Rec's lead over each."""
    of_paper = "sampled" if run["dataset"] in _IN_PAPER else "full"
    candidates = {"full": "all items", "sampled": "100 negatives"}
    lines = [
        f"| system | from | published: NDCG@10, {candidates[of_paper]} | NDCG@10, all items | HR@10, all items "
        "| NDCG@10, 100 negatives | BERT4Rec minus this, NDCG@10, all items | 100 negatives | minutes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in run["systems"]:
        published = _number((row["published"] or {}).get(of_paper, {}).get("ndcg@10"))
        if "error" in row:
            lines.append(f"| {row['name']} | {row['library']} | {published} | {row['error']} | | | | | |")
            continue
        cells = [_with_interval(row["full"], "ndcg@10"), _with_interval(row["full"], "hr@10")]
        cells.append(_with_interval(row["sampled"], "ndcg@10"))
        cells += [_lead(row.get("bert4rec_minus_this", {}).get(protocol)) for protocol in candidates]
        reports = row.get("training") or ([{"seconds": row["seconds"]}] if "seconds" in row else [])
        minutes = f"{statistics.mean(report['seconds'] for report in reports) / 60:.1f}" if reports else ""
        if any(report.get("time_limit_reached") for report in reports):
            minutes += ", the limit"
        lines.append(f"| {row['name']} | {row['library']} | {' | '.join([published, *cells, minutes])} |")
    return "\n".join(lines)


def averages(metrics: list[dict[str, Any]]) -> str:
    """The averages of several models (`evaluate.py` with several --model_dir), those of equal kinds in one row."""
    lines = [
        "| average of | averages | validation item | HR@10, all items | NDCG@10, all items | HR@10, 100 negatives "
        "| NDCG@10, 100 negatives |",
        "|---|---|---|---|---|---|---|",
    ]
    for (members, held_out), group in itertools.groupby(sorted(metrics, key=_kind), _kind):
        same = list(group)
        cells = " | ".join(_measured(same, *metric) for metric in _METRICS)
        named = ", ".join(f"{number} {name}" for name, number in members)
        lines.append(f"| {named} | {len(same)} | {held_out} | {cells} |")
    return "\n".join(lines)


def _kind(metrics: dict[str, Any]) -> tuple[list[tuple[str, int]], str]:
    """How many models of each name an average has, and what was done with the validation items."""
    names = collections.Counter(member["model_name"] for member in metrics["model"]["members"])
    return sorted(names.items()), _held_out(metrics)


def _lead(lead: dict[str, Any] | None) -> str:
    if lead is None:
        return ""
    low, high = lead["ci95"]
    return f"{lead['difference']:+.4f} [{low:+.4f}, {high:+.4f}], p = {lead['p']:.4f}"


def _with_interval(metrics: dict[str, Any], name: str) -> str:
    """The mean over the seeds, with the lowest and the highest, or with the 95% interval of one seed."""
    if metrics[name] is None:
        return ""
    values = metrics["each_seed"][name]
    low, high = (min(values), max(values)) if len(values) > 1 else metrics["ci95"][name]
    return f"{_number(metrics[name], 4)} [{_number(low, 4)}, {_number(high, 4)}]"


def with_table(text: str, name: str, rows: str) -> str:
    """The text of a page, with these rows between the markers of this name."""
    begin, end = f"<!-- {name} -->", "<!-- end -->"
    before, found, after = text.partition(begin)
    _, closed, after = after.partition(end)
    if not (found and closed):
        raise SystemExit(f"error: the page must hold {begin} and, after it, {end}. Received: at most one of them")
    return f"{before}{begin}\n{rows}\n{end}{after}"


def _measured(same: list[dict[str, Any]], protocol: str, name: str) -> str:
    """One seed's value with its 95% interval over users, or the mean of several seeds with their lowest and highest."""
    values = [run[protocol][name] for run in same]
    if None in values:  # no user has enough negatives
        return ""
    low, high = (min(values), max(values)) if len(same) > 1 else same[0][protocol]["ci95"][name]
    return f"{_number(statistics.mean(values))} [{_number(low)}, {_number(high)}]"


def _change(value: float | None, unchanged: float | None) -> str:
    return "" if value is None or not unchanged else f"{value / unchanged - 1:+.0%}"


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}".removeprefix("0")


if __name__ == "__main__":
    app.run(main)
