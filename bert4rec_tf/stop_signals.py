"""Ends a run between two steps when the process is told to end: whatever is saved then is a whole step."""

import contextlib
import signal
import types
from collections.abc import Iterator

from bert4rec_tf.errors import Stopped

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def stopped_at_once(outcome: str) -> Iterator[None]:
    """In the block, Ctrl-C and SIGTERM raise `Stopped`, for there is nothing to save.

    Args:
        outcome: how its message ends.
    """

    def stop(number: int, _: types.FrameType | None) -> None:
        raise Stopped(number, outcome)

    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number in STOP_SIGNALS:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number in STOP_SIGNALS:
            signal.signal(number, before[number])


class StopSignals:
    """While in a `with` block, remembers the first Ctrl-C or SIGTERM; a second one does what it always does."""

    def __init__(self) -> None:
        self.received: int | None = None

    def __enter__(self) -> "StopSignals":
        self._before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        for number in STOP_SIGNALS:
            if self._before[number] is not signal.SIG_IGN:
                signal.signal(number, self._remember)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: types.FrameType | None) -> None:
        self.received = number
        for each in STOP_SIGNALS:
            signal.signal(each, self._before[each])
