"""Checkpoints of a run: each a folder that appears whole, the latest ones and the best one."""

import os
import pathlib
import shutil
import sys
from typing import Any

import numpy as np
import tensorflow as tf

from bert4rec_tf.model.bert4rec import Bert4Rec
from tfrecords.errors import InputError

# A parameter server that is gone; a full disk is none of these.
_PEER_ERRORS = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)
_STATE = "state"  # what the files of a checkpoint begin with


class Progress(tf.Module):
    """Where a run stands; saved in every checkpoint."""

    def __init__(self, total_steps: int):
        super().__init__(name="progress")
        self.step = tf.Variable(0, trainable=False, dtype=tf.int64)
        self.total_steps = tf.Variable(total_steps, trainable=False, dtype=tf.int64)
        self.last_stage_from = tf.Variable(-1, trainable=False, dtype=tf.int64)  # its first step; -1 before it
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
        """The values, for metadata; the validation's is None before the first one."""
        ndcg = round(float(self.validation_ndcg.numpy()), 6)
        return {
            "step": int(self.step.numpy()),
            "elapsed_seconds": round(float(self.elapsed_seconds.numpy()), 1),
            "validation_ndcg@10": ndcg if ndcg >= 0 else None,
        }


class Checkpoints:
    """The latest checkpoints of everything, and the best one by validation: a folder each, which appears whole.

    Args:
        model_dir: where `checkpoints/` is.
        tracked: what is saved: model, optimizer, progress.
        to_keep: how many of the latest.
    """

    def __init__(self, model_dir: str | pathlib.Path, tracked: dict[str, Any], to_keep: int):
        directory = pathlib.Path(model_dir) / "checkpoints"
        self._latest_dir, self._best_dir, self._to_keep = directory / "latest", directory / "best", to_keep
        self._model: Bert4Rec = tracked["model"]
        self._progress: Progress = tracked["progress"]
        self._everything = tf.train.Checkpoint(**tracked)
        self._best = tf.train.Checkpoint(model=tracked["model"], progress=tracked["progress"])

    def restore_latest(self) -> bool:
        """Puts the run back where its latest whole checkpoint stands; False where there is none.

        A damaged one is set aside, with a warning, for the one before.

        Raises:
            InputError: every checkpoint is damaged.
        """
        for directory in (self._latest_dir, self._best_dir):
            _put_back(directory)
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
                while aside.exists():  # the same step, damaged once more
                    number += 1
                    aside = newest.with_name(f"damaged-{newest.name}-{number}")
                newest.rename(aside)
                print(f"warning: {error} Going on from the one before; it is kept as {aside}", file=sys.stderr)
        return False

    def save(self, best: bool) -> None:
        """Saves the latest checkpoint, and the best one too if this is it.

        Raises:
            InputError: a weight is not finite or the disk is full; the checkpoints on disk stay as they are.
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


def has_checkpoint(model_dir: str | pathlib.Path) -> bool:
    """Whether a run in this directory would go on from a checkpoint."""
    return bool(_with_those_aside(pathlib.Path(model_dir) / "checkpoints" / "latest"))


def restore_best(directory: pathlib.Path, checkpoint: tf.train.Checkpoint) -> None:
    """Restores the best checkpoint.

    Where it is damaged, with a warning the latest one of its step, which has the same weights, or else the newest.
    """
    best, latest = (_with_those_aside(directory / "checkpoints" / folder)[::-1] for folder in ("best", "latest"))
    of_its_step = [path for path in latest if best and path.name == best[0].name]
    found = [*best, *of_its_step, *(path for path in latest if path not in of_its_step)]
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
            same = path in of_its_step
            which = "which has the same weights" if same else "another model than that of the best validation"
            print(f"warning: {damages[0]} Using {path} instead, {which}.", file=sys.stderr)
        return
    raise damages[0]


def _checkpoints(directory: pathlib.Path) -> list[pathlib.Path]:
    """The checkpoints of a folder, by rising step."""
    found = [path for path in directory.glob("ckpt-*") if path.name.removeprefix("ckpt-").isdecimal()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("ckpt-")))


def _write(checkpoint: tf.train.Checkpoint, directory: pathlib.Path, step: int, to_keep: int) -> None:
    """Writes a checkpoint beside its place, moves it there by one rename, and removes those past `to_keep`."""
    place = directory / f"ckpt-{step}"
    building = directory / f".{place.name}.building"
    for left in directory.glob(".ckpt-*"):
        shutil.rmtree(left)
    try:
        checkpoint.write(str(building / _STATE), _on_this_machine())
        for file in building.iterdir():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
    except _PEER_ERRORS:
        raise
    except (tf.errors.OpError, OSError) as error:
        shutil.rmtree(building, ignore_errors=True)
        raise InputError(
            f"A checkpoint must fit on the disk of --model_dir. Received: {str(error).splitlines()[0]:.300} "
            f"at {place}; the last good checkpoint is kept. Fix: free space, and run the same command again"
        ) from None
    replaced = directory / f".{place.name}.replaced"
    if place.exists():  # of a run that went on from an earlier step, or was stopped right after it validated
        place.rename(replaced)
    building.rename(place)
    shutil.rmtree(replaced, ignore_errors=True)
    others = [path for path in _checkpoints(directory) if path != place]
    for old in others[: max(0, len(others) + 1 - to_keep)]:
        # Not in place: half a checkpoint that is left of a killed run would be taken for a damaged one.
        shutil.rmtree(old.rename(directory / f".{old.name}.removed"))


def _put_back(directory: pathlib.Path) -> None:
    """A checkpoint that was moved aside for another one of its step, where a kill came between."""
    for aside in directory.glob(".ckpt-*.replaced"):
        place = directory / aside.name[1:].removesuffix(".replaced")
        if not place.exists():
            aside.rename(place)


def _with_those_aside(directory: pathlib.Path) -> list[pathlib.Path]:
    """The checkpoints of a folder as a reader sees them, who leaves them where a training may be moving them."""
    return _checkpoints(directory) or sorted(directory.glob(".ckpt-*.replaced"))


def _on_this_machine() -> tf.train.CheckpointOptions:
    """Weights on a parameter server are else read and written there, on its own disk."""
    with tf.device("CPU:0"):
        return tf.train.CheckpointOptions(experimental_io_device=tf.constant(0).device)


def _restore(checkpoint: tf.train.Checkpoint, path: pathlib.Path) -> None:
    try:
        checkpoint.read(str(path / _STATE), _on_this_machine()).assert_existing_objects_matched().expect_partial()
    except _PEER_ERRORS:
        raise
    # TensorFlow's reader raises IndexError and RuntimeError where a file ends early.
    except (tf.errors.OpError, AssertionError, ValueError, IndexError, RuntimeError) as error:
        raise InputError(
            f"{path} must be a whole checkpoint of this model. Received: {error!r:.200}. "
            "Fix: train again, or restore the directory."
        ) from None
