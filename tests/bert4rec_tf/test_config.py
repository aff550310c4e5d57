"""Configuration: accepted and refused values, and the messages that name them."""

import json
import pathlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert4rec_tf.config import Config, read_settings
from tests.support.command_line import ROOT
from tfrecords.config import MaskingConfig
from tfrecords.errors import InputError

CONFIGS = sorted((ROOT / "configs").glob("*.json"))


def optional(**fields: st.SearchStrategy) -> st.SearchStrategy:
    return st.fixed_dictionaries({}, optional=fields)


FINITE = st.floats(allow_nan=False, allow_infinity=False)
SETTINGS = optional(
    data=optional(
        max_seq_length=st.integers(2, 10**6),
        min_rating=st.none() | FINITE,
        train_since=st.none() | FINITE,
        validation_share=st.floats(0, 1, exclude_min=True),
        tie_order=st.sampled_from(["hash", "item_id", "input"]),
        seed=st.integers(0, 2**63 - 1),
    ),
    masking=optional(
        masking_rates=st.floats(0, 1) | st.lists(st.floats(0, 1), min_size=1, max_size=4),
        max_predictions=st.none() | st.integers(1),
    ),
    model=optional(
        hidden_size=st.integers(1).map(lambda half: 2 * half),
        layer_norm=st.sampled_from(["pre", "post"]),
        attention=st.sampled_from(["bidirectional", "prefix", "causal"]),
    ),
    training=optional(learning_rate=st.floats(1e-9, 1), jit_compile=st.booleans(), steps_per_epoch=st.none()),
)


@given(SETTINGS)
@settings(max_examples=50)
def test_configuration_survives_json(given_settings: dict[str, dict[str, Any]]) -> None:
    config = Config.from_dict(given_settings)
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    for section, fields in given_settings.items():
        for name, value in fields.items():
            expected = [value] if name == "masking_rates" and isinstance(value, float) else value
            assert config.to_dict()[section][name] == expected


def test_left_out_fields_take_their_defaults() -> None:
    assert Config.from_dict({"data": {}}) == Config()
    assert Config.from_dict({"masking": {"masking_rates": 0.3}}).masking == MaskingConfig(masking_rates=(0.3,))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ([], "section"),
        (None, "section"),
        ({"dta": {}}, "dta"),
        ({"model": 3}, "model"),
        ({"model": {"layers": 2}}, "layers"),
        ({"model": {"num_layers": "2"}}, "model.num_layers"),
        ({"model": {"num_layers": 2.5}}, "model.num_layers"),
        ({"model": {"num_layers": float("inf")}}, "model.num_layers"),
        ({"model": {"layer_norm": "middle"}}, "model.layer_norm"),
        ({"model": {"layer_norm": ["pre"]}}, "model.layer_norm"),
        ({"model": {"attention": "left_to_right"}}, "model.attention"),
        ({"model": {"block": "gated"}}, "transformer unless layer_norm is pre"),
        ({"model": {"neighbours": -0.1}}, "neighbours"),
        ({"training": {"causal_rows": 1.5}}, "causal_rows"),
        ({"training": {"prefix_share": 0}}, "prefix_share"),
        ({"training": {"num_passes": 0}}, "num_passes"),
        ({"model": {"hidden_size": 65}}, "hidden_size"),
        ({"model": {"num_heads": 0}}, "num_heads"),
        ({"model": {"dropout": 1}}, "dropout"),
        ({"training": {"jit_compile": 1}}, "training.jit_compile"),
        ({"training": {"num_steps": True}}, "training.num_steps"),
        ({"training": {"num_steps": 0}}, "num_steps"),
        ({"training": {"learning_rate": float("nan")}}, "learning_rate"),
        ({"training": {"seed": 2**31}}, "seed"),
        ({"model": {"relative_distances": -1}}, "relative_distances"),
        ({"training": {"last_item_share": 1.5}}, "last_item_share"),
    ],
)
def test_invalid_values_are_refused_by_name(values: Any, named: str) -> None:
    with pytest.raises(InputError) as error:
        Config.from_dict(values, "here.json")
    assert named in str(error.value)
    assert "here.json" in str(error.value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_the_published_configurations_load(path: pathlib.Path) -> None:
    Config.from_dict(read_settings(str(path)), str(path))


def test_there_are_published_configurations() -> None:
    assert {"ml-1m.json", "demo.json"} <= {path.name for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_recipes_are_named_after_their_model(path: pathlib.Path) -> None:
    config = Config.from_dict(read_settings(str(path)), str(path))
    expected = "left to right" if path.stem.endswith("-causal") else "BERT4Rec"
    assert config.model.model_name.startswith(expected)
    if path.stem.endswith("-cloze"):
        assert config.model.model_name == "BERT4Rec, Cloze"
