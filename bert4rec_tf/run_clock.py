"""How many steps come next, and when a run ends: at its last step or in time."""

import math
import time

from bert4rec_tf.model_dir import Progress
from bert4rec_tf.steps import StepSums

_PACE_STEPS = 10  # steps before the pace is believed
_CALL_SECONDS = 0.5


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
