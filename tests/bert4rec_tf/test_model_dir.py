"""The model directory: what it accepts and what it loads."""

import dataclasses
import json
import pathlib
import re
import shutil

import numpy as np
import pytest

from bert4rec_tf.config import Config, ModelConfig, TrainingConfig, read_settings
from bert4rec_tf.model_dir import load_model, open_model_dir
from tests.support.model_dirs import CONFIG, DAMAGES, MANIFEST, VOCABULARY, damage, files_in, start_run, trained_dir
from tfrecords.errors import InputError
from tfrecords.manifest import Manifest
from tfrecords.vocabulary import Vocabulary


def test_a_new_directory_is_self_contained_and_accepted_again(tmp_path: pathlib.Path) -> None:
    model_dir = tmp_path / "deep" / "model"
    open_model_dir(model_dir, CONFIG, MANIFEST, VOCABULARY)
    made = files_in(model_dir)
    assert set(made) == {"config.json", "vocabulary.jsonl", "manifest.json"}
    described = json.loads(made["config.json"])
    assert described.pop("model_name") == "BERT4Rec, Cloze"
    assert Config.from_dict(described) == CONFIG
    assert read_settings(str(model_dir / "config.json")) == described, "it is also a --config"
    assert Vocabulary.load(model_dir).sha256() == VOCABULARY.sha256()
    assert Manifest.load(model_dir) == MANIFEST
    open_model_dir(model_dir, CONFIG, MANIFEST, VOCABULARY)
    longer = dataclasses.replace(CONFIG, training=TrainingConfig(num_steps=7, jit_compile=False))
    open_model_dir(model_dir, longer, MANIFEST, VOCABULARY)
    assert files_in(model_dir) == made


def test_an_empty_or_half_made_directory_is_accepted(tmp_path: pathlib.Path) -> None:
    (tmp_path / "vocabulary.jsonl").write_text("half a li")
    open_model_dir(tmp_path, CONFIG, MANIFEST, VOCABULARY)
    assert Vocabulary.load(tmp_path).sha256() == VOCABULARY.sha256()


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        (dataclasses.replace(CONFIG, model=ModelConfig(hidden_size=8, num_heads=1, num_layers=1)), "model.hidden_size"),
        (dataclasses.replace(CONFIG, training=TrainingConfig(learning_rate=0.5)), "training.learning_rate"),
    ],
)
def test_a_changed_setting_is_refused_by_name(tmp_path: pathlib.Path, changed: Config, field: str) -> None:
    open_model_dir(tmp_path, CONFIG, MANIFEST, VOCABULARY)
    with pytest.raises(InputError, match=field):
        open_model_dir(tmp_path, changed, MANIFEST, VOCABULARY)


def test_other_records_are_refused(tmp_path: pathlib.Path) -> None:
    open_model_dir(tmp_path, CONFIG, MANIFEST, VOCABULARY)
    with pytest.raises(InputError, match="records"):
        open_model_dir(tmp_path, CONFIG, dataclasses.replace(MANIFEST, counts={"items": 4}), VOCABULARY)


def test_a_directory_with_other_files_is_refused_and_unchanged(tmp_path: pathlib.Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="something else"):
        open_model_dir(tmp_path, CONFIG, MANIFEST, VOCABULARY)
    with pytest.raises(InputError, match="a file"):
        open_model_dir(tmp_path / "thesis.txt", CONFIG, MANIFEST, VOCABULARY)
    assert files_in(tmp_path) == {"thesis.txt": b"precious"}


def test_loading_prefers_the_best_checkpoint(tmp_path: pathlib.Path) -> None:
    trained = load_model(trained_dir(tmp_path))
    assert trained.state["step"] == 1
    assert all(np.all(weight.numpy() == 1) for weight in trained.model.weights)
    assert trained.config == CONFIG
    assert trained.manifest == MANIFEST
    assert trained.vocabulary.item_ids == VOCABULARY.item_ids


def test_loading_takes_the_latest_without_a_validation(tmp_path: pathlib.Path) -> None:
    open_model_dir(tmp_path, CONFIG, MANIFEST, VOCABULARY)
    run = start_run(tmp_path)
    run.go_to(5)
    run.checkpoints.save(best=False)
    assert load_model(tmp_path).state["step"] == 5


def test_loading_takes_a_checkpoint_that_an_interrupted_write_set_aside(tmp_path: pathlib.Path) -> None:
    model_dir = trained_dir(tmp_path)
    best = model_dir / "checkpoints/best"
    (best / "ckpt-1").rename(best / ".ckpt-1.replaced")
    assert load_model(model_dir).state["step"] == 1
    assert [path.name for path in best.iterdir()] == [".ckpt-1.replaced"]


def test_loading_a_missing_model_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match=r"config\.json"):
        load_model(tmp_path / "nowhere")
    open_model_dir(tmp_path, CONFIG, MANIFEST, VOCABULARY)
    with pytest.raises(InputError, match="checkpoint"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="JSON"):
        load_model(tmp_path)


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize(
    ("step", "which"), [(1, "which has the same weights"), (2, "another model than that of the best validation")]
)
def test_loading_skips_a_damaged_best_checkpoint_with_a_warning(
    tmp_path: pathlib.Path, kind: str, step: int, which: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model_dir = trained_dir(tmp_path)
    damage(model_dir / "checkpoints/best/ckpt-1", kind)
    if step == 2:
        shutil.rmtree(model_dir / "checkpoints/latest/ckpt-1")
    trained = load_model(model_dir)
    assert trained.state["step"] == step
    assert all(np.all(weight.numpy() == step) for weight in trained.model.weights)
    (warning,) = capsys.readouterr().err.splitlines()
    expected = rf"^warning: .*best/ckpt-1 must be a whole checkpoint.*Using .*latest/ckpt-{step} instead, {which}"
    assert re.search(expected, warning)


# A flipped bit in a latest checkpoint may belong to the optimizer, which loading does not read.
@pytest.mark.parametrize("kind", [kind for kind in DAMAGES if kind != "data flipped"])
def test_loading_damaged_checkpoints_is_refused(tmp_path: pathlib.Path, kind: str) -> None:
    model_dir = trained_dir(tmp_path)
    for checkpoint in ("best/ckpt-1", "latest/ckpt-1", "latest/ckpt-2"):
        damage(model_dir / "checkpoints" / checkpoint, kind)
    with pytest.raises(InputError, match="best/ckpt-1 must be a whole checkpoint"):
        load_model(model_dir)


def test_loading_an_undamaged_model_prints_no_warning(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model_dir = trained_dir(tmp_path)
    damage(model_dir / "checkpoints/latest/ckpt-2", "data cut")
    assert load_model(model_dir).state["step"] == 1
    assert capsys.readouterr().err == ""


def test_loading_another_models_checkpoint_is_refused(tmp_path: pathlib.Path) -> None:
    model_dir = trained_dir(tmp_path)
    other = dataclasses.replace(CONFIG, model=ModelConfig(hidden_size=8, num_heads=1, num_layers=1))
    (model_dir / "config.json").write_text(json.dumps(other.to_dict()))
    with pytest.raises(InputError, match="whole checkpoint"):
        load_model(model_dir)
