"""What the chief does between steps: the end of a run, its progress, validation and checkpoints."""

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
from bert4rec_tf.evaluation import Ranks
from bert4rec_tf.metrics import ranking_metrics
from bert4rec_tf.model_dir import HISTORY_FILE, Checkpoints, Progress, write_whole
from bert4rec_tf.steps import StepSums

_PACE_STEPS = 10  # steps before the pace is believed
_CALL_SECONDS = 0.5
_SCALAR_STEPS = 50  # between two points of TensorBoard's training curves
_LOG_SECONDS = 15.0


class Books:
    """All that is kept of a run while it goes on.

    Args:
        model_dir: for history.jsonl and TensorBoard's files.
        config: of the training.
        progress, checkpoints: of the run.
        rank_users: ranks the validation users with the model as it is.
        learning_rate: as it is now.
        steps_per_epoch: how often to validate.
        fewest_steps: to a call.
        time_limit_seconds: of the whole run, earlier calls counted in; None: no limit.
        finished: nothing is left to train.
        profile: writes a trace too.
    """

    def __init__(
        self,
        model_dir: pathlib.Path,
        config: TrainingConfig,
        progress: Progress,
        checkpoints: Checkpoints,
        rank_users: Callable[[], Ranks],
        learning_rate: Callable[[], float],
        steps_per_epoch: int,
        fewest_steps: int,
        time_limit_seconds: float | None,
        finished: bool,
        profile: bool,
    ):
        logs = model_dir / "tensorboard"
        self._tensorboard = tf.summary.create_file_writer(str(logs))
        self._clock = RunClock(progress, config.num_steps, steps_per_epoch, fewest_steps, time_limit_seconds, finished)
        self._bar = ProgressBar(self._clock, progress, learning_rate, self._tensorboard)
        self._validation = Validation(
            rank_users,
            model_dir,
            checkpoints,
            progress,
            self._clock,
            self._bar,
            learning_rate,
            config,
            steps_per_epoch,
            self._tensorboard,
        )
        self._profiler = Profiler(logs) if profile else None

    def next_steps(self) -> int:
        """How many to make in the next call; 0 at the end of the run."""
        return self._clock.next_steps()

    def after_steps(self, sums: StepSums) -> None:
        """Counts, shows, validates and saves."""
        self._clock.after_steps(sums)
        self._bar.after_steps(sums)
        self._validation.after_steps()
        if self._profiler is not None:
            self._profiler.after_steps(sums)

    def save(self) -> None:
        """Writes a checkpoint of where the run stands."""
        self._validation.save(best=False)

    def close(self) -> None:
        """Ends the line on the terminal, the trace and TensorBoard's file."""
        self._bar.close()
        if self._profiler is not None:
            self._profiler.close()
        self._tensorboard.close()


