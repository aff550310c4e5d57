"""What the chief does between steps."""

import pathlib
from collections.abc import Callable

import tensorflow as tf

from bert4rec_tf.checkpoints import Checkpoints, Progress
from bert4rec_tf.config import TrainingConfig
from bert4rec_tf.evaluation.evaluate import UserRanks
from bert4rec_tf.training.progress_bar import ProgressBar
from bert4rec_tf.training.run_clock import RunClock
from bert4rec_tf.training.steps import StepSums
from bert4rec_tf.training.tensorboard import Profiler
from bert4rec_tf.training.validation import Validation


class TrainingMonitor:
    """All that is kept of a run while it goes on.

    Args:
        model_dir: for history.jsonl and TensorBoard's files.
        config: of the training.
        progress, checkpoints: of the run.
        rank_users: ranks the validation users with the model as it is.
        learning_rate: as it is now.
        steps_per_epoch: how often to validate.
        min_steps_per_call: to a call.
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
        rank_users: Callable[[], UserRanks],
        learning_rate: Callable[[], float],
        steps_per_epoch: int,
        min_steps_per_call: int,
        time_limit_seconds: float | None,
        finished: bool,
        profile: bool,
    ):
        logs = model_dir / "tensorboard"
        self._tensorboard = tf.summary.create_file_writer(str(logs))
        self._clock = RunClock(progress, config, steps_per_epoch, min_steps_per_call, time_limit_seconds, finished)
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
        """Counts and shows."""
        self._clock.after_steps(sums)
        self._bar.after_steps(sums)
        if self._profiler is not None:
            self._profiler.after_steps(sums)

    def catch_up(self) -> None:
        """Validates and saves what is due."""
        self._validation.catch_up()

    def save(self) -> None:
        """Writes a checkpoint of where the run stands, if there is none of this step yet."""
        self._validation.save_once()

    def close(self) -> None:
        """Ends the line on the terminal, the trace and TensorBoard's file."""
        self._bar.close()
        if self._profiler is not None:
            self._profiler.close()
        self._tensorboard.close()
