"""`--config=auto` gives the two general recipes at the two ends, and something between them in between."""

import dataclasses
import pathlib

import pytest

import bert4rec_tf
from bert4rec_tf.api import auto_recipe
from bert4rec_tf.api.recipes import settings_of
from bert4rec_tf.config import Config
from pipelines.build import LogSize
from tests.support.small_run import LOG
from tfrecords.manifest import LengthCount, Manifest

ML_1M = LogSize(users=6040, items=3416, events=999_611)
BEAUTY_5CORE = LogSize(users=22_363, items=12_101, events=198_502)


def manifest_of(size: LogSize, windows: int, directory: pathlib.Path) -> Manifest:
    """A manifest of records of a log of this size, with so many training windows."""
    if not (directory / "data").exists():
        bert4rec_tf.build_records(LOG, directory / "data", "auto", timestamp_unit="s")
    manifest = Manifest.load(directory / "data")
    return dataclasses.replace(
        manifest,
        config=auto_recipe.records_config(size, {}),
        counts=manifest.counts | dataclasses.asdict(size),
        length_histogram=(LengthCount(10, windows, 1),),
    )


@pytest.mark.parametrize(
    ("size", "windows", "recipe"),
    [(ML_1M, 10_300, "bert4rec-dense"), (BEAUTY_5CORE, 22_363, "bert4rec-sparse")],
)
def test_the_ends_are_the_general_recipes(tmp_path: pathlib.Path, size: LogSize, windows: int, recipe: str) -> None:
    expected = Config.from_dict(settings_of(recipe))
    manifest = manifest_of(size, windows, tmp_path)
    assert manifest.config.data == expected.data
    assert manifest.config.masking == expected.masking
    settings = auto_recipe.training_settings(manifest, {})
    found = Config.from_dict(settings)
    assert found.model == expected.model
    assert found.training == dataclasses.replace(expected.training, sampled_items=found.training.sampled_items), (
        "the number of sampled items plays no part in a full softmax"
    )


@pytest.mark.parametrize(
    ("size", "length", "dropout", "passes", "loss"),
    [
        (LogSize(1000, 1000, 20_000), 100, 0.5, 8, "softmax"),
        (LogSize(1000, 1000, 19_999), 50, 0.5, 8, "softmax"),
        (LogSize(1000, 1000, 32_000), 100, 0.35, 16, "softmax"),
        (LogSize(1000, 1000, 60_000), 200, 0.2, 25, "softmax"),
        (LogSize(280_000, 12_000, 3_500_000), 50, 0.2, 19, "sampled_softmax"),
        (LogSize(138_000, 26_000, 20_000_000), 200, 0.2, 8, "sampled_softmax"),
        (LogSize(1_000_000, 1_000_000, 10_000_000), 50, 0.5, 5, "sampled_softmax"),
    ],
)
def test_what_lies_between(
    tmp_path: pathlib.Path, size: LogSize, length: int, dropout: float, passes: int, loss: str
) -> None:
    manifest = manifest_of(size, 200_000, tmp_path)
    assert manifest.config.data.max_seq_length == length
    found = Config.from_dict(auto_recipe.training_settings(manifest, {}))
    assert (found.model.dropout, found.training.num_passes, found.training.loss) == (dropout, passes, loss)
    assert found.model.attention == "prefix", "whoever asks for BERT4Rec gets BERT4Rec"
    assert found.training.batch_size * length == 12_800


def test_a_tiny_log_still_gets_steps(tmp_path: pathlib.Path) -> None:
    manifest = manifest_of(LogSize(100, 50, 900), 100, tmp_path)
    training = Config.from_dict(auto_recipe.training_settings(manifest, {})).training
    assert training.batch_size == 16
    assert 400 <= (training.num_passes or 0) * 100 / 16 < 410
    assert training.warmup_steps == 200


def test_settings_of_the_user_come_first(tmp_path: pathlib.Path) -> None:
    given = {"data": {"max_seq_length": 30}, "training": {"num_steps": 7}, "evaluation": {"drop_seen": False}}
    assert auto_recipe.records_config(ML_1M, given).data.max_seq_length == 30
    settings = auto_recipe.training_settings(manifest_of(ML_1M, 100, tmp_path), given)
    found = Config.from_dict({name: fields for name, fields in settings.items() if name != "data"})
    assert (found.training.num_steps, found.training.num_passes) == (7, None)
    assert not found.evaluation.drop_seen


@pytest.mark.slow
def test_a_log_is_built_and_trained_with_auto(tmp_path: pathlib.Path) -> None:
    built = bert4rec_tf.build_records(LOG, tmp_path / "data", "auto", timestamp_unit="s")
    assert built.manifest.config.data.max_seq_length == 50
    assert not bert4rec_tf.build_records(LOG, tmp_path / "data", "auto", timestamp_unit="s").written
    settings = auto_recipe.training_settings(
        built.manifest, {"model": {"hidden_size": 8}, "training": {"num_steps": 2, "jit_compile": False}}
    )
    trained = bert4rec_tf.train(tmp_path / "data", tmp_path / "model", settings)
    assert trained is not None
    assert trained.config.model.dropout == 0.5
