"""Validation, early stopping and checkpoints between two rounds of steps."""

import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bert4rec_tf.checkpoints import Progress
from bert4rec_tf.evaluation.evaluate import UserRanks
from bert4rec_tf.evaluation.metrics import MISSED_RANK
from bert4rec_tf.model_dir import HISTORY_FILE
from bert4rec_tf.training.curves import Curves, validation_points
from bert4rec_tf.training.progress_bar import ProgressBar
from bert4rec_tf.training.run_clock import RunClock
from bert4rec_tf.training.run_context import RunContext
from tfrecords.files import write_whole

_RESERVE_FACTOR = 1.2  # the time reserved for the last validation, in durations of the latest one


class Validation:
    """At the end of each epoch: ranks validation users, writes history.jsonl, saves checkpoints, and may stop the run.

    An epoch ends at each multiple of `steps_per_epoch`, also in a resumed run, and at the end of the run.

    Args:
        context: the run.
        rank_users: ranks the validation users with the current weights.
        clock: the run's clock.
        bar: prints the messages.
        curves: of the run.
    """

    def __init__(
        self,
        context: RunContext,
        rank_users: Callable[[], UserRanks],
        clock: RunClock,
        bar: ProgressBar,
        curves: Curves,
    ):
        self._context, self._rank_users, self._clock, self._bar = context, rank_users, clock, bar
        self._curves, self._progress, self._training = curves, context.progress, context.config.training
        self._history_path = context.model_dir / HISTORY_FILE
        self._history = _known_validations(self._history_path, context.progress)
        self._repeats_reported = False
        self._saved_at = time.monotonic()
        self._saved_step: int | None = None
        for line in self._history:
            curves.add_earlier_validation(json.loads(line))
        if self._history:
            clock.reserve(_RESERVE_FACTOR * json.loads(self._history[-1]).get("validation_seconds", 0.0))

    def catch_up(self) -> None:
        """Validates and saves at the end of an epoch and of the run; saves every `checkpoint_minutes` in between.

        A validation that was interrupted, now or in an earlier call, stays due until it is complete.
        """
        if self._is_due():
            self._validate(-(-self._clock.step // self._context.steps_per_epoch))
            self._bar.begin_epoch()
        elif time.monotonic() - self._saved_at > 60 * self._training.checkpoint_minutes:
            self.save(best=False)

    def _is_due(self) -> bool:
        if not self._clock.step or (self._history and _step_of(self._history[-1]) == self._clock.step):
            return False
        return self._clock.ended or self._clock.step % self._context.steps_per_epoch == 0

    def save(self, best: bool) -> None:
        """Writes a checkpoint of the current step."""
        self._clock.record()
        self._curves.send()  # before the checkpoint: the resumed run does not draw the points before it again
        self._context.checkpoints.save(best=best)
        self._saved_at, self._saved_step = time.monotonic(), self._clock.step

    def save_once(self) -> None:
        """Writes a checkpoint, unless this step already has one."""
        if self._saved_step != self._clock.step:
            self.save(best=False)

    def _validate(self, epoch: int) -> None:
        measured = {
            "loss": self._bar.epoch_loss(),
            "learning_rate": self._context.learning_rate(),
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
        # Early stopping counts only in the last stage: the objective changes there, so the metric may improve again.
        reset = better or self._context.is_before_last_stage
        self._progress.epochs_since_best.assign(0 if reset else self._progress.epochs_since_best + 1)
        measured["validation_seconds"] = round(time.monotonic() - started, 1)
        self._write(epoch, measured, metrics)
        self.save(best=better)
        self._clock.reserve(_RESERVE_FACTOR * (time.monotonic() - started))
        patience = self._training.early_stopping_epochs
        if patience is not None and int(self._progress.epochs_since_best.numpy()) >= patience:
            self._bar.print_above(f"no better validation in {patience} epochs: stopping early")
            self._clock.ended = True

    def _report_repeats(self, ranks: UserRanks) -> None:
        """Reports once per run how validation targets that occur in their own history are ranked."""
        if self._repeats_reported or not ranks.repeats.any():
            return
        self._repeats_reported = True
        missed = bool(np.all(ranks.full[ranks.repeats] == MISSED_RANK))
        self._bar.print_above(
            f"{ranks.repeats.sum():,} of {len(ranks.full):,} validation targets occur in their user's own history and "
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
        write_whole(self._history_path, "\n".join(self._history) + "\n")
        self._curves.add(self._clock.step, validation_points(metrics))
        full, sampled = metrics["full"], metrics["sampled"]
        sampled_text = "no user has enough negatives"
        if sampled["users"]:
            sampled_text = f"{sampled['ndcg@10']:.4f}, {sampled['hr@10']:.4f}"
        self._bar.print_above(
            f"epoch {epoch}, step {self._clock.step:,}: loss {_loss_text(measured['loss'])}, "
            f"validation NDCG@10 {full['ndcg@10']:.4f}, HR@10 {full['hr@10']:.4f} "
            f"(over the negatives: {sampled_text}), "
            f"{self._clock.elapsed_seconds() / 60:.1f} min"
        )


def is_validated(model_dir: pathlib.Path, progress: Progress) -> bool:
    """Whether the restored step was validated."""
    history = _known_validations(model_dir / HISTORY_FILE, progress)
    return bool(history) and _step_of(history[-1]) == int(progress.step.numpy())


def _known_validations(path: pathlib.Path, progress: Progress) -> list[str]:
    """The lines of history.jsonl up to the restored checkpoint's last validation.

    A line is written before its checkpoint. If the run was killed between the two, the line is dropped and the
    validation repeated: the line's step is after the checkpoint's; or it is the same, from an interrupted validation,
    and the checkpoint holds the metric of an earlier one.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    step, ndcg = int(progress.step.numpy()), float(progress.validation_ndcg.numpy())
    known = [line for line in lines if _step_of(line) <= step]
    if known and _step_of(known[-1]) == step and json.loads(known[-1])["validation"]["full"]["ndcg@10"] != ndcg:
        known.pop()
    return known


def _step_of(line: str) -> int:
    return int(json.loads(line)["step"])


def _loss_text(loss: float | None) -> str:
    return "not measured" if loss is None else f"{loss:.4f}"
