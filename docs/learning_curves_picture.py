r"""Draws the learning curves of all recipes in results/, one panel for each log.

python docs/learning_curves_picture.py docs/images/learning-curves.svg

Needs requirements-docs.txt.
"""

import json
import pathlib
import sys
from typing import Any

import matplotlib as mpl

mpl.use("svg")  # no display is needed
from matplotlib import pyplot as plt

_LEFT_OUT = ("data.validation_share", "model.neighbours")
ROOT = pathlib.Path(__file__).resolve().parents[1]
_COLOURS = {"causal": "#777777", "cloze": "#c77d1e", "bert4rec": "#2a6fb0"}  # by the first of them in a recipe's name


def learning_curves() -> dict[str, dict[str, list[list[dict[str, Any]]]]]:
    """Dataset -> recipe -> the validations of each seed; runs with other settings than a recipe's are left out."""
    found: dict[str, dict[str, list[list[dict[str, Any]]]]] = {}
    for path in sorted((ROOT / "results").glob("*-seed*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))["run"]
        lines = path.with_name(f"{path.stem}-history.jsonl").read_text(encoding="utf-8").splitlines()
        if not any(setting.startswith(_LEFT_OUT) for setting in run.get("set", [])):
            recipe = pathlib.Path(run["config"]).stem
            recipe += ", causal" if "model.attention=causal" in run.get("set", []) else ""
            found.setdefault(run["dataset"], {}).setdefault(recipe, []).append([json.loads(line) for line in lines])
    return found


def draw(path: pathlib.Path) -> None:
    """Writes the figure: a thin line for each seed, NDCG@10 over all items of the validation users."""
    mpl.rcParams |= {"svg.hashsalt": "learning curves", "font.size": 9, "axes.spines.top": False}
    mpl.rcParams["axes.spines.right"] = False
    logs = learning_curves()
    figure, panels = plt.subplots(1, len(logs), figsize=(4.2 * len(logs), 3.2), squeeze=False)
    for (log, recipes), panel in zip(logs.items(), panels[0], strict=True):
        for recipe, runs in recipes.items():
            for index, run in enumerate(runs):
                steps = [entry["step"] for entry in run]
                values = [entry["validation"]["full"]["ndcg@10"] for entry in run]
                colour = next(colour for kind, colour in _COLOURS.items() if kind in recipe)
                panel.plot(steps, values, color=colour, linewidth=1.2, label=None if index else recipe)
        panel.set(title=log, xlabel="steps", ylim=(0, None), xlim=(0, None))
        panel.legend(frameon=False, loc="lower right")
    panels[0][0].set_ylabel("NDCG@10, all items, validation")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Draws the figure into the file that the argument names."""
    if len(sys.argv) != 2:
        sys.exit(f"error: the only argument must be the SVG file to write. Received: {sys.argv[1:]}")
    draw(pathlib.Path(sys.argv[1]))


if __name__ == "__main__":
    main()
