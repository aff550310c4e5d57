"""Makes tables of the files in results/: of runs for README.md, of ablations for benchmarks/README.md.

python experiments/results_table.py          prints the tables
python experiments/results_table.py --write  writes them into the pages
"""

import itertools
import json
import pathlib
import statistics
from typing import Any

from absl import app, flags

ROOT = pathlib.Path(__file__).resolve().parents[1]
_WRITE = flags.DEFINE_bool("write", False, "whether to write the tables into the pages, between their markers")
_HELD_OUT = {True: "held out", False: "trained on", None: ""}  # for most users, at least; None: unknown
_METRICS = (("full", "hr@10"), ("full", "ndcg@10"), ("sampled", "hr@10"), ("sampled", "ndcg@10"))


def main(_: list[str]) -> None:
    """Prints or writes the tables of every dataset that has runs or ablations."""
    for path, tables in pages().items():
        text = path.read_text(encoding="utf-8")
        for name, rows in tables.items():
            print(rows)
            text = with_table(text, name, rows)
        if _WRITE.value:
            path.write_text(text, encoding="utf-8")


def pages() -> dict[pathlib.Path, dict[str, str]]:
    """The pages with tables: page -> name of the markers -> rows."""
    ours: dict[str, list[dict[str, Any]]] = {}
    for run in runs():
        ours.setdefault(run["run"]["dataset"], []).append(run)
    ablated = [json.loads(path.read_text()) for path in sorted((ROOT / "results").glob("ablations-*.json"))]
    return {
        ROOT / "README.md": {f"results: {dataset}": table(dataset, ours[dataset]) for dataset in sorted(ours)},
        ROOT / "benchmarks" / "README.md": {f"ablations: {run['dataset']}": ablations(run) for run in ablated},
    }


def runs() -> list[dict[str, Any]]:
    """The runs of `reproduce.py`, by configuration and seed."""
    found = [json.loads(path.read_text()) for path in (ROOT / "results").glob("*-seed*.json")]
    return sorted((run for run in found if "run" in run), key=lambda run: (_name(run), run["run"]["seed"]))


def table(dataset: str, ours: list[dict[str, Any]]) -> str:
    """Our configurations, each over its seeds, above the published results; `ours` is in the order of `runs`."""
    lines = [
        "| | validation item | all items: HR@10 | NDCG@10 | 100 negatives: HR@10 | NDCG@10 | training |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, group in itertools.groupby(ours, _name):
        same = list(group)
        minutes = statistics.mean(run["run"]["seconds"]["training"] for run in same) / 60
        seeds = f"{len(same)} seeds" if len(same) > 1 else f"seed {same[0]['run']['seed']}"
        cells = " | ".join(_measured(same, *metric) for metric in _METRICS)
        counts = same[0]["data"]["counts"]
        held_out = _HELD_OUT[counts["validated_users"] == counts["evaluated_users"]]
        lines.append(f"| **{name}** ({seeds}) | {held_out} | {cells} | {minutes:.0f} min |")
    for published in json.loads((ROOT / "results" / "published.json").read_text()):
        if published["dataset"] == dataset:
            cells = " | ".join(_number(published.get(protocol, {}).get(name)) for protocol, name in _METRICS)
            held_out = _HELD_OUT[published.get("validation_held_out")]
            lines.append(f"| {published['name']} ({published['source']}) | {held_out} | {cells} | |")
    return "\n".join(lines)


def _name(run: dict[str, Any]) -> str:
    """The name of a configuration: its file, and the settings that replace some of its values."""
    return ", ".join([f"`configs/{run['run']['config']}`", *(f"`{setting}`" for setting in run["run"].get("set", []))])


def ablations(run: dict[str, Any]) -> str:
    """Each ablation beside the paper's: NDCG@10 over the negatives, and its relative change."""
    published = json.loads((ROOT / "results" / "published_ablations.json").read_text()).get(run["dataset"], {})
    unchanged = run["ablations"]["as configured"]["sampled"]["ndcg@10"]
    lines = [
        "| | paper: NDCG@10 | change | here: NDCG@10 | change | all items | minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in run["ablations"].items():
        here, paper = row["sampled"]["ndcg@10"], published.get(name)
        cells = [_number(paper), _change(paper, published.get("as configured"))]
        cells += [_number(here), _change(here, unchanged), _number(row["full"]["ndcg@10"])]
        lines.append(f"| {name} | {' | '.join(cells)} | {row['seconds'] / 60:.1f} |")
    return "\n".join(lines)


def with_table(text: str, name: str, rows: str) -> str:
    """The text with these rows between the markers of this name."""
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


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}".removeprefix("0")


if __name__ == "__main__":
    app.run(main)
