"""A configuration however it is given: a `Config`, a dict of sections, a JSON file, or the name of a recipe."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any, TypeAlias

from bert4rec_tf.config import Config, read_settings
from tfrecords.config import RecordsConfig
from tfrecords.errors import InputError

ConfigLike: TypeAlias = RecordsConfig | Mapping[str, Mapping[str, Any]] | str | os.PathLike[str] | None

_RECIPES = pathlib.Path(__file__).resolve().parents[1] / "recipes"  # a link to configs/ in a checkout


def recipe_names() -> list[str]:
    """The names of the recipes that come with the package, which are the files of `configs/` without `.json`.

    >>> "ml-1m-fast" in recipe_names()
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
    >>> settings_of("ml-1m-fast")["data"]["max_seq_length"]
    200
    """
    if config is None:
        return {}
    if isinstance(config, RecordsConfig):
        return config.to_dict()
    if isinstance(config, Mapping):
        settings = {section: dict(fields) for section, fields in config.items()}
        Config.from_dict(settings)
        return settings
    path = pathlib.Path(config)
    if path.suffix != ".json" and not path.exists():
        if str(path) not in recipe_names():
            raise InputError(
                f"`config` must be a JSON file, or one of the recipes {', '.join(recipe_names())}. "
                f"Received: {str(config)!r}"
            )
        path = _RECIPES / f"{path}.json"
    return read_settings(str(path))
