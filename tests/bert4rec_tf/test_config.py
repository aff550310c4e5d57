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
from tfrecords.settings import check_settings_match

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
        attention=st.sampled_from(["bidirectional", "causal"]),
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
        ({"model": {"hidden_size": 65}}, "hidden_size"),
        ({"model": {"num_heads": 0}}, "num_heads"),
        ({"model": {"dropout": 1}}, "dropout"),
        ({"training": {"jit_compile": 1}}, "training.jit_compile"),
        ({"training": {"num_steps": True}}, "training.num_steps"),
        ({"training": {"num_steps": 0}}, "num_steps"),
        ({"training": {"learning_rate": float("nan")}}, "learning_rate"),
        ({"training": {"seed": 2**31}}, "seed"),
        ({"data": {"seed": None}}, "data.seed"),
        ({"data": {"seed": 2**63}}, "seed"),
        ({"data": {"max_seq_length": 1}}, "max_seq_length"),
        ({"data": {"sliding_window": -0.1}}, "sliding_window"),
        ({"data": {"min_rating": float("nan")}}, "min_rating"),
        ({"data": {"min_rating": float("inf")}}, "min_rating"),
        ({"data": {"validation_share": 0}}, "validation_share"),
        ({"data": {"validation_share": 1.1}}, "validation_share"),
        ({"data": {"train_since": float("nan")}}, "train_since"),
        ({"data": {"train_since": float("-inf")}}, "train_since"),
        ({"data": {"train_since": "2003-01-01"}}, "data.train_since"),
        ({"masking": {"masking_rates": []}}, "masking_rates"),
        ({"masking": {"masking_rates": 1.5}}, "masking_rates"),
        ({"masking": {"masking_rates": [0.1, "x"]}}, "masking.masking_rates"),
        ({"masking": {"max_predictions": 0}}, "max_predictions"),
        ({"masking": {"random_item_rate": 0.6, "kept_item_rate": 0.5}}, "kept_item_rate"),
        ({"masking": {"duplicate_factor": 0, "last_item_instances": 0}}, "duplicate_factor"),
        ({"model": {"relative_distances": -1}}, "relative_distances"),
        ({"training": {"last_item_share": 1.5}}, "last_item_share"),
    ],
)
def test_invalid_values_are_refused_by_name(values: Any, named: str) -> None:
    with pytest.raises(InputError) as error:
        Config.from_dict(values, "here.json")
    assert named in str(error.value)
    assert "here.json" in str(error.value)


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("model.num_layers=3", 3),
        ("model.num_layers=3.0", 3),
        ("training.learning_rate=1e-3", 0.001),
        ("training.learning_rate=1", 1.0),
        ("training.jit_compile=false", False),
        ("model.attention=causal", "causal"),
        ("data.duplicates=first", "first"),
        ('data.duplicates="first"', "first"),
        ("data.min_rating=null", None),
        ("masking.masking_rates=[0.1, 0.2]", (0.1, 0.2)),
        ("masking.masking_rates=0.3", (0.3,)),
    ],
)
def test_set_takes_json_or_a_string(assignment: str, value: Any) -> None:
    section, field = assignment.split("=")[0].split(".")
    assert getattr(getattr(Config.from_dict(read_settings(None, [assignment])), section), field) == value


@pytest.mark.parametrize(
    "assignment", ["model", "num_layers=2", "model.num_layers", "=", "model.nope=1", "nope.seed=1", "data.seed=one"]
)
def test_a_refused_assignment_is_named(assignment: str) -> None:
    with pytest.raises(InputError) as error:
        read_settings(None, [assignment])
    assert assignment in str(error.value)


@pytest.mark.parametrize(
    ("content", "assignments"),
    [
        ({}, ["data.split=temporal", "data.split_time=5"]),
        ({}, ["data.split_time=5", "data.split=temporal"]),
        ({"data": {"split": "temporal"}}, ["data.split_time=5"]),
        ({"data": {"split_time": 5}}, ["data.split=temporal"]),
        ({"model": {"hidden_size": 96}}, ["model.num_heads=3"]),
        ({"masking": {"random_item_rate": 0.6}}, ["masking.kept_item_rate=0.2"]),
    ],
)
def test_settings_are_checked_together(tmp_path: pathlib.Path, content: dict, assignments: list[str]) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(content))
    settings = read_settings(str(file), assignments)
    assert {f"{section}.{name}" for section in settings for name in settings[section]} >= {
        text.split("=")[0] for text in assignments
    }
    Config.from_dict(settings)


def test_set_overrides_the_file_and_the_last_value_wins(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"data": {"seed": 2, "num_shards": 3}}')
    assert read_settings(str(file), ["data.seed=4", "data.seed=5"]) == {"data": {"seed": 5, "num_shards": 3}}
    assert read_settings(None) == {}


@pytest.mark.parametrize(
    ("content", "named"),
    [(b'{"data":\n{"seed": 1,}}', "line 2"), (b"\xff", "utf-8"), (b"3", "3"), (b'{"data": {"sed": 1}}', "sed")],
)
def test_a_damaged_file_is_named(tmp_path: pathlib.Path, content: bytes, named: str) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_settings(str(file))
    assert named in str(error.value)
    assert str(file) in str(error.value)


def test_a_missing_file_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.json"):
        read_settings(str(tmp_path / "nowhere.json"))


def test_settings_that_differ_are_named_with_both_values() -> None:
    config = Config.from_dict({"data": {"max_seq_length": 50}})
    with pytest.raises(InputError) as error:
        check_settings_match({"data": {"max_seq_length": 70}}, config, "the records", "Rebuild")
    for words in ("`data.max_seq_length`", "70", "the records=50", "Rebuild", "data.max_seq_length=50"):
        assert words in str(error.value)


def test_only_given_settings_must_match() -> None:
    config = Config.from_dict({"data": {"max_seq_length": 50}, "masking": {"masking_rates": [0.2]}})
    check_settings_match({}, config, "the records", "")
    check_settings_match({"data": {"max_seq_length": 50.0}, "masking": {"masking_rates": 0.2}}, config, "them", "")
    temporal = Config.from_dict({"data": {"split": "temporal", "split_time": 5}})
    check_settings_match({"data": {"split": "temporal"}}, temporal, "records whose time came by a flag", "")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_the_published_configurations_load(path: pathlib.Path) -> None:
    Config.from_dict(read_settings(str(path)), str(path))


def test_there_are_published_configurations() -> None:
    assert {"ml-1m.json", "demo.json"} <= {path.name for path in CONFIGS}
