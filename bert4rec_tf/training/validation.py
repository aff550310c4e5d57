"""Validation and checkpoints between steps."""

import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from bert4rec_tf.checkpoints import Checkpoints, Progress
from bert4rec_tf.config import TrainingConfig
from bert4rec_tf.evaluation.evaluate import UserRanks
from bert4rec_tf.evaluation.metrics import METRICS, MISSED_RANK
from bert4rec_tf.model_dir import HISTORY_FILE
from bert4rec_tf.training.progress_bar import ProgressBar
from bert4rec_tf.training.run_clock import RunClock
from tfrecords.files import write_whole

_SET_ASIDE = 1.2  # times what a validation took is kept for the last one


class Validation:
    """At the end of each epoch: ranks validation users, writes history.jsonl, saves checkpoints, and may stop the run.

    An epoch ends at a multiple of `steps_per_epoch`, wherever the run was taken up, and at the end of the run.

    Args:
        rank_users: ranks the validation users with the model as it is.
        model_dir: for history.jsonl.
        checkpoints, progress, clock, bar: of the run.
        learning_rate: as it is now.
        config: early stopping, and how often to save between validations.
        steps_per_epoch: how often to validate.
        tensorboard: a summary writer.
    """

    def __init__(
        self,
        rank_users: Callable[[], UserRanks],
        model_dir: pathlib.Path,
        checkpoints: Checkpoints,
        progress: Progress,
        clock: RunClock,
        bar: ProgressBar,
        learning_rate: Callable[[], float],
        config: TrainingConfig,
        steps_per_epoch: int,
        tensorboard: tf.summary.SummaryWriter,
    ):
        self._learning_rate, self._steps_per_epoch, self._saved = learning_rate, steps_per_epoch, time.monotonic()
        self._rank_users, self._path, self._checkpoints = rank_users, model_dir / HISTORY_FILE, checkpoints
        self._progress, self._clock, self._bar = progress, clock, bar
        self._config, self._tensorboard, self._repeats_reported = config, tensorboard, False
        self._history = _validations_of(self._path, progress)
        self._saved_step: int | None = None
        if self._history:
            clock.set_aside(_SET_ASIDE * json.loads(self._history[-1]).get("validation_seconds", 0.0))

    def catch_up(self) -> None:
        """Validates and saves at the end of an epoch and of the run, and saves in between where that takes long.

        A validation that was cut short, now or in an earlier call, is due until it is done.
        """
        if self._is_due():
            self._validate(-(-self._clock.step // self._steps_per_epoch))
            self._bar.begin_epoch()
        elif time.monotonic() - self._saved > 60 * self._config.checkpoint_minutes:
            self.save(best=False)

    def _is_due(self) -> bool:
        if not self._clock.step or (self._history and _step_of(self._history[-1]) == self._clock.step):
            return False
        return self._clock.ended or self._clock.step % self._steps_per_epoch == 0

    def save(self, best: bool) -> None:
        """Writes a checkpoint of where the run stands."""
        self._clock.record()
        self._checkpoints.save(best=best)
        self._saved, self._saved_step = time.monotonic(), self._clock.step

    def save_once(self) -> None:
        """The same, unless this step's checkpoint was just written."""
        if self._saved_step != self._clock.step:
            self.save(best=False)

    def _validate(self, epoch: int) -> None:
        measured = {
            "loss": self._bar.epoch_loss(),
            "learning_rate": self._learning_rate(),
            "items_per_second": round(self._bar.items_per_second(), 1),
            "input_wait_share": round(self._bar.input_wait_share(), 4),
        }
        started = time.monotonic()
        ranks = self._rank_users()
        metrics = {protocol: values for protocol, values in ranks.metrics().items() if protocol != "users"}
        self._report_repeats(ranks)
        ndcg = metrics["full"]["ndcg@10"]
        better = ndcg > float(self._progress.best_ndcg.numpy())
        self._progress.validation_ndcg.assign(ndcg)
        self._progress.best_ndcg.assign(max(ndcg, float(self._progress.best_ndcg.numpy())))
        # Patience is for the last stage, where there is one: it asks for something else, and may gain what the first
        # one no longer does.
        ahead = self._config.last_item_share > 0 and int(self._progress.last_stage_from.numpy()) < 0
        self._progress.epochs_since_best.assign(0 if better or ahead else self._progress.epochs_since_best + 1)
        measured["validation_seconds"] = round(time.monotonic() - started, 1)
        self._write(epoch, measured, metrics)
        self.save(best=better)
        self._clock.set_aside(_SET_ASIDE * (time.monotonic() - started))
        patience = self._config.early_stopping_epochs
        if patience is not None and int(self._progress.epochs_since_best.numpy()) >= patience:
            self._bar.say(f"no better validation in {patience} epochs: stopping early")
            self._clock.ended = True

    def _report_repeats(self, ranks: UserRanks) -> None:
        """Tells once a call, where validation targets stand in their own history, how they are ranked."""
        if self._repeats_reported or not ranks.repeats.any():
            return
        self._repeats_reported = True
        missed = bool(np.all(ranks.full[ranks.repeats] == MISSED_RANK))
        self._bar.say(
            f"{ranks.repeats.sum():,} of {len(ranks.full):,} validation targets stand in their user's own history and "
            + (
                "count as missed (evaluation.drop_seen=true); callers who recommend seen items train with "
                "--set=evaluation.drop_seen=false"
                if missed
                else "are ranked (evaluation.drop_seen=false)"
            )
        )

    def _write(self, epoch: int, measured: dict[str, float | None], metrics: dict[str, Any]) -> None:
        entry = {
            "epoch": epoch,
            "step": self._clock.step,
            **measured,
            "elapsed_seconds": round(self._clock.elapsed_seconds(), 1),
            "validation": metrics,
        }
        self._history.append(json.dumps(entry))
        write_whole(self._path, "\n".join(self._history) + "\n")
        with self._tensorboard.as_default(step=self._clock.step):
            for protocol, values in metrics.items():
                for name in METRICS:
                    if values[name] is not None:
                        tf.summary.scalar(f"validation_{protocol}/{name.replace('@', '_at_')}", values[name])
        full, sampled = metrics["full"], metrics["sampled"]
        shown = f"{sampled['ndcg@10']:.4f}, {sampled['hr@10']:.4f}" if sampled["users"] else "no user has enough"
        self._bar.say(
            f"epoch {epoch}, step {self._clock.step:,}: loss {_shown(measured['loss'])}, "
            f"validation NDCG@10 {full['ndcg@10']:.4f}, HR@10 {full['hr@10']:.4f} "
            f"(over the negatives: {shown}), "
            f"{self._clock.elapsed_seconds() / 60:.1f} min"
        )


def is_validated(model_dir: pathlib.Path, progress: Progress) -> bool:
    """Whether the step that a run was restored to has its validation."""
    history = _validations_of(model_dir / HISTORY_FILE, progress)
    return bool(history) and _step_of(history[-1]) == int(progress.step.numpy())


def _validations_of(path: pathlib.Path, progress: Progress) -> list[str]:
    """The lines of history.jsonl that the restored checkpoint knows of.

    A line is written before its checkpoint. Where a run was killed between the two, the run comes by that step again,
    or, where a validation was cut short and its step saved before, the checkpoint has another step's validation.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    step, ndcg = int(progress.step.numpy()), float(progress.validation_ndcg.numpy())
    known = [line for line in lines if _step_of(line) <= step]
    if known and _step_of(known[-1]) == step and json.loads(known[-1])["validation"]["full"]["ndcg@10"] != ndcg:
        known.pop()
    return known


def _step_of(line: str) -> int:
    return int(json.loads(line)["step"])


def _shown(loss: float | None) -> str:
    return "not measured" if loss is None else f"{loss:.4f}"
