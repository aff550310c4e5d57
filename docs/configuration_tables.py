"""Makes the tables of docs/configuration.md from the settings' dataclasses, from configs/ and from results/.

python docs/configuration_tables.py          prints the tables
python docs/configuration_tables.py --write  writes them into the page, between their markers
"""

import ast
import dataclasses
import inspect
import json
import pathlib
import re
import statistics
import sys
import types
import typing
from typing import Any
from unittest import mock

from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from bert4rec_tf import config as all_settings
from bert4rec_tf.command_line import command
from bert4rec_tf.config import Config
from tfrecords import config as settings_of_records

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "configuration.md"
_WRITE = flags.DEFINE_bool("write", False, "whether to write the tables into the page, between their markers")
# For which log each recipe is; everything else in the table comes from the file itself and from results/.
_RECIPE_LOGS = {
    "beauty": ("paper", "many items with few events each (Amazon Beauty)"),
    "beauty-bert4rec": ("ours", "many items with few events each; the best BERT4Rec that was found"),
    "beauty-causal": ("ours", "the same, left to right, for comparison"),
    "bert4rec-dense": ("ours", "any log with long histories over few items (films, music, news)"),
    "bert4rec-sparse": ("ours", "any log with short histories over many items (a shop)"),
    "demo": ("ours", "the synthetic log of `make demo`"),
    "ml-1m": ("paper", "long histories (MovieLens-1M)"),
    "ml-1m-bert4rec": ("ours", "long histories; the best BERT4Rec that was found"),
    "ml-1m-causal": ("ours", "the same, left to right, for comparison"),
    "ml-1m-cloze": ("ours", "long histories; the best with the paper's objective"),
    "ml-20m": ("paper", "a long log with long histories (MovieLens-20M)"),
    "steam": ("paper", "short histories over a medium catalogue (Steam)"),
}


@command
def main() -> None:
    """Prints the tables, and writes them with --write."""
    text = PAGE.read_text(encoding="utf-8")
    for name, rows in tables().items():
        print(f"{name}\n{rows}\n")
        text = with_table(text, name, rows)
    if _WRITE.value:
        PAGE.write_text(text, encoding="utf-8")


def tables() -> dict[str, str]:
    """The tables of the page: name of the markers -> rows."""
    sections: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(Config)}
    return {f"settings: {name}": settings(section) for name, section in sections.items()} | {
        "recipes": recipes(),
        "recipe results": recipe_results(),
    }


