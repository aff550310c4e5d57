"""Signals that end a training run between two steps."""

import os
import select
import signal
import sys
import threading
import time
import types
from collections.abc import Callable

from tfrecords.errors import Stopped
from tfrecords.interruption import STOP_SIGNALS


class StopSignals:
    """While in a `with` block, remembers the first Ctrl-C or SIGTERM; a second one does what it always does.

    The block looks at `received` between two steps, and calls `stop_if_received` where it can be cut short. Inside a
    call of TensorFlow it can do neither: then a thread ends the process after `limit_seconds`, or at a second signal.
    Checkpoints appear whole, so the last one stays good.

    Args:
        limit_seconds: from a signal until `acknowledge`.
        end: ends the process with an exit code, wherever the main thread is.
    """

    def __init__(self, limit_seconds: float = 60.0, end: Callable[[int], object] = os._exit) -> None:
        self.received: int | None = None
        self._limit_seconds, self._end = limit_seconds, end
        self._acknowledged = threading.Event()

    def __enter__(self) -> "StopSignals":
        self._before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        for number in STOP_SIGNALS:
            if self._before[number] is not signal.SIG_IGN:
                signal.signal(number, self._remember)
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)
        self._wakeup_before = signal.set_wakeup_fd(self._write_end)
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *error: object) -> None:
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self.acknowledge()
        os.close(self._write_end)  # ends the thread's reading
        self._watcher.join()
        os.close(self._read_end)

    def stop_if_received(self) -> None:
        """Cuts the caller's work short.

        Raises:
            Stopped: a signal was received.
        """
        if self.received is not None:
            raise Stopped(self.received)

    def acknowledge(self) -> None:
        """Tells that the signal is being answered: what follows takes as long as it takes."""
        self._acknowledged.set()

    def _remember(self, number: int, frame: types.FrameType | None) -> None:
        self.received = number
        for each in STOP_SIGNALS:
            signal.signal(each, self._before[each])

    def _watch(self) -> None:
        first = self._next_signal(None)
        if first is None:
            return
        ends = time.monotonic() + self._limit_seconds
        while not self._acknowledged.is_set() and (left := ends - time.monotonic()) > 0:
            if self._next_signal(min(left, 0.2)) is not None:
                break
        if not self._acknowledged.is_set():
            stopped = Stopped(
                first, "in the middle of a step; the last checkpoint is kept, and the same command again goes on"
            )
            print(f"error: {stopped}", file=sys.stderr, flush=True)
            self._end(stopped.exit_code)

    def _next_signal(self, seconds: float | None) -> int | None:
        """The next stop signal; None where the time is up or the block ended."""
        if not select.select([self._read_end], [], [], seconds)[0]:
            return None
        for number in os.read(self._read_end, 64):
            if number in STOP_SIGNALS:
                return number
        return None
