"""Decides how many steps to make next, and when a run ends: at its last step or at its time limit."""

import bisect
import math
import time

from bert4rec_tf.checkpoints import Progress
from bert4rec_tf.training.steps import StepSums

_PACE_STEPS = 10  # steps before the pace counts as known
_PACE_MARK_SHARE = 0.01  # store a timestamp every 1% of the steps: a long run keeps hundreds, not one per step
_CALL_SECONDS = 0.5  # the time that one call of the step function should take


class RunClock:
    """Counts steps and seconds, decides how many steps to make next, and ends the run.

    With a time limit, the schedule's last step is moved to the step that the run will reach in time at its current
    pace, with time reserved for the last validation. The last stage begins when its share of the steps, or of the time,
    is left.

    Args:
        progress: the run's progress; the clock sets `total_steps`, `last_stage_from` and `elapsed_seconds`.
        num_steps: of the whole run.
        last_stage_share: the share of these that the last stage has; 0: there is only one stage.
        steps_per_epoch: steps from one validation to the next; a call ends at each validation.
        min_steps_per_call: the fewest steps in a call, unless a validation, a stage or the run ends before.
        time_limit_seconds: for the whole run, earlier calls included; None: no limit.
        ended: whether no step is left.
    """

    def __init__(
        self,
        progress: Progress,
        num_steps: int,
        last_stage_share: float,
        steps_per_epoch: int,
        min_steps_per_call: int,
        time_limit_seconds: float | None,
        ended: bool,
    ):
        self._progress = progress
        self._num_steps = num_steps
        self._last_stage_share = last_stage_share
        self._last_stage_step = num_steps - round(last_stage_share * num_steps)
        self._steps_per_epoch = steps_per_epoch
        self._min_steps = min_steps_per_call
        self._limit = math.inf if time_limit_seconds is None else time_limit_seconds
        self.step = int(progress.step.numpy())
        self._earlier_seconds = float(progress.elapsed_seconds.numpy())
        self._started = time.monotonic()
        self._reserved = 0.0
        self._step_seconds = _CALL_SECONDS
        self.ended = ended
        self._begin_pace()

    def elapsed_seconds(self) -> float:
        """Seconds of the whole run, earlier calls included."""
        return self._earlier_seconds + time.monotonic() - self._started

    def seconds_left(self) -> float:
        """Seconds until the last step at the current pace; infinite before the pace is known, if there is no limit."""
        until_limit = self._limit - self._reserved - self.elapsed_seconds()
        pace = self._pace()
        return until_limit if pace is None else min((self._num_steps - self.step) * pace, until_limit)

    def next_steps(self) -> int:
        """Steps to make in one call; 0 at the end of the run.

        A call takes about half a second, so that a stop signal is handled soon.
        """
        if self.ended:
            return 0
        self._begin_last_stage_when_due()
        number = max(self._min_steps, round(_CALL_SECONDS / self._step_seconds))
        to_validation = self._steps_per_epoch - self.step % self._steps_per_epoch
        to_stage_end = self._num_steps - self.step
        if self.step < self._last_stage_step:
            to_stage_end = self._last_stage_step - self.step
        return min(number, to_validation, to_stage_end)

    def reserve(self, seconds: float) -> None:
        """Reserves time for the last validation and checkpoint."""
        self._reserved = seconds

    def after_steps(self, sums: StepSums) -> None:
        """Counts the steps, moves the schedule's last step, and ends the run when no step or time is left."""
        self.step += sums.steps
        self._mark_pace()
        self._step_seconds = sums.seconds / sums.steps
        left = self.seconds_left()
        pace = self._pace()
        if math.isfinite(self._limit) and pace is not None:
            self._progress.total_steps.assign(min(self._num_steps, self.step + max(1, round(left / pace))))
        if self.step >= self._num_steps or left <= 0:
            self.ended = True

    def _begin_last_stage_when_due(self) -> None:
        if not self._last_stage_share or self._progress.in_last_stage:
            return
        # Not by the pace, which is a poor estimate just after a run is resumed.
        due = (1 - self._last_stage_share) * self._limit
        if self.step >= self._last_stage_step or self.elapsed_seconds() >= due:
            self._progress.last_stage_from.assign(self.step)
            self._begin_pace()

    def _begin_pace(self) -> None:
        self._pace_marks = [(self.step, time.monotonic())]

    def _mark_pace(self) -> None:
        first_step, last = self._pace_marks[0][0], self._pace_marks[-1][0]
        if self.step - last >= _PACE_MARK_SHARE * (self.step - first_step):
            self._pace_marks.append((self.step, time.monotonic()))

    def _pace(self) -> float | None:
        """Seconds per step since this call or the last stage began; None before it is known.

        Measured over the later half of these steps, because the first steps of each batch shape include compilation.
        """
        first_step, _ = self._pace_marks[0]
        if self.step - first_step < _PACE_STEPS:
            return None
        half = bisect.bisect_right(self._pace_marks, ((first_step + self.step) / 2, math.inf)) - 1
        step, then = self._pace_marks[half]
        return (time.monotonic() - then) / (self.step - step)

    def record(self) -> None:
        """Stores the elapsed time in `progress`. A run that ended at its limit counts as having used all of it."""
        seconds = self.elapsed_seconds()
        unfinished = self.ended and self.step < self._num_steps
        ended_by_limit = unfinished and self._limit - self._reserved <= seconds
        self._progress.elapsed_seconds.assign(max(seconds, self._limit) if ended_by_limit else seconds)
