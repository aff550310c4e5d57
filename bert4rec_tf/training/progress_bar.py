"""What a run shows while it trains: a progress line, and the training curves."""

import math
import sys
import time

from tqdm import tqdm

from bert4rec_tf.training.curves import Curves
from bert4rec_tf.training.run_clock import RunClock
from bert4rec_tf.training.run_context import RunContext
from bert4rec_tf.training.steps import StepSums

_SCALAR_STEPS = 50  # steps between two points of the training curves
_LOG_SECONDS = 15.0  # between two lines of a log file


class ProgressBar:
    """Shows a line with step, loss, pace, best validation and time left; adds to the training curves.

    On a terminal the line is overwritten; in a log file a new line is written every 15 seconds.

    Args:
        context: the run.
        clock: the run's clock.
        curves: of the run.
    """

    def __init__(self, context: RunContext, clock: RunClock, curves: Curves):
        self._context, self._clock, self._curves = context, clock, curves
        self._bar = tqdm(bar_format="{desc}", disable=not sys.stderr.isatty(), mininterval=0.3, file=sys.stderr)
        self._smooth_loss = math.nan
        self._last_line = time.monotonic()
        self.begin_epoch()

    def after_steps(self, sums: StepSums) -> None:
        """Updates the line, and adds a point to the curves every 50 steps."""
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
            self.print_above(self._line())
            self._last_line = time.monotonic()
        if self._clock.step // _SCALAR_STEPS > (self._clock.step - sums.steps) // _SCALAR_STEPS:
            points = {
                "loss": self._smooth_loss,
                "learning_rate": self._context.learning_rate(),
                "items_per_second": self.items_per_second(),
                "input_wait_share": self.input_wait_share(),
            }
            self._curves.add(self._clock.step, points)

    def items_per_second(self) -> float:
        """Items trained on per second since the epoch began, padding excluded."""
        return self._items / max(time.monotonic() - self._since, 1e-9)

    def input_wait_share(self) -> float:
        """The share of the steps' time spent waiting for batches, since the epoch began."""
        return self._input_seconds / max(self._seconds, 1e-9)

    def epoch_loss(self) -> float | None:
        """Mean over the epoch's masked items; None if no step was made, as when a run resumes at an epoch's end."""
        return self._loss / self._weight if self._weight else None

    def print_above(self, text: str) -> None:
        """Prints a line above the bar."""
        tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Stops updating the line."""
        self._bar.close()

    def begin_epoch(self) -> None:
        """Starts the epoch's loss, pace and input wait from zero."""
        self._items, self._loss, self._weight = 0.0, 0.0, 0.0
        self._seconds, self._input_seconds = 0.0, 0.0
        self._since = time.monotonic()

    def _line(self) -> str:
        progress, left = self._context.progress, self._clock.seconds_left()
        ends = "" if math.isinf(left) else f", {max(left, 0) / 60:.1f} min left"
        best = float(progress.best_ndcg.numpy())
        seen = f", best NDCG@10 {best:.4f}" if best >= 0 else ""
        return (
            f"step {self._clock.step:,}/{int(progress.total_steps.numpy()):,}, loss {self._smooth_loss:.4f}, "
            f"{self.items_per_second():,.0f} items/s, "
            f"{self.input_wait_share():.1%} waiting for input{seen}{ends}"
        )
