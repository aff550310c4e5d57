"""What a run refuses to train on, and how long it trains."""

import math
import pathlib

import pytest
import tensorflow as tf

from bert4rec_tf.config import Config, read_settings
from bert4rec_tf.model_dir import load_model
from bert4rec_tf.training.trainer import train
from pipelines.build import build_records
from pipelines.sources.log_source import LogSource
from tests.support.short_run import SETTINGS, build, train_here
from tfrecords.errors import InputError
from tfrecords.manifest import Manifest


@pytest.mark.parametrize("attention", ["causal", "prefix"])
def test_a_model_of_next_items_refuses_windows_of_one_item(tmp_path: pathlib.Path, attention: str) -> None:
    data_dir = build(tmp_path / "data", min_events=3, max_events=3)
    with pytest.raises(InputError, match=r"at least two items\. Received: 30 training windows .* all of one item"):
        train_here(data_dir, tmp_path / "model", model={"attention": attention})
    assert not (tmp_path / "model").exists()


def test_records_of_a_single_item_are_refused(tmp_path: pathlib.Path) -> None:
    log, data_dir = tmp_path / "log.txt", tmp_path / "data"
    log.write_text("".join(f"{user} item\n" for user in "aabb" * 3))
    build_records(LogSource([str(log)], "user_item"), {}, Config(), str(data_dir))
    with pytest.raises(InputError, match=r"at least two items to choose from\. Received: 1 in"):
        train_here(data_dir, tmp_path / "model")


@pytest.mark.parametrize(
    ("attention", "instances"), [pytest.param("bidirectional", 36 * 11, marks=pytest.mark.slow), ("prefix", 36)]
)
def test_passes_become_steps(tmp_path: pathlib.Path, attention: str, instances: int) -> None:
    data_dir = build(tmp_path / "data")
    assert Manifest.load(data_dir).records("train") == 36
    training = {"num_passes": 2, "batch_size": 8, "num_length_buckets": 1, "jit_compile": False}
    settings = {"model": SETTINGS["model"] | {"attention": attention}, "training": training}
    train(str(data_dir), str(tmp_path / "model"), settings, tf.distribute.get_strategy())
    trained = load_model(tmp_path / "model")
    assert trained.config.training.num_steps == 2 * math.ceil(instances / 8)
    assert len((tmp_path / "model/history.jsonl").read_text().splitlines()) == 2, "one validation a pass"
    again = read_settings(str(tmp_path / "model/config.json"))
    for given in (again, Config.from_dict(settings).to_dict() | {"data": again["data"]}):
        train(str(data_dir), str(tmp_path / "model"), given, tf.distribute.get_strategy())


def test_steps_and_passes_together_are_refused(tmp_path: pathlib.Path) -> None:
    data_dir = build(tmp_path / "data")
    with pytest.raises(InputError, match=r"num_steps=6 and num_passes=2\. Fix: leave one out"):
        train_here(data_dir, tmp_path / "model", training={"num_passes": 2})
    assert not (tmp_path / "model").exists()
