"""What happens around the steps of `fit`: the end of a run, its progress, validation and checkpoints."""

import json
import math
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tqdm import tqdm

from bert4rec_tf.config import TrainingConfig
from bert4rec_tf.errors import InputError
from bert4rec_tf.evaluation import Ranks
from bert4rec_tf.metrics import ranking_metrics
from bert4rec_tf.model_dir import HISTORY_FILE, Checkpoints, Progress, write_whole
from bert4rec_tf.stop_signals import StopSignals

_PACE_STEPS = 10  # steps before the pace is believed
_SCALAR_STEPS = 50  # between two points of TensorBoard's training curves
_LOG_SECONDS = 15.0


class RunClock(tf.keras.callbacks.Callback):
    """Counts steps and seconds, ends the run at its last step or in time, and stops it where the loss is not finite.

    With a time limit, the schedule's last step is moved to where the pace so far will have come when the time is up,
    the last validation's time set aside.

    Args:
        progress: of the run.
        num_steps: the last step, whatever the time.
        time_limit_seconds: of the whole run, earlier calls counted in; None: no limit.
        signals: end the run too.
    """

    def __init__(self, progress: Progress, num_steps: int, time_limit_seconds: float | None, signals: StopSignals):
        super().__init__()
        self._signals = signals
        self._progress = progress
        self._num_steps = num_steps
        self._limit = math.inf if time_limit_seconds is None else time_limit_seconds
        self._first_step = int(progress.step.numpy())
        self._earlier_seconds = float(progress.elapsed_seconds.numpy())
        self._started = time.monotonic()
        self._set_aside = 0.0
        self.step = self._first_step

    def elapsed_seconds(self) -> float:
        """Of the whole run, earlier calls counted in."""
        return self._earlier_seconds + time.monotonic() - self._started

    def seconds_left(self) -> float:
        """Until the last step, by the pace so far; infinite before a pace is known."""
        done = self.step - self._first_step
        if done < _PACE_STEPS:
            return self._limit - self.elapsed_seconds()
        pace = (time.monotonic() - self._started) / done
        return min((self._num_steps - self.step) * pace, self._limit - self._set_aside - self.elapsed_seconds())

    def set_aside(self, seconds: float) -> None:
        """Time to keep for the last validation and checkpoint."""
        self._set_aside = seconds

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        if not math.isfinite(logs["loss"]):
            raise InputError(
                f"The loss must be finite. Received: {logs['loss']} at step {self.step + 1}; the last good checkpoint "
                "is kept. Fix: lower training.learning_rate, or raise training.warmup_steps"
            )
        self.step += 1
        self._progress.step.assign(self.step)
        left = self.seconds_left()
        done = self.step - self._first_step
        if math.isfinite(self._limit) and done >= _PACE_STEPS:
            pace = (time.monotonic() - self._started) / done
            self._progress.total_steps.assign(min(self._num_steps, self.step + max(1, round(left / pace))))
        if self.step >= self._num_steps or left <= 0 or self._signals.received:
            self.model.stop_training = True

    def record(self) -> None:
        """Puts the clock into `progress`; a run that its limit ended counts as having used all of it."""
        seconds = self.elapsed_seconds()
        unfinished = self.model.stop_training and self.step < self._num_steps
        ended_by_limit = unfinished and self._limit - self._set_aside <= seconds
        self._progress.elapsed_seconds.assign(max(seconds, self._limit) if ended_by_limit else seconds)


class Profiler(tf.keras.callbacks.Callback):
    """Writes a trace of a few steps for TensorBoard's profiler, once the first steps have compiled what they need.

    Args:
        directory: of the TensorBoard logs.
    """

    _FIRST, _LAST = 20, 30

    def __init__(self, directory: pathlib.Path):
        super().__init__()
        self._directory, self._steps, self._runs = str(directory), 0, False

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self._steps == self._FIRST:
            tf.profiler.experimental.start(self._directory)
            self._runs = True

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        self._steps += 1
        if self._steps == self._LAST:
            self._stop()

    def on_train_end(self, logs: Any = None) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._runs:
            tf.profiler.experimental.stop()
            self._runs = False


class ProgressBar(tf.keras.callbacks.Callback):
    """A line with step, loss, items a second, best validation and time left; and the training curves of TensorBoard.

    On a terminal the line is drawn in place; in a log file a new one is written every quarter of a minute.

    Args:
        clock: of the run.
        progress: of the run.
        tensorboard: a summary writer.
    """

    def __init__(self, clock: RunClock, progress: Progress, tensorboard: tf.summary.SummaryWriter):
        super().__init__()
        self._clock, self._progress, self._tensorboard = clock, progress, tensorboard
        self._bar = tqdm(bar_format="{desc}", disable=not sys.stderr.isatty(), mininterval=0.3, file=sys.stderr)
        self._smooth_loss = math.nan
        self._last_line = time.monotonic()
        self.begin_epoch()

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        self._items += logs["items"]
        self._loss += logs["loss"] * logs["masked_items"]
        self._weight += logs["masked_items"]
        old = self._smooth_loss if math.isfinite(self._smooth_loss) else logs["loss"]
        self._smooth_loss = 0.95 * old + 0.05 * logs["loss"]
        self._bar.set_description_str(self._line(), refresh=False)
        self._bar.update()
        if self._bar.disable and time.monotonic() - self._last_line > _LOG_SECONDS:
            self.say(self._line())
            self._last_line = time.monotonic()
        if self._clock.step % _SCALAR_STEPS == 0:
            with self._tensorboard.as_default(step=self._clock.step):
                tf.summary.scalar("loss", self._smooth_loss)
                tf.summary.scalar("learning_rate", self.model.optimizer.learning_rate)
                tf.summary.scalar("items_per_second", self.items_per_second())

    def items_per_second(self) -> float:
        """Real items trained on, padding not counted, since the epoch began."""
        return self._items / max(time.monotonic() - self._since, 1e-9)

    def epoch_loss(self) -> float:
        """Mean over the epoch's masked items."""
        return self._loss / max(self._weight, 1.0)

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()

    def begin_epoch(self) -> None:
        """Loss and pace are those from here on."""
        self._items, self._loss, self._weight = 0.0, 0.0, 0.0
        self._since = time.monotonic()

    def _line(self) -> str:
        left = self._clock.seconds_left()
        ends = "" if math.isinf(left) else f", {max(left, 0) / 60:.1f} min left"
        best = float(self._progress.best_ndcg.numpy())
        seen = f", best NDCG@10 {best:.4f}" if best >= 0 else ""
        return (
            f"step {self._clock.step:,}/{int(self._progress.total_steps.numpy()):,}, loss {self._smooth_loss:.4f}, "
            f"{self.items_per_second():,.0f} items/s{seen}{ends}"
        )


