"""The model directory: what it accepts, what it saves, and what it loads."""

import dataclasses
import json
import pathlib
import re
import shutil
import subprocess
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from bert4rec_tf.checkpoints import Checkpoints, Progress
from bert4rec_tf.config import Config, ModelConfig, TrainingConfig
from bert4rec_tf.model.bert4rec import Bert4Rec, build_model
from bert4rec_tf.model_dir import load_model, open_model_dir
from bert4rec_tf.training.optimizer import make_optimizer
from tfrecords.config import DataConfig, RecordsConfig
from tfrecords.errors import InputError
from tfrecords.files import write_whole
from tfrecords.manifest import Manifest
from tfrecords.vocabulary import Vocabulary

CONFIG = Config(data=DataConfig(max_seq_length=5), model=ModelConfig(hidden_size=4, num_heads=1, num_layers=1))
VOCABULARY = Vocabulary(("a\tb", "c\n", "\u2028"), np.array([3, 2, 1]), ("A", None, None))
MANIFEST = Manifest(
    RecordsConfig(CONFIG.data, CONFIG.masking),
    {"format": "synthetic"},
    {"items": 3},
    (),
    VOCABULARY.sha256(),
    {"train": ()},
)


@dataclasses.dataclass
class Run:
    """The state of a training run, without the training."""

    model: Bert4Rec
    optimizer: tf.keras.optimizers.Optimizer
    progress: Progress
    checkpoints: Checkpoints

    def go_to(self, step: int) -> None:
        """Sets the step and every weight to `step`."""
        self.progress.step.assign(step)
        for weight in self.model.weights:
            weight.assign(tf.fill(weight.shape, float(step)))


def start_run(model_dir: pathlib.Path, to_keep: int = 2) -> Run:
    model = build_model(CONFIG.model, VOCABULARY.size, CONFIG.data.max_seq_length)
    progress = Progress(total_steps=10)
    optimizer = make_optimizer(CONFIG.training, progress.total_steps)
    optimizer.build(model.trainable_variables)
    tracked = {"model": model, "optimizer": optimizer, "progress": progress}
    return Run(model, optimizer, progress, Checkpoints(model_dir, tracked, to_keep))


def trained_dir(tmp_path: pathlib.Path) -> pathlib.Path:
    """Holds a best checkpoint of step 1 and a latest one of step 2."""
    model_dir = tmp_path / "model"
    open_model_dir(model_dir, CONFIG, MANIFEST, VOCABULARY)
    run = start_run(model_dir)
    for step, best in ((1, True), (2, False)):
        run.go_to(step)
        run.checkpoints.save(best=best)
    return model_dir


