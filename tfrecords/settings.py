"""Reads settings from JSON files and `--set`, and checks them against the dataclasses that declare them."""

import dataclasses
import json
import pathlib
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

from tfrecords.errors import InputError, check_local

S = TypeVar("S", bound="Sections")
MODEL_NAME = "model_name"  # beside the sections of a config.json: what the settings make; it sets nothing


@dataclasses.dataclass(frozen=True)
class Sections:
    """A configuration: each field is a section, a frozen dataclass of settings."""

    @classmethod
    def from_dict(cls: type[S], values: Any, origin: str = "config") -> S:
        """Builds a configuration from nested dicts; omitted fields take their defaults.

        Raises:
            InputError: an unknown section or field, a wrong type or an invalid value; `origin` names the source.

        >>> bert4rec_tf.Config.from_dict({"model": {"num_layers": 1}}).model.num_layers
        1
        >>> bert4rec_tf.Config.from_dict({"model": {"num_layer": 1}})
        Traceback (most recent call last):
        tfrecords.errors.InputError: Unknown field 'num_layer' (config, model). Known: attention, ...
        """
        typed = typed_sections(cls, values, origin)
        sections: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(cls)}
        try:
            return cls(**{name: section(**typed.get(name, {})) for name, section in sections.items()})
        except InputError as error:
            raise InputError(f"{error} ({origin})") from None

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """The configuration as nested dicts of JSON values; `from_dict` gives it back.

        >>> settings = bert4rec_tf.Config().to_dict()
        >>> sorted(settings)
        ['data', 'evaluation', 'masking', 'model', 'training']
        >>> bert4rec_tf.Config.from_dict(settings) == bert4rec_tf.Config()
        True
        """
        return json.loads(json.dumps(dataclasses.asdict(self)))


def read_settings(declared: type, path: str | None, assignments: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Reads only the settings that the user set: a JSON file, overridden by `section.field=value` assignments.

    Names and types are checked here. Values are checked by `Sections.from_dict`, because some depend on each other.

    Args:
        declared: the configuration, a subclass of `Sections`.
        path: a JSON file of sections and fields, or None.
        assignments: the values of `--set`; the right side is JSON or, failing that, a string.

    Raises:
        InputError: an unreadable file, invalid JSON, or an assignment that is not `section.field=value`.
    """
    settings: dict[str, dict[str, Any]] = {}
    if path is not None:
        check_local("config", path)
        try:
            settings = without_model_name(json.loads(pathlib.Path(path).read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--config must be a readable file. Received: {path!r} ({error})") from None
        except json.JSONDecodeError as error:
            raise InputError(f"--config must be JSON. Received: {path}, line {error.lineno}: {error.msg}") from None
        typed_sections(declared, settings, path)
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        section, dot, field = name.strip().partition(".")
        if not (equals and dot):
            raise InputError(
                f"--set takes section.field=value. Received: {assignment!r}, "
                "fix: write for example --set=model.num_layers=2"
            )
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        settings.setdefault(section, {})[field] = value
        typed_sections(declared, {section: {field: value}}, f"--set={assignment}")
    return settings


def without_model_name(values: Any) -> Any:
    """The sections of a JSON configuration. What is no JSON object is returned as it is, for `typed_sections`."""
    return {name: value for name, value in values.items() if name != MODEL_NAME} if isinstance(values, dict) else values


def check_settings_match(settings: dict[str, dict[str, Any]], config: Sections, made_by: str, fix: str) -> None:
    """Compares the settings that the user set now with an earlier configuration.

    Args:
        settings: from `read_settings`.
        config: the earlier configuration; only sections and fields named in `settings` are compared.
        made_by: the owner of the earlier configuration, for the message.
        fix: for the message.

    Raises:
        InputError: names the first field that differs and both values.
    """
    received, fixed = json.loads(json.dumps(typed_sections(type(config), settings, "settings"))), config.to_dict()
    for section, fields in settings.items():
        for field in fields:
            if received[section][field] != fixed[section][field]:
                raise InputError(
                    f"`{section}.{field}` must match {made_by}. Received: config={received[section][field]!r}, "
                    f"{made_by}={fixed[section][field]!r}. {fix} or set {section}.{field}={fixed[section][field]!r}."
                )


def check_field(section: Any, field: str, holds: bool, rule: str) -> None:
    """Checks one value of a section.

    Raises:
        InputError: `holds` is false; names the field, the rule and the value.
    """
    if not holds:
        raise InputError(f"`{field}` must be {rule}. Received: {getattr(section, field)!r}")


def _check_names(values: Any, known: typing.Collection[str], origin: str, kind: str) -> None:
    if not isinstance(values, dict):
        raise InputError(f"A configuration {kind} must be a JSON object. Received: {values!r} ({origin})")
    for name in values:
        if name not in known:
            raise InputError(f"Unknown {kind} {name!r} ({origin}). Known: {', '.join(sorted(known))}")


def typed_sections(declared: type, values: Any, origin: str) -> dict[str, dict[str, Any]]:
    """Checks the names and types of settings, and converts the values to their declared types.

    Raises:
        InputError: see `Sections.from_dict`.
    """
    sections: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(declared)}
    _check_names(values, sections, origin, "section")
    typed = {}
    for name, given in values.items():
        fields = {field.name: field.type for field in dataclasses.fields(sections[name])}
        _check_names(given, fields, f"{origin}, {name}", "field")
        try:
            typed[name] = {key: _typed(name, key, fields[key], value) for key, value in given.items()}
        except InputError as error:
            raise InputError(f"{error} ({origin})") from None
    return typed


def _typed(section: str, field: str, declared: Any, value: Any) -> Any:
    """Checks a JSON value against a field's declared type: ints pass as floats, one number as a list of one."""
    union = isinstance(declared, types.UnionType)
    options = typing.get_args(declared) if union else (declared,)
    if value is None and type(None) in options:
        return None
    for option in options:
        if typing.get_origin(option) is Literal and value in typing.get_args(option):
            return value
        if option is bool and isinstance(value, bool):
            return value
        if isinstance(value, bool):
            continue
        if option is float and isinstance(value, int | float):
            return float(value)
        if option is int and (isinstance(value, int) or (isinstance(value, float) and value.is_integer())):
            return int(value)
        if typing.get_origin(option) is tuple:
            numbers = value if isinstance(value, list | tuple) else [value]
            if all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers):
                return tuple(float(number) for number in numbers)
    raise InputError(f"`{section}.{field}` must be {_words(declared)}. Received: {value!r}")


def _words(declared: Any) -> str:
    if isinstance(declared, types.UnionType):
        return " or ".join(_words(option) for option in typing.get_args(declared))
    if typing.get_origin(declared) is Literal:
        return "one of " + ", ".join(repr(option) for option in typing.get_args(declared))
    if typing.get_origin(declared) is tuple:
        return "a number or a list of numbers"
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(declared, "null")