class Validation(tf.keras.callbacks.Callback):
    """At the end of each epoch: ranks validation users, writes history.jsonl, saves checkpoints, and may stop the run.

    An epoch ends at a multiple of `steps_per_epoch`, wherever the run was taken up, and at the end of the run.

    Args:
        rank_users: ranks the validation users with the model as it is.
        model_dir: for history.jsonl.
        checkpoints, progress, clock, bar, signals: of the run.
        config: early stopping, and how often to save between validations.
        steps_per_epoch: how often to validate.
        tensorboard: a summary writer.
    """

    def __init__(
        self,
        rank_users: Callable[[], Ranks],
        model_dir: pathlib.Path,
        checkpoints: Checkpoints,
        progress: Progress,
        clock: RunClock,
        bar: ProgressBar,
        signals: StopSignals,
        config: TrainingConfig,
        steps_per_epoch: int,
        tensorboard: tf.summary.SummaryWriter,
    ):
        super().__init__()
        self._signals, self._steps_per_epoch, self._saved = signals, steps_per_epoch, time.monotonic()
        self._rank_users, self._path, self._checkpoints = rank_users, model_dir / HISTORY_FILE, checkpoints
        self._progress, self._clock, self._bar = progress, clock, bar
        self._config, self._tensorboard = config, tensorboard
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        # A run that was cut off after a line and before its checkpoint comes by that step again.
        self._history = [line for line in lines if json.loads(line)["step"] <= clock.step]

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        at_end = self.model.stop_training and not self._signals.received
        if at_end or self._clock.step % self._steps_per_epoch == 0:
            self._validate(-(-self._clock.step // self._steps_per_epoch))
            self._bar.begin_epoch()
        elif self._signals.received or time.monotonic() - self._saved > 60 * self._config.checkpoint_minutes:
            self._save(best=False)

    def _save(self, best: bool) -> None:
        self._clock.record()
        self._checkpoints.save(best=best)
        self._saved = time.monotonic()

    def _validate(self, epoch: int) -> None:
        loss, pace = self._bar.epoch_loss(), self._bar.items_per_second()
        started = time.monotonic()
        ranks = self._rank_users()
        metrics = {"full": ranking_metrics(ranks.full), "sampled": ranking_metrics(ranks.sampled)}
        ndcg = metrics["full"]["ndcg@10"]
        better = ndcg > float(self._progress.best_ndcg.numpy())
        self._progress.validation_ndcg.assign(ndcg)
        self._progress.best_ndcg.assign(max(ndcg, float(self._progress.best_ndcg.numpy())))
        self._progress.epochs_since_best.assign(0 if better else self._progress.epochs_since_best + 1)
        self._write(epoch, loss, pace, metrics)
        self._save(best=better)
        self._clock.set_aside(1.2 * (time.monotonic() - started))
        patience = self._config.early_stopping_epochs
        if patience is not None and int(self._progress.epochs_since_best.numpy()) >= patience:
            self._bar.say(f"no better validation in {patience} epochs: stopping early")
            self.model.stop_training = True

    def _write(self, epoch: int, loss: float, pace: float, metrics: dict[str, Any]) -> None:
        entry = {
            "epoch": epoch,
            "step": self._clock.step,
            "loss": loss,
            "learning_rate": float(self.model.optimizer.learning_rate.numpy()),
            "items_per_second": round(pace, 1),
            "elapsed_seconds": round(self._clock.elapsed_seconds(), 1),
            "validation": metrics,
        }
        self._history.append(json.dumps(entry))
        write_whole(self._path, "\n".join(self._history) + "\n")
        with self._tensorboard.as_default(step=self._clock.step):
            for protocol, values in metrics.items():
                for name, value in values.items():
                    if name != "ci95":
                        tf.summary.scalar(f"validation_{protocol}/{name.replace('@', '_at_')}", value)
        full, sampled = metrics["full"], metrics["sampled"]
        self._bar.say(
            f"epoch {epoch}, step {self._clock.step:,}: loss {loss:.4f}, validation NDCG@10 {full['ndcg@10']:.4f}, "
            f"HR@10 {full['hr@10']:.4f} (100 negatives: {sampled['ndcg@10']:.4f}, {sampled['hr@10']:.4f}), "
            f"{self._clock.elapsed_seconds() / 60:.1f} min"
        )
