"""Writes the README's tables of results from the files under results/.

python benchmarks/results_table.py          shows them
python benchmarks/results_table.py --write  puts them into README.md
"""

import json
import pathlib
import statistics
from typing import Any

from absl import app, flags

ROOT = pathlib.Path(__file__).resolve().parents[1]
_WRITE = flags.DEFINE_bool("write", False, "into README.md, between its markers")
_METRICS = (("full", "hr@10"), ("full", "ndcg@10"), ("sampled", "hr@10"), ("sampled", "ndcg@10"))


def main(_: list[str]) -> None:
    """Every dataset of which there is a run."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    for dataset in sorted({run["run"]["dataset"] for run in runs()}):
        print(table(dataset))
        text = with_table(text, dataset)
    if _WRITE.value:
        readme.write_text(text, encoding="utf-8")


def runs() -> list[dict[str, Any]]:
    """The runs that `reproduce.py` left, by configuration and seed."""
    found = [json.loads(path.read_text()) for path in (ROOT / "results").glob("*-seed*.json")]
    return sorted((run for run in found if "run" in run), key=lambda run: (run["run"]["config"], run["run"]["seed"]))


def table(dataset: str) -> str:
    """Our configurations, each over its seeds, above what was published."""
    lines = [
        "| | all items: HR@10 | NDCG@10 | 100 negatives: HR@10 | NDCG@10 | training |",
        "|---|---|---|---|---|---|",
    ]
    ours = [run for run in runs() if run["run"]["dataset"] == dataset]
    for config in sorted({run["run"]["config"] for run in ours}):
        same = [run for run in ours if run["run"]["config"] == config]
        minutes = statistics.mean(run["run"]["seconds"]["training"] for run in same) / 60
        seeds = f"{len(same)} seeds" if len(same) > 1 else f"seed {same[0]['run']['seed']}"
        cells = " | ".join(_measured(same, *metric) for metric in _METRICS)
        lines.append(f"| **`configs/{config}`** ({seeds}) | {cells} | {minutes:.0f} min |")
    for published in json.loads((ROOT / "results" / "published.json").read_text()):
        if published["dataset"] == dataset:
            cells = " | ".join(_number(published.get(protocol, {}).get(name)) for protocol, name in _METRICS)
            lines.append(f"| {published['name']} ({published['source']}) | {cells} | |")
    return "\n".join(lines)


def with_table(text: str, dataset: str) -> str:
    """The README with this dataset's table between its markers."""
    begin, end = f"<!-- results: {dataset} -->", "<!-- end -->"
    before, found, after = text.partition(begin)
    _, closed, after = after.partition(end)
    if not (found and closed):
        raise SystemExit(f"error: README.md must hold {begin} and, behind it, {end}. Received: neither or one")
    return f"{before}{begin}\n{table(dataset)}\n{end}{after}"


def _measured(same: list[dict[str, Any]], protocol: str, name: str) -> str:
    """Of one seed with its 95% interval over users, of several their mean with the lowest and the highest."""
    values = [run[protocol][name] for run in same]
    low, high = (min(values), max(values)) if len(same) > 1 else same[0][protocol]["ci95"][name]
    return f"{_number(statistics.mean(values))} [{_number(low)}, {_number(high)}]"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}".removeprefix("0")


if __name__ == "__main__":
    app.run(main)
