"""Which settings a search tries."""

import json
import pathlib
from typing import Any

import pytest

from bert4rec_tf.search.space import DEFAULT_SPACE, Space, with_values
from tfrecords.errors import InputError


class Middle:
    """A trial that takes the middle of each range, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: dict[str, tuple[Any, ...]] = {}

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        self.asked[name] = ("categorical", choices)
        return choices[len(choices) // 2]

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        self.asked[name] = ("int", low, high, step, log)
        return (low + high) // 2

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        self.asked[name] = ("float", low, high, step, log)
        return (low + high) / 2


def test_each_range_is_asked_for_by_its_kind() -> None:
    trial = Middle()
    values = Space(DEFAULT_SPACE).suggest(trial)
    assert trial.asked["model.dropout"] == ("float", 0.1, 0.6, 0.05, False)
    assert trial.asked["model.hidden_size"] == ("categorical", [64, 128, 256])
    assert trial.asked["training.num_passes"] == ("int", 4, 40, 1, True)
    assert trial.asked["training.learning_rate"] == ("float", 0.0005, 0.005, None, True)
    assert values["model.hidden_size"] == 128
    settings = with_values({"training": {"batch_size": 7}}, values)
    assert settings["training"]["batch_size"] == 7
    assert settings["model"]["dropout"] == 0.35


@pytest.mark.parametrize(
    ("given", "value", "holds"),
    [
        ({"choices": [64, 128]}, 128, True),
        ({"choices": [64, 128]}, 256, False),
        ({"low": 0.1, "high": 0.6, "step": 0.05}, 0.55, True),
        ({"low": 0.1, "high": 0.6, "step": 0.05}, 0.53, False),
        ({"low": 0.1, "high": 0.6, "step": 0.05}, 0.05, False),
        ({"low": 0.1, "high": 0.6}, 0.53, True),
    ],
)
def test_the_values_of_a_configuration_are_kept_where_a_range_has_them(
    given: dict[str, Any], value: float, holds: bool
) -> None:
    name = "model.hidden_size" if "choices" in given else "model.dropout"
    section, field = name.split(".")
    expected = {name: value} if holds else {}
    assert Space({name: given}).values_in({section: {field: value}}) == expected


def test_a_setting_that_a_configuration_leaves_open_is_drawn() -> None:
    space = Space({"training.num_passes": {"low": 4, "high": 40}, "training.batch_size": {"low": 1, "high": 256}})
    assert space.values_in({"training": {"num_steps": 5, "batch_size": 64}}) == {"training.batch_size": 64}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "A space must have a setting"),
        ({"data.max_seq_length": {"choices": [5]}}, "must be a field of model or training"),
        ({"model.droput": {"choices": [5]}}, "Received: 'model.droput'"),
        ({"model.dropout": {"choices": []}}, "A range must be"),
        ({"model.dropout": {"low": 0.5}}, "A range must be"),
        ({"model.dropout": {"low": 0.5, "high": 0.5}}, "A range must be"),
        ({"model.dropout": {"low": 0, "high": 0.5, "log": True}}, "a log range is above 0"),
        ({"model.dropout": {"low": "a", "high": "b"}}, "A range must be"),
        ({"model.dropout": 0.3}, "A range must be"),
        ([], "--space must be a JSON object"),
    ],
)  # fmt: skip
def test_what_is_no_space_is_refused(tmp_path: pathlib.Path, content: Any, message: str) -> None:
    (tmp_path / "space.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        Space.read(str(tmp_path / "space.json"))


def test_a_file_that_is_absent_or_no_json_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "space.json").write_text("{")
    for path in (tmp_path / "space.json", tmp_path / "absent.json"):
        with pytest.raises(InputError, match=f"--space must be a JSON file. Received: {path}"):
            Space.read(str(path))


def test_values_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(InputError, match="hidden_size"):
        with_values({"model": {"num_heads": 4}}, {"model.hidden_size": 30})