def files_in(directory: pathlib.Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_write_whole_replaces_a_file_or_leaves_it(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "file"
    write_whole(path, "old: é\n")
    write_whole(path, "new: é\n")
    assert files_in(tmp_path) == {"file": "new: é\n".encode()}
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "half \ud800")
    assert path.read_text(encoding="utf-8") == "new: é\n"


def test_a_new_directory_is_self_contained_and_accepted_again(tmp_path: pathlib.Path) -> None:
    model_dir = tmp_path / "deep" / "model"
    open_model_dir(model_dir, CONFIG, MANIFEST, VOCABULARY)
    made = files_in(model_dir)
    assert set(made) == {"config.json", "vocabulary.jsonl", "manifest.json"}
    assert Config.from_dict(json.loads(made["config.json"])) == CONFIG
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


def test_restoring_restores_the_whole_run(tmp_path: pathlib.Path) -> None:
    run = start_run(tmp_path)
    assert not run.checkpoints.restore_latest()
    run.optimizer.apply_gradients([(tf.ones(weight.shape), weight) for weight in run.model.trainable_variables])
    run.progress.step.assign(3)
    run.progress.best_ndcg.assign(0.25)
    run.checkpoints.save(best=False)
    again = start_run(tmp_path)
    assert again.checkpoints.restore_latest()
    assert [weight.numpy().tolist() for weight in again.model.weights] == [
        weight.numpy().tolist() for weight in run.model.weights
    ]
    assert [weight.numpy().tolist() for weight in again.optimizer.variables] == [
        weight.numpy().tolist() for weight in run.optimizer.variables
    ]
    assert int(again.optimizer.iterations) == 1
    assert again.progress.to_dict() == run.progress.to_dict()
    assert float(again.progress.best_ndcg.numpy()) == 0.25


def test_only_the_latest_are_kept(tmp_path: pathlib.Path) -> None:
    run = start_run(tmp_path, to_keep=2)
    for step in (1, 2, 3, 4):
        run.go_to(step)
        run.checkpoints.save(best=step < 3)
    kept = {path.parent.relative_to(tmp_path / "checkpoints").as_posix() for path in tmp_path.rglob("*.index")}
    assert kept == {"latest/ckpt-3", "latest/ckpt-4", "best/ckpt-2"}
    run.go_to(3)  # a run that resumed from an earlier step: its own checkpoint is kept
    run.checkpoints.save(best=False)
    assert sorted(path.name for path in (tmp_path / "checkpoints/latest").iterdir()) == ["ckpt-3", "ckpt-4"]


def test_a_kill_while_a_checkpoint_is_replaced_leaves_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    run = start_run(tmp_path, to_keep=1)
    run.go_to(3)
    run.checkpoints.save(best=False)
    with monkeypatch.context() as while_removing:
        while_removing.setattr("shutil.rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            run.checkpoints.save(best=False)
    assert start_run(tmp_path, to_keep=1).checkpoints.restore_latest()
    latest = tmp_path / "checkpoints/latest"
    shutil.rmtree(latest / ".ckpt-3.replaced")
    (latest / "ckpt-3").rename(latest / ".ckpt-3.replaced")  # killed between the two renames
    again = start_run(tmp_path, to_keep=1)
    assert again.checkpoints.restore_latest()
    assert int(again.progress.step) == 3
    again.checkpoints.save(best=False)
    assert [path.name for path in (tmp_path / "checkpoints/latest").iterdir()] == ["ckpt-3"]


def test_the_validation_metric_is_none_before_the_first_validation(tmp_path: pathlib.Path) -> None:
    progress = start_run(tmp_path).progress
    assert progress.to_dict()["validation_ndcg@10"] is None
    progress.validation_ndcg.assign(0)
    assert progress.to_dict()["validation_ndcg@10"] == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_not_saved(tmp_path: pathlib.Path, bad: float) -> None:
    run = start_run(tmp_path)
    run.go_to(1)
    run.checkpoints.save(best=True)
    before = files_in(tmp_path)
    run.go_to(2)
    run.model.head.output_bias.assign(tf.fill([VOCABULARY.size], bad))
    with pytest.raises(InputError, match="output_bias"):
        run.checkpoints.save(best=True)
    assert files_in(tmp_path) == before


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


def damage(directory: pathlib.Path, kind: str) -> None:
    """Damages a checkpoint as a full disk, an incomplete copy or a faulty disk would."""
    (data,), (index,) = directory.glob("*.data-*"), directory.glob("*.index")
    content = data.read_bytes()
    if kind == "data cut":
        data.write_bytes(content[: len(content) // 2])
    elif kind == "data flipped":
        data.write_bytes(bytes([content[0] ^ 0xFF]) + content[1:])
    elif kind == "data missing":
        data.unlink()
    elif kind == "index cut":
        index.write_bytes(index.read_bytes()[:20])
    elif kind == "index missing":
        index.unlink()


DAMAGES = ["data cut", "data flipped", "data missing", "index cut", "index missing"]


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


def test_a_run_resumes_from_its_latest_checkpoint_if_the_best_is_damaged(tmp_path: pathlib.Path) -> None:
    model_dir = trained_dir(tmp_path)
    damage(model_dir / "checkpoints/best/ckpt-1", "data missing")
    run = start_run(model_dir)
    assert run.checkpoints.restore_latest()
    run.go_to(3)
    run.checkpoints.save(best=True)
    assert load_model(model_dir).state["step"] == 3


@pytest.mark.parametrize("kind", DAMAGES)
def test_resuming_from_a_damaged_checkpoint_is_refused(tmp_path: pathlib.Path, kind: str) -> None:
    run = start_run(tmp_path)
    run.go_to(1)
    run.checkpoints.save(best=False)
    damage(tmp_path / "checkpoints/latest/ckpt-1", kind)
    with pytest.raises(InputError, match="checkpoint"):
        start_run(tmp_path).checkpoints.restore_latest()


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tmp_path: pathlib.Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = start_run(tmp_path)
    for step in (1, 2):
        run.go_to(step)
        run.checkpoints.save(best=False)
    damage(tmp_path / "checkpoints/latest/ckpt-2", kind)
    again = start_run(tmp_path)
    assert again.checkpoints.restore_latest()
    assert int(again.progress.step) == 1
    assert all(np.all(weight.numpy() == 1) for weight in again.model.weights)
    printed = capsys.readouterr().err
    assert "warning: " in printed
    assert "ckpt-2 must be a whole checkpoint" in printed
    assert (tmp_path / "checkpoints/latest/damaged-ckpt-2").is_dir()
    assert start_run(tmp_path).checkpoints.restore_latest()
    assert capsys.readouterr().err == ""
    again.go_to(2)
    again.checkpoints.save(best=False)
    damage(tmp_path / "checkpoints/latest/ckpt-2", kind)
    assert start_run(tmp_path).checkpoints.restore_latest()
    assert (tmp_path / "checkpoints/latest/damaged-ckpt-2-2").is_dir()


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: pathlib.Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        run = start_run(disk)
        run.go_to(1)
        run.checkpoints.save(best=True)
        before = files_in(disk)
        (disk / "other").write_bytes(bytes(shutil.disk_usage(disk).free - 8192))
        run.go_to(2)
        with pytest.raises(InputError, match=r"must fit on the disk.*No space.*the last good checkpoint is kept"):
            run.checkpoints.save(best=True)
        (disk / "other").unlink()
        assert files_in(disk) == before
        run.checkpoints.save(best=True)
        again = start_run(disk)
        assert again.checkpoints.restore_latest()
        assert int(again.progress.step) == 2
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_loading_another_models_checkpoint_is_refused(tmp_path: pathlib.Path) -> None:
    model_dir = trained_dir(tmp_path)
    other = dataclasses.replace(CONFIG, model=ModelConfig(hidden_size=8, num_heads=1, num_layers=1))
    (model_dir / "config.json").write_text(json.dumps(other.to_dict()))
    with pytest.raises(InputError, match="whole checkpoint"):
        load_model(model_dir)
