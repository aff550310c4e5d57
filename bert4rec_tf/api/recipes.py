"""Reads a configuration in any form: a `Config`, a dict of sections, a JSON file, or the name of a recipe."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any, TypeAlias

from bert4rec_tf.config import Config, read_settings
from tfrecords.config import RecordsConfig
from tfrecords.errors import InputError
from tfrecords.settings import typed_sections

ConfigLike: TypeAlias = RecordsConfig | Mapping[str, Mapping[str, Any]] | str | os.PathLike[str] | None

_RECIPES = pathlib.Path(__file__).resolve().parents[1] / "recipes"  # a link to configs/ in a checkout


def recipe_names() -> list[str]:
    """The names of the recipes that come with the package, which are the files of `configs/` without `.json`.

    >>> "bert4rec-dense" in recipe_names()
    True
    """
    return sorted(path.stem for path in _RECIPES.glob("*.json"))


def settings_of(config: ConfigLike) -> dict[str, dict[str, Any]]:
    """Sections and fields as plain dicts; what is left out takes its default.

    Args:
        config: a `Config`, a dict of sections, the path of a JSON file, the name of a recipe, or None for the defaults.

    Raises:
        InputError: an unknown name, section or field, a wrong type, or an unreadable file.

    >>> settings_of({"model": {"num_layers": 1}})
    {'model': {'num_layers': 1}}
    >>> settings_of("bert4rec-dense")["data"]["max_seq_length"]
    200
    """
    if config is None:
        return {}
    if isinstance(config, RecordsConfig):
        return config.to_dict()
    if isinstance(config, Mapping):
        typed_sections(Config, config, "config")
        return {section: dict(fields) for section, fields in config.items()}
    return read_settings(config_file(config))


def config_file(config: str | os.PathLike[str] | None) -> str | None:
    """The path of a JSON file: `config` itself, or the file of the recipe that it names; None for None.

    A file that exists comes before a recipe of the same name.

    Raises:
        InputError: neither a file nor the name of a recipe.

    >>> pathlib.Path(config_file("bert4rec-dense")).name
    'bert4rec-dense.json'
    """
    if config is None:
        return None
    path = pathlib.Path(config)
    if path.suffix == ".json" or path.is_file():
        return os.fspath(config)
    if str(path) in recipe_names():
        return str(_RECIPES / f"{path}.json")
    if path.exists():  # a pipe
        return os.fspath(config)
    raise InputError(
        f"`config` must be a JSON file, or one of the recipes {', '.join(recipe_names())}. Received: {str(config)!r}"
    )
