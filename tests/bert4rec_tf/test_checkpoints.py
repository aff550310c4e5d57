"""Checkpoints: what is saved, kept and restored, and what happens to damaged ones."""

import pathlib
import shutil
import subprocess
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from bert4rec_tf.model_dir import load_model
from tests.support.model_dirs import DAMAGES, VOCABULARY, damage, files_in, start_run, trained_dir
from tfrecords.errors import InputError


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
