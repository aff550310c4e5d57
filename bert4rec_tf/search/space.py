"""Which settings are searched, and in which range."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any, Protocol

from bert4rec_tf.config import Config, ModelConfig, TrainingConfig
from tfrecords.errors import InputError

# Ranges around the recipes.
DEFAULT_SPACE: dict[str, dict[str, Any]] = {
    "model.dropout": {"low": 0.1, "high": 0.6, "step": 0.05},
    "model.hidden_size": {"choices": [64, 128, 256]},
    "model.num_layers": {"choices": [1, 2, 3]},
    "model.neighbours": {"choices": [0.0, 0.3, 0.6]},
    "training.learning_rate": {"low": 0.0005, "high": 0.005, "log": True},
    "training.num_passes": {"low": 4, "high": 40, "log": True},
}
_SECTIONS = {"model": ModelConfig, "training": TrainingConfig}
_KEYS = {"low", "high", "step", "log"}


class Trial(Protocol):
    """What this module needs of `optuna.Trial`."""

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        """One of the choices."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """An integer."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number."""


@dataclasses.dataclass(frozen=True)
class Space:
    """Ranges of settings by name, as in `DEFAULT_SPACE`.

    >>> Space({"model.dropout": {"low": 0.1, "high": 0.5}}).ranges["model.dropout"]["high"]
    0.5
    >>> Space({"model.dropuot": {"low": 0.1, "high": 0.5}})
    Traceback (most recent call last):
    tfrecords.errors.InputError: A searched setting must be a field of model or training. Received: 'model.dropuot'. ...
    """

    ranges: Mapping[str, Mapping[str, Any]]

    def __post_init__(self) -> None:
        if not self.ranges:
            raise InputError("A space must have a setting. Received: none. Fix: name one, such as model.dropout")
        for name, given in self.ranges.items():
            section, _, field = name.partition(".")
            fields = {each.name for each in dataclasses.fields(_SECTIONS[section])} if section in _SECTIONS else set()
            if field not in fields:
                raise InputError(
                    f"A searched setting must be a field of model or training. Received: {name!r}. "
                    "Fix: see docs/configuration.md for the names"
                )
            _check_range(name, given)

    @classmethod
    def read(cls, path: str | None) -> "Space":
        """The space of a JSON file; None: `DEFAULT_SPACE`.

        Raises:
            InputError: no such file, or one that is no space.
        """
        if path is None:
            return cls(DEFAULT_SPACE)
        try:
            content = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"--space must be a JSON file. Received: {path} ({error})") from None
        if not isinstance(content, dict):
            raise InputError(f"--space must be a JSON object. Received: {path}, with {content!r:.100}")
        return cls(content)

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """A value of each setting."""
        return {name: _suggest(trial, name, given) for name, given in self.ranges.items()}

    def values_in(self, settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The searched settings of a configuration that lie in their ranges.

        >>> space = Space({"model.num_layers": {"choices": [2, 3]}, "model.dropout": {"low": 0.3, "high": 0.5}})
        >>> space.values_in({"model": {"num_layers": 3, "dropout": 0.1}})
        {'model.num_layers': 3}
        """
        config = dataclasses.asdict(Config.from_dict(settings, "the settings that all trials share"))
        values = {name: config[name.partition(".")[0]][name.partition(".")[2]] for name in self.ranges}
        return {name: value for name, value in values.items() if _holds(self.ranges[name], value)}


def with_values(settings: Mapping[str, Mapping[str, Any]], values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings by section, with some of them replaced; checked as a configuration is.

    >>> with_values({"model": {"num_layers": 2}}, {"model.dropout": 0.3})
    {'model': {'num_layers': 2, 'dropout': 0.3}}

    Raises:
        InputError: values that do not fit together.
    """
    merged = {section: dict(fields) for section, fields in settings.items()}
    for name, value in values.items():
        section, _, field = name.partition(".")
        # Steps of .05 add up to 0.15000000000000002.
        merged.setdefault(section, {})[field] = float(f"{value:.12g}") if isinstance(value, float) else value
    Config.from_dict(merged, "the trial")
    return merged


def shown(value: Any) -> str:
    """A value of a setting in few digits.

    >>> shown(0.00123456), shown(64)
    ('0.001235', '64')
    """
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def shown_values(values: Mapping[str, Any]) -> str:
    """Values by setting, as text.

    >>> shown_values({"model.dropout": 0.3, "model.num_layers": 2})
    'model.dropout=0.3, model.num_layers=2'
    """
    return ", ".join(f"{name}={shown(value)}" for name, value in values.items())


def _check_range(name: str, given: Mapping[str, Any]) -> None:
    if isinstance(given, Mapping) and set(given) == {"choices"} and isinstance(given["choices"], list):
        if given["choices"]:
            return
    elif isinstance(given, Mapping) and {"low", "high"} <= set(given) <= _KEYS:
        numbers = [given["low"], given["high"], given.get("step", 1)]
        is_number = all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers)
        if (
            is_number
            and given["low"] < given["high"]
            and not (given.get("log") and (given["low"] <= 0 or "step" in given))
        ):
            return
    raise InputError(
        'A range must be {"choices": […]} or {"low": a, "high": b}, where "step" or "log": true may follow, and a log '
        f"range is above 0. Received: {name}: {json.dumps(given)}"
    )


def _holds(given: Mapping[str, Any], value: Any) -> bool:
    """Whether a range has a value."""
    if "choices" in given:
        return value in given["choices"]
    if value is None or not given["low"] <= value <= given["high"]:
        return False
    if "step" not in given and isinstance(given["low"] + given["high"], float):
        return True
    steps = (value - given["low"]) / given.get("step", 1)
    return abs(steps - round(steps)) < 1e-6


def _suggest(trial: Trial, name: str, given: Mapping[str, Any]) -> Any:
    if "choices" in given:
        return trial.suggest_categorical(name, list(given["choices"]))
    low, high, log = given["low"], given["high"], bool(given.get("log"))
    if all(isinstance(number, int) for number in (low, high, given.get("step", 1))):
        return trial.suggest_int(name, low, high, step=given.get("step", 1), log=log)
    return trial.suggest_float(name, low, high, step=given.get("step"), log=log)
