"""How many steps come next, and when a run ends: at its last step or in time."""

import bisect
import math
import time

from bert4rec_tf.checkpoints import Progress
from bert4rec_tf.config import TrainingConfig
from bert4rec_tf.training.steps import StepSums

_PACE_STEPS = 10  # steps before the pace is believed
_PACE_MARK_SHARE = 0.01  # of the steps that the pace is of, from mark to mark: a long run keeps hundreds, not all
_CALL_SECONDS = 0.5


class RunClock:
    """Counts steps and seconds, says how many steps come next, and ends the run at its last step or in time.

    With a time limit, the schedule's last step is moved to where the pace so far will have come when the time is up,
    the last validation's time set aside. The last stage begins when its share of the steps, or of the time, is left.

    Args:
        progress: of the run.
        config: the last step, whatever the time, and the last stage's share.
        steps_per_epoch: no call goes past a validation.
        min_steps_per_call: to a call.
        time_limit_seconds: of the whole run, earlier calls counted in; None: no limit.
        ended: nothing is left to do.
    """

    def __init__(
        self,
        progress: Progress,
        config: TrainingConfig,
        steps_per_epoch: int,
        min_steps_per_call: int,
        time_limit_seconds: float | None,
        ended: bool,
    ):
        self._progress = progress
        self._num_steps = config.num_steps
        self._last_stage_share = config.last_item_share
        self._last_stage_step = config.num_steps - round(config.last_item_share * config.num_steps)
        self._steps_per_epoch = steps_per_epoch
        self._fewest_steps = min_steps_per_call
        self._limit = math.inf if time_limit_seconds is None else time_limit_seconds
        self.step = int(progress.step.numpy())
        self._earlier_seconds = float(progress.elapsed_seconds.numpy())
        self._started = time.monotonic()
        self._reserved = 0.0
        self._step_seconds = _CALL_SECONDS
        self.ended = ended
        self._begin_pace()

    def elapsed_seconds(self) -> float:
        """Of the whole run, earlier calls counted in."""
        return self._earlier_seconds + time.monotonic() - self._started

    def seconds_left(self) -> float:
        """Until the last step, by the pace so far; infinite before a pace is known."""
        of_the_limit = self._limit - self._reserved - self.elapsed_seconds()
        pace = self._pace()
        return of_the_limit if pace is None else min((self._num_steps - self.step) * pace, of_the_limit)

    def next_steps(self) -> int:
        """How many to make in one call: half a second of them, so that a signal is answered soon; 0 at the end."""
        if self.ended:
            return 0
        self._begin_last_stage_when_due()
        number = max(self._fewest_steps, round(_CALL_SECONDS / self._step_seconds))
        to_validation = self._steps_per_epoch - self.step % self._steps_per_epoch
        of_this_stage = self._num_steps - self.step
        if self.step < self._last_stage_step:
            of_this_stage = self._last_stage_step - self.step
        return min(number, to_validation, of_this_stage)

    def reserve(self, seconds: float) -> None:
        """Time to keep for the last validation and checkpoint."""
        self._reserved = seconds

    def after_steps(self, sums: StepSums) -> None:
        """Counts them."""
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
        # Not by the pace, which is no good guess just after a run is taken up.
        due = (1 - self._last_stage_share) * self._limit
        if self.step >= self._last_stage_step or self.elapsed_seconds() >= due:
            self._progress.last_stage_from.assign(self.step)
            self._begin_pace()

    def _begin_pace(self) -> None:
        self._pace_marks = [(self.step, time.monotonic())]

    def _mark_pace(self) -> None:
        begun, last = self._pace_marks[0][0], self._pace_marks[-1][0]
        if self.step - last >= _PACE_MARK_SHARE * (self.step - begun):
            self._pace_marks.append((self.step, time.monotonic()))

    def _pace(self) -> float | None:
        """Seconds a step, since the run was taken up or the last stage began; None before it is known.

        Over the later half of these steps, for the first ones of each batch shape wait for the compiler.
        """
        begun, _ = self._pace_marks[0]
        if self.step - begun < _PACE_STEPS:
            return None
        half = bisect.bisect_right(self._pace_marks, ((begun + self.step) / 2, math.inf)) - 1
        step, then = self._pace_marks[half]
        return (time.monotonic() - then) / (self.step - step)

    def record(self) -> None:
        """Puts the clock into `progress`; a run that its limit ended counts as having used all of it."""
        seconds = self.elapsed_seconds()
        unfinished = self.ended and self.step < self._num_steps
        ended_by_limit = unfinished and self._limit - self._reserved <= seconds
        self._progress.elapsed_seconds.assign(max(seconds, self._limit) if ended_by_limit else seconds)
