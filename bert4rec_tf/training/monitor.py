"""What the chief does between two rounds of steps."""

from collections.abc import Callable

from bert4rec_tf.evaluation.evaluate import UserRanks
from bert4rec_tf.training.curves import Curves, Tracker
from bert4rec_tf.training.progress_bar import ProgressBar
from bert4rec_tf.training.run_clock import RunClock
from bert4rec_tf.training.run_context import RunContext
from bert4rec_tf.training.steps import StepSums
from bert4rec_tf.training.tensorboard import Profiler
from bert4rec_tf.training.validation import Validation


class TrainingMonitor:
    """Clock, progress bar, validation, checkpoints and profile of a run.

    Args:
        context: the run.
        rank_users: ranks the validation users with the current weights.
        min_steps_per_call: the fewest steps in one call of the step function.
        tracker: receives the curves too, or None.
    """

    def __init__(
        self,
        context: RunContext,
        rank_users: Callable[[], UserRanks],
        min_steps_per_call: int,
        tracker: Tracker | None = None,
    ):
        logs = context.model_dir / "tensorboard"
        self._curves = Curves(logs, tracker)
        self._clock = RunClock(
            context.progress,
            context.config.training.num_steps,
            context.last_stage_share,
            context.steps_per_epoch,
            min_steps_per_call,
            context.time_limit_seconds,
            context.steps_are_done,
        )
        self._bar = ProgressBar(context, self._clock, self._curves)
        self._validation = Validation(context, rank_users, self._clock, self._bar, self._curves)
        self._profiler = Profiler(logs) if context.profile else None

    def next_steps(self) -> int:
        """How many steps to make in the next call; 0 at the end of the run."""
        return self._clock.next_steps()

    def after_steps(self, sums: StepSums) -> None:
        """Counts the steps and shows them."""
        self._clock.after_steps(sums)
        self._bar.after_steps(sums)
        if self._profiler is not None:
            self._profiler.after_steps(sums)

    def catch_up(self) -> None:
        """Validates and saves if that is due."""
        self._validation.catch_up()

    def save(self) -> None:
        """Writes a checkpoint, unless this step already has one."""
        self._validation.save_once()

    def close(self) -> None:
        """Closes the progress bar, the trace and TensorBoard's file."""
        self._bar.close()
        if self._profiler is not None:
            self._profiler.close()
        self._curves.close()