class RunClock:
    """Counts steps and seconds, says how many steps come next, and ends the run at its last step or in time.

    With a time limit, the schedule's last step is moved to where the pace so far will have come when the time is up,
    the last validation's time set aside.

    Args:
        progress: of the run.
        num_steps: the last step, whatever the time.
        steps_per_epoch: no call goes past a validation.
        fewest_steps: to a call.
        time_limit_seconds: of the whole run, earlier calls counted in; None: no limit.
        ended: nothing is left to do.
    """

    def __init__(
        self,
        progress: Progress,
        num_steps: int,
        steps_per_epoch: int,
        fewest_steps: int,
        time_limit_seconds: float | None,
        ended: bool,
    ):
        self._progress = progress
        self._num_steps = num_steps
        self._steps_per_epoch = steps_per_epoch
        self._fewest_steps = fewest_steps
        self._limit = math.inf if time_limit_seconds is None else time_limit_seconds
        self._first_step = int(progress.step.numpy())
        self._earlier_seconds = float(progress.elapsed_seconds.numpy())
        self._started = time.monotonic()
        self._set_aside = 0.0
        self._step_seconds = _CALL_SECONDS
        self.step = self._first_step
        self.ended = ended

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

    def next_steps(self) -> int:
        """How many to make in one call: half a second of them, so that a signal is answered soon; 0 at the end."""
        if self.ended:
            return 0
        number = max(self._fewest_steps, round(_CALL_SECONDS / self._step_seconds))
        to_validation = self._steps_per_epoch - self.step % self._steps_per_epoch
        return min(number, to_validation, self._num_steps - self.step)

    def set_aside(self, seconds: float) -> None:
        """Time to keep for the last validation and checkpoint."""
        self._set_aside = seconds

    def after_steps(self, sums: StepSums) -> None:
        """Counts them."""
        self.step += sums.steps
        self._step_seconds = sums.seconds / sums.steps
        left = self.seconds_left()
        done = self.step - self._first_step
        if math.isfinite(self._limit) and done >= _PACE_STEPS:
            pace = (time.monotonic() - self._started) / done
            self._progress.total_steps.assign(min(self._num_steps, self.step + max(1, round(left / pace))))
        if self.step >= self._num_steps or left <= 0:
            self.ended = True

    def record(self) -> None:
        """Puts the clock into `progress`; a run that its limit ended counts as having used all of it."""
        seconds = self.elapsed_seconds()
        unfinished = self.ended and self.step < self._num_steps
        ended_by_limit = unfinished and self._limit - self._set_aside <= seconds
        self._progress.elapsed_seconds.assign(max(seconds, self._limit) if ended_by_limit else seconds)


class Profiler:
    """Writes a trace of some steps for TensorBoard's profiler, once the first steps have compiled what they need.

    Args:
        directory: of the TensorBoard logs.
    """

    _FIRST, _LAST = 20, 30

    def __init__(self, directory: pathlib.Path):
        self._directory, self._steps, self._runs = str(directory), 0, False

    def after_steps(self, sums: StepSums) -> None:
        """Starts before the 21st step, and stops after the 30th or a little later."""
        self._steps += sums.steps
        if self._runs and self._steps >= self._LAST:
            self.close()
        elif not self._runs and self._FIRST <= self._steps < self._LAST:
            tf.profiler.experimental.start(self._directory)
            self._runs = True

    def close(self) -> None:
        """Writes what there is."""
        if self._runs:
            tf.profiler.experimental.stop()
            self._runs = False


