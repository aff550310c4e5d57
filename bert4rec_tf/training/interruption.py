"""Stop signals that end a training run between two steps."""

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
    """In a `with` block, remembers the first Ctrl-C or SIGTERM. A second one runs the handler from before the block.

    The block reads `received` between two steps, and calls `stop_if_received` at points where it can be interrupted.
    Inside a call of TensorFlow it can do neither. A thread therefore ends the process if no `acknowledge` follows
    within `limit_seconds`, or when a second signal comes. Checkpoints appear only when complete, so the last one stays
    usable.

    Args:
        limit_seconds: the most time from a signal to `acknowledge`.
        end: ends the process with an exit code at any moment, also while the main thread is inside TensorFlow.

    Attributes:
        received: the number of the first signal; None before.
    """

    def __init__(self, limit_seconds: float = 60.0, end: Callable[[int], object] = os._exit) -> None:
        self.received: int | None = None
        self._limit_seconds, self._end = limit_seconds, end
        self._acknowledged = threading.Event()

    def __enter__(self) -> "StopSignals":
        self._earlier_handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        for number in STOP_SIGNALS:
            if self._earlier_handlers[number] is not signal.SIG_IGN:
                signal.signal(number, self._remember)
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)
        self._earlier_wakeup_fd = signal.set_wakeup_fd(self._write_end)
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *error: object) -> None:
        signal.set_wakeup_fd(self._earlier_wakeup_fd)
        for number, handler in self._earlier_handlers.items():
            signal.signal(number, handler)
        self.acknowledge()
        os.close(self._write_end)  # ends the thread's reading
        self._watcher.join()
        os.close(self._read_end)

    def stop_if_received(self) -> None:
        """Ends the caller's work if a signal was received.

        Raises:
            Stopped: a signal was received.
        """
        if self.received is not None:
            raise Stopped(self.received)

    def acknowledge(self) -> None:
        """Reports that the signal is being handled; from now on, no time limit applies."""
        self._acknowledged.set()

    def _remember(self, number: int, frame: types.FrameType | None) -> None:
        self.received = number
        for each in STOP_SIGNALS:
            signal.signal(each, self._earlier_handlers[each])

    def _watch(self) -> None:
        first = self._next_signal(None)
        if first is None:
            return
        deadline = time.monotonic() + self._limit_seconds
        while not self._acknowledged.is_set() and (left := deadline - time.monotonic()) > 0:
            if self._next_signal(min(left, 0.2)) is not None:
                break
        if not self._acknowledged.is_set():
            stopped = Stopped(
                first, "in the middle of a step; the last checkpoint is kept. Run the same command to resume"
            )
            print(f"error: {stopped}", file=sys.stderr, flush=True)
            self._end(stopped.exit_code)

    def _next_signal(self, seconds: float | None) -> int | None:
        """Waits for the next stop signal; None if the time is up or the block ended."""
        if not select.select([self._read_end], [], [], seconds)[0]:
            return None
        for number in os.read(self._read_end, 64):
            if number in STOP_SIGNALS:
                return number
        return None
