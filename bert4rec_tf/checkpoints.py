"""Checkpoints of a run: the latest ones and the best one, each a folder that appears only when complete."""

import os
import pathlib
import shutil
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from bert4rec_tf.model.bert4rec import Bert4Rec
from tfrecords.errors import InputError

# Raised if a parameter server has ended; a full disk raises others.
_PEER_ERRORS = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)
_STATE = "state"  # prefix of the files of a checkpoint


class Progress(tf.Module):
    """How far a run has come; saved in every checkpoint.

    The names of the attributes are part of the checkpoint format.
    """

    def __init__(self, total_steps: int):
        super().__init__(name="progress")
        self.step = tf.Variable(0, trainable=False, dtype=tf.int64)
        self.total_steps = tf.Variable(total_steps, trainable=False, dtype=tf.int64)
        self.last_stage_from = tf.Variable(-1, trainable=False, dtype=tf.int64)  # first step; -1 before that stage
        self.elapsed_seconds = tf.Variable(0.0, trainable=False, dtype=tf.float64)
        self.validation_ndcg = tf.Variable(-1.0, trainable=False, dtype=tf.float64)
        self.best_ndcg = tf.Variable(-1.0, trainable=False, dtype=tf.float64)
        self.epochs_since_best = tf.Variable(0, trainable=False, dtype=tf.int64)

    @property
    def in_last_stage(self) -> bool:
        """Whether the last stage has begun."""
        return int(self.last_stage_from.numpy()) >= 0

    @property
    def stage_start(self) -> int:
        """The first step of the stage that the run is in."""
        return max(int(self.last_stage_from.numpy()), 0)

    def to_dict(self) -> dict[str, Any]:
        """The values for metadata; the validation metric is None before the first validation."""
        ndcg = round(float(self.validation_ndcg.numpy()), 6)
        return {
            "step": int(self.step.numpy()),
            "elapsed_seconds": round(float(self.elapsed_seconds.numpy()), 1),
            "validation_ndcg@10": ndcg if ndcg >= 0 else None,
        }


class Checkpoints:
    """The latest checkpoints of the whole run, and the model with the best validation: one folder each.

    Args:
        model_dir: the folder that holds `checkpoints/`.
        tracked: the objects to save: "model", "optimizer" and "progress".
        to_keep: how many of the latest checkpoints to keep.
        saved: called after each checkpoint.
    """

    def __init__(
        self,
        model_dir: str | pathlib.Path,
        tracked: dict[str, Any],
        to_keep: int,
        saved: Callable[[], None] = lambda: None,
    ):
        directory = pathlib.Path(model_dir) / "checkpoints"
        self._latest_dir, self._best_dir, self._to_keep = directory / "latest", directory / "best", to_keep
        self._model: Bert4Rec = tracked["model"]
        self._progress: Progress = tracked["progress"]
        self._saved = saved
        self._everything = tf.train.Checkpoint(**tracked)
        self._best = tf.train.Checkpoint(model=tracked["model"], progress=tracked["progress"])

    def restore_latest(self) -> bool:
        """Restores the latest complete checkpoint; False if there is none.

        A damaged checkpoint is renamed, with a warning, and the one before it is restored.

        Raises:
            InputError: every checkpoint is damaged.
        """
        for directory in (self._latest_dir, self._best_dir):
            _restore_name(directory)
        checkpoints = _checkpoints(self._latest_dir)
        while checkpoints:
            newest = checkpoints.pop()
            try:
                _restore(self._everything, newest)
                return True
            except InputError as error:
                if not checkpoints:
                    raise
                aside, number = newest.with_name(f"damaged-{newest.name}"), 1
                while aside.exists():  # a checkpoint of the same step was damaged before
                    number += 1
                    aside = newest.with_name(f"damaged-{newest.name}-{number}")
                newest.rename(aside)
                print(
                    f"warning: {error} Resuming from the checkpoint before it; the damaged one is kept as {aside}",
                    file=sys.stderr,
                )
        return False

    def save(self, best: bool) -> None:
        """Saves a latest checkpoint, and also the best one if `best`.

        Raises:
            InputError: a weight is not finite or the disk is full; the checkpoints on disk do not change.
        """
        for weight in self._model.weights:
            if not np.all(np.isfinite(weight.numpy())):
                raise InputError(
                    f"Weights must be finite. Received: NaN or infinity in {weight.name}; the last good "
                    "checkpoint is kept. Fix: lower training.learning_rate or raise warmup_steps"
                )
        step = int(self._progress.step.numpy())
        if best:
            _write(self._best, self._best_dir, step, to_keep=1)
        _write(self._everything, self._latest_dir, step, self._to_keep)
        self._saved()


