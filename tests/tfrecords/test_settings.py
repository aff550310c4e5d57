"""Settings from files and assignments, and the messages that name a mistake."""

import json
import pathlib
from typing import Any

import pytest

from bert4rec_tf.config import Config, read_settings
from tfrecords.errors import InputError
from tfrecords.settings import check_settings_match


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
