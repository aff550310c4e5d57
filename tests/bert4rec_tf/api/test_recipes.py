"""A configuration in every form."""

import pathlib

import pytest

import bert4rec_tf
from bert4rec_tf.api import recipes
from tfrecords.errors import InputError


def test_a_configuration_in_every_form(tmp_path: pathlib.Path) -> None:
    (tmp_path / "mine.json").write_text('{"model": {"num_layers": 3}}')
    config = bert4rec_tf.Config.from_dict({"model": {"num_layers": 3}})
    for given in (config, {"model": {"num_layers": 3}}, str(tmp_path / "mine.json"), tmp_path / "mine.json"):
        assert bert4rec_tf.Config.from_dict(recipes.settings_of(given)) == config
    assert recipes.settings_of(None) == {}
    for name in bert4rec_tf.recipe_names():
        bert4rec_tf.Config.from_dict(recipes.settings_of(name))
    with pytest.raises(InputError, match=r"one of the recipes .*bert4rec-dense"):
        recipes.settings_of("bert4rec-dens")
    with pytest.raises(InputError, match="num_layer"):
        recipes.settings_of({"model": {"num_layer": 3}})
    with pytest.raises(InputError, match="must be a JSON object"):
        recipes.settings_of({"model": 3})  # type: ignore[dict-item]
    with pytest.raises(InputError, match="`num_layers` must be at least 1"):
        bert4rec_tf.Config.from_dict(recipes.settings_of({"model": {"num_layers": 0}}))


def test_a_file_comes_before_a_recipe_of_its_name(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beauty").mkdir()  # a directory is no configuration, so the name means the recipe
    assert recipes.settings_of("beauty")["data"]["max_seq_length"] == 50
    (tmp_path / "demo").write_text('{"model": {"num_layers": 3}}')
    assert recipes.settings_of("demo") == {"model": {"num_layers": 3}}