def has_checkpoint(model_dir: str | pathlib.Path) -> bool:
    """Whether a run in this directory would resume from a checkpoint."""
    return bool(_readable_checkpoints(pathlib.Path(model_dir) / "checkpoints" / "latest"))


def restore_best(directory: pathlib.Path, checkpoint: tf.train.Checkpoint) -> None:
    """Restores the best checkpoint.

    If it is damaged, warns and restores the latest checkpoint of the same step, which has the same weights, or else the
    newest one.

    Raises:
        InputError: there is no checkpoint, or all are damaged.
    """
    best, latest = (_readable_checkpoints(directory / "checkpoints" / folder)[::-1] for folder in ("best", "latest"))
    same_step = [path for path in latest if best and path.name == best[0].name]
    found = [*best, *same_step, *(path for path in latest if path not in same_step)]
    if not found:
        raise InputError(f"--model_dir must hold a checkpoint. Received: {directory}, without one. Fix: run train.py")
    damages = []
    for path in found:
        try:
            _restore(checkpoint, path)
        except InputError as error:
            damages.append(error)
            continue
        if damages:
            same = path in same_step
            which = "which has the same weights" if same else "another model than that of the best validation"
            print(f"warning: {damages[0]} Using {path} instead, {which}.", file=sys.stderr)
        return
    raise damages[0]


def _checkpoints(directory: pathlib.Path) -> list[pathlib.Path]:
    """The complete checkpoints of a folder, in order of their steps."""
    found = [path for path in directory.glob("ckpt-*") if path.name.removeprefix("ckpt-").isdecimal()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("ckpt-")))


def _write(checkpoint: tf.train.Checkpoint, directory: pathlib.Path, step: int, to_keep: int) -> None:
    """Writes a checkpoint under a temporary name, renames it, and removes the oldest ones beyond `to_keep`."""
    target_path = directory / f"ckpt-{step}"
    building = directory / f".{target_path.name}.building"
    for leftover in directory.glob(".ckpt-*"):
        shutil.rmtree(leftover)
    try:
        checkpoint.write(str(building / _STATE), _local_options())
        for file in building.iterdir():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
    except _PEER_ERRORS:
        raise
    except (tf.errors.OpError, OSError) as error:
        shutil.rmtree(building, ignore_errors=True)
        raise InputError(
            f"A checkpoint must fit on the disk of --model_dir. Received: {str(error).splitlines()[0]:.300} "
            f"at {target_path}; the last good checkpoint is kept. Fix: free space, and run the same command to resume"
        ) from None
    replaced = directory / f".{target_path.name}.replaced"
    if target_path.exists():  # the run resumed from an earlier step, or was stopped right after a validation
        target_path.rename(replaced)
    building.rename(target_path)
    shutil.rmtree(replaced, ignore_errors=True)
    others = [path for path in _checkpoints(directory) if path != target_path]
    for old in others[: max(0, len(others) + 1 - to_keep)]:
        # Renamed first: a kill would otherwise leave half a checkpoint, which would count as damaged.
        shutil.rmtree(old.rename(directory / f".{old.name}.removed"))


def _restore_name(directory: pathlib.Path) -> None:
    """Restores the name of a checkpoint that was renamed to make room for its replacement, if a kill came between."""
    for aside in directory.glob(".ckpt-*.replaced"):
        target_path = directory / aside.name[1:].removesuffix(".replaced")
        if not target_path.exists():
            aside.rename(target_path)


def _readable_checkpoints(directory: pathlib.Path) -> list[pathlib.Path]:
    """Finished checkpoints, or ones set aside by an interrupted write. Renames nothing: a training may be running."""
    return _checkpoints(directory) or sorted(directory.glob(".ckpt-*.replaced"))


def _local_options() -> tf.train.CheckpointOptions:
    """Reads and writes on this machine; by default, weights on a parameter server use that server's disk."""
    with tf.device("CPU:0"):
        return tf.train.CheckpointOptions(experimental_io_device=tf.constant(0).device)


def _restore(checkpoint: tf.train.Checkpoint, path: pathlib.Path) -> None:
    try:
        checkpoint.read(str(path / _STATE), _local_options()).assert_existing_objects_matched().expect_partial()
    except _PEER_ERRORS:
        raise
    # TensorFlow's reader raises IndexError and RuntimeError where a file ends early.
    except (tf.errors.OpError, AssertionError, ValueError, IndexError, RuntimeError) as error:
        raise InputError(
            f"{path} must be a whole checkpoint of this model. Received: {error!r:.200}. "
            "Fix: train again, or restore the directory."
        ) from None
