"""Ends a run between two steps when the process is told to end: whatever is saved then is a whole step."""

import signal
import types


class StopSignals:
    """While in a `with` block, remembers the first Ctrl-C or SIGTERM; a second one does what it always does."""

    _NUMBERS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.received: int | None = None

    def __enter__(self) -> "StopSignals":
        self._before = {number: signal.getsignal(number) for number in self._NUMBERS}
        for number in self._NUMBERS:
            if self._before[number] is not signal.SIG_IGN:
                signal.signal(number, self._remember)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: types.FrameType | None) -> None:
        self.received = number
        for each in self._NUMBERS:
            signal.signal(each, self._before[each])