class ProgressBar:
    """A line with step, loss, pace, best validation and time left; and the training curves of TensorBoard.

    On a terminal the line is drawn in place; in a log file a new one is written every quarter of a minute.

    Args:
        clock: of the run.
        progress: of the run.
        learning_rate: as it is now.
        tensorboard: a summary writer.
    """

    def __init__(
        self,
        clock: RunClock,
        progress: Progress,
        learning_rate: Callable[[], float],
        tensorboard: tf.summary.SummaryWriter,
    ):
        self._clock, self._progress = clock, progress
        self._learning_rate, self._tensorboard = learning_rate, tensorboard
        self._bar = tqdm(bar_format="{desc}", disable=not sys.stderr.isatty(), mininterval=0.3, file=sys.stderr)
        self._smooth_loss = math.nan
        self._last_line = time.monotonic()
        self.begin_epoch()

    def after_steps(self, sums: StepSums) -> None:
        """Draws the line, and writes a point of the curves."""
        self._items += sums.items
        self._loss += sums.loss
        self._weight += sums.masked_items
        self._input_seconds += sums.input_seconds
        self._seconds += sums.seconds
        loss = sums.loss / max(sums.masked_items, 1.0)
        old = self._smooth_loss if math.isfinite(self._smooth_loss) else loss
        self._smooth_loss = loss + 0.95**sums.steps * (old - loss)
        self._bar.set_description_str(self._line(), refresh=False)
        self._bar.update()
        if self._bar.disable and time.monotonic() - self._last_line > _LOG_SECONDS:
            self.say(self._line())
            self._last_line = time.monotonic()
        if self._clock.step // _SCALAR_STEPS > (self._clock.step - sums.steps) // _SCALAR_STEPS:
            with self._tensorboard.as_default(step=self._clock.step):
                tf.summary.scalar("loss", self._smooth_loss)
                tf.summary.scalar("learning_rate", self._learning_rate())
                tf.summary.scalar("items_per_second", self.items_per_second())
                tf.summary.scalar("input_wait_share", self.input_wait_share())

    def items_per_second(self) -> float:
        """Real items trained on, padding not counted, since the epoch began."""
        return self._items / max(time.monotonic() - self._since, 1e-9)

    def input_wait_share(self) -> float:
        """The share of the steps' time spent waiting for batches, since the epoch began."""
        return self._input_seconds / max(self._seconds, 1e-9)

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
        self._seconds, self._input_seconds = 0.0, 0.0
        self._since = time.monotonic()

    def _line(self) -> str:
        left = self._clock.seconds_left()
        ends = "" if math.isinf(left) else f", {max(left, 0) / 60:.1f} min left"
        best = float(self._progress.best_ndcg.numpy())
        seen = f", best NDCG@10 {best:.4f}" if best >= 0 else ""
        return (
            f"step {self._clock.step:,}/{int(self._progress.total_steps.numpy()):,}, loss {self._smooth_loss:.4f}, "
            f"{self.items_per_second():,.0f} items/s, "
            f"{self.input_wait_share():.1%} waiting for input{seen}{ends}"
        )


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
        rank_users: Callable[[], Ranks],
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
        self._config, self._tensorboard = config, tensorboard
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        # A run that was cut off after a line and before its checkpoint comes by that step again.
        self._history = [line for line in lines if json.loads(line)["step"] <= clock.step]

    def after_steps(self) -> None:
        """Validates and saves at the end of an epoch and of the run, and saves in between where that takes long."""
        if self._clock.ended or self._clock.step % self._steps_per_epoch == 0:
            self._validate(-(-self._clock.step // self._steps_per_epoch))
            self._bar.begin_epoch()
        elif time.monotonic() - self._saved > 60 * self._config.checkpoint_minutes:
            self.save(best=False)

    def save(self, best: bool) -> None:
        """Writes a checkpoint of where the run stands."""
        self._clock.record()
        self._checkpoints.save(best=best)
        self._saved = time.monotonic()

    def _validate(self, epoch: int) -> None:
        measured = {
            "loss": self._bar.epoch_loss(),
            "learning_rate": self._learning_rate(),
            "items_per_second": round(self._bar.items_per_second(), 1),
            "input_wait_share": round(self._bar.input_wait_share(), 4),
        }
        started = time.monotonic()
        ranks = self._rank_users()
        metrics = {"full": ranking_metrics(ranks.full), "sampled": ranking_metrics(ranks.sampled)}
        ndcg = metrics["full"]["ndcg@10"]
        better = ndcg > float(self._progress.best_ndcg.numpy())
        self._progress.validation_ndcg.assign(ndcg)
        self._progress.best_ndcg.assign(max(ndcg, float(self._progress.best_ndcg.numpy())))
        self._progress.epochs_since_best.assign(0 if better else self._progress.epochs_since_best + 1)
        self._write(epoch, measured, metrics)
        self.save(best=better)
        self._clock.set_aside(1.2 * (time.monotonic() - started))
        patience = self._config.early_stopping_epochs
        if patience is not None and int(self._progress.epochs_since_best.numpy()) >= patience:
            self._bar.say(f"no better validation in {patience} epochs: stopping early")
            self._clock.ended = True

    def _write(self, epoch: int, measured: dict[str, float], metrics: dict[str, Any]) -> None:
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
                for name, value in values.items():
                    if name != "ci95":
                        tf.summary.scalar(f"validation_{protocol}/{name.replace('@', '_at_')}", value)
        full, sampled = metrics["full"], metrics["sampled"]
        self._bar.say(
            f"epoch {epoch}, step {self._clock.step:,}: loss {measured['loss']:.4f}, "
            f"validation NDCG@10 {full['ndcg@10']:.4f}, HR@10 {full['hr@10']:.4f} "
            f"(100 negatives: {sampled['ndcg@10']:.4f}, {sampled['hr@10']:.4f}), "
            f"{self._clock.elapsed_seconds() / 60:.1f} min"
        )