def settings(section: type) -> str:
    """One row a field: type, default, allowed values, whether it may change, meaning."""
    fields = dataclasses.fields(section)
    described, rules = meanings(section), value_rules(section)
    may_change = {"may change on resume": lambda field: field.metadata.get("resumable", False)}
    if any("shapes_weights" in field.metadata for field in fields):
        may_change["in a warm start"] = lambda field: not field.metadata.get("shapes_weights", False)
    heads = ["field", "type", "default", "allowed values", *may_change, "meaning"]
    lines = [_row(heads), _row(["---"] * len(heads))]
    for field in fields:
        allowed = [_choices(field.type), *rules.get(field.name, [])]
        cells = [f"`{field.name}`", _type_text(field.type), f"`{json.dumps(field.default)}`"]
        cells += ["; ".join(filter(None, allowed)) or "any"]
        cells += ["yes" if allows(field) else "no" for allows in may_change.values()]
        lines.append(_row([*cells, described[field.name]]))
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def meanings(section: type) -> dict[str, str]:
    """The meaning of each field: the string below it in the source.

    Raises:
        ValueError: a field has none.
    """
    (declared,) = ast.parse(inspect.getsource(section)).body
    assert isinstance(declared, ast.ClassDef)
    found = {}
    for field, below in zip(declared.body, declared.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = re.sub(r"\s+", " ", str(below.value.value)).strip()
    missing = [field.name for field in dataclasses.fields(section) if field.name not in found]
    if missing:
        raise ValueError(f"Each setting must have its meaning below it. Received: {missing[0]} of {section.__name__}")
    return found


def value_rules(section: type) -> dict[str, list[str]]:
    """What `check_field` requires of each field: the rules of a section with default values."""
    rules: dict[str, list[str]] = {}

    def record(_section: Any, field: str, _holds: bool, rule: str) -> None:
        # A rule may name the value of another field, which here is its default.
        rules.setdefault(field, []).append(re.sub(r"\b(num_heads)=\d+", r"`\1`", rule))

    with (
        mock.patch.object(settings_of_records, "check_field", record),
        mock.patch.object(all_settings, "check_field", record),
    ):
        section()
    return rules


def _type_text(declared: Any) -> str:
    if isinstance(declared, types.UnionType):
        return " or ".join(map(_type_text, typing.get_args(declared)))
    if typing.get_origin(declared) is typing.Literal:
        return "string"
    if typing.get_origin(declared) is tuple:
        return "number or list of numbers"
    return {int: "integer", float: "number", bool: "true or false", type(None): "null"}[declared]


def _choices(declared: Any) -> str:
    if typing.get_origin(declared) is not typing.Literal:
        return ""
    return ", ".join(f"`{option}`" for option in typing.get_args(declared))


def recipes() -> str:
    """One row a file of configs/: for which log it is, and its main settings."""
    lines = [
        "| file | from | for which log | model | N | d | layers | heads | loss | batch | steps |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for path in sorted((ROOT / "configs").glob("*.json")):
        if path.stem not in _RECIPE_LOGS:
            raise ValueError(f"Each recipe must have its log in _RECIPE_LOGS. Received: {path.name}, without one")
        origin, log = _RECIPE_LOGS[path.stem]
        config = Config.from_dict(json.loads(path.read_text(encoding="utf-8")), str(path))
        training = config.training
        loss = training.loss if training.loss == "softmax" else f"{training.loss}, {training.sampled_items:,}"
        length = f"{training.num_steps:,}" if training.num_passes is None else f"{training.num_passes} passes"
        cells = [f"`{path.name}`", origin, log, _model(config)]
        cells += [f"{config.data.max_seq_length}", f"{config.model.hidden_size}", f"{config.model.num_layers}"]
        cells += [f"{config.model.num_heads}", loss, f"{training.batch_size}", length]
        lines.append(_row(cells))
    return "\n".join(lines)


def _model(config: Config) -> str:
    last_stage = config.training.last_item_share and not config.model.predicts_next_items
    return config.model.model_name + (", then the last item" if last_stage else "")


def recipe_results() -> str:
    """One row a recipe that results/ has runs of: the log's size, the mean over seeds of the test metrics, the time."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((ROOT / "results").glob("*-seed*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        if not result["run"].get("set"):
            runs.setdefault(result["run"]["config"], []).append(result)
    lines = [
        "| file | log | users | items | events | seeds | HR@10, all items | NDCG@10, all items | training |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in sorted(runs.items()):
        counts = found[0]["data"]["counts"]
        hits, ndcg = (statistics.mean(run["full"][metric] for run in found) for metric in ("hr@10", "ndcg@10"))
        minutes = statistics.mean(run["run"]["seconds"]["training"] for run in found) / 60
        cells = [f"`{name}`", found[0]["run"]["dataset"]]
        cells += [f"{counts[key]:,}" for key in ("users", "items", "events")]
        cells += [str(len(found)), f"{hits:.3f}", f"{ndcg:.3f}", f"{minutes:.0f} min"]
        lines.append(_row(cells))
    return "\n".join(lines)


def with_table(text: str, name: str, rows: str) -> str:
    """The text with these rows between the markers of this name.

    Raises:
        SystemExit: the text has no such markers.
    """
    begin, end = f"<!-- {name} -->", "<!-- end -->"
    before, found, after = text.partition(begin)
    _, closed, after = after.partition(end)
    if not (found and closed):
        raise SystemExit(
            f"error: {PAGE.name} must have {begin} and a later {end}. Received: a page without one of them"
        )
    return f"{before}{begin}\n{rows}\n{end}{after}"


if __name__ == "__main__":
    app.run(main)
