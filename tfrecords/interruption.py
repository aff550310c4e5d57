"""Signals that end a command at once and leave no partial files behind."""

import contextlib
import os
import signal
import sys
import threading
import types
from collections.abc import Iterator

from tfrecords.errors import Stopped

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_END_SIGNALS = (*STOP_SIGNALS, signal.SIGHUP)


class _State:
    """State of the main thread, which handles signals: how many `deferred` blocks are open, and the first signal."""

    depth = 0
    received: Stopped | None = None


def end_process(*_: object) -> None:
    """Handles Ctrl-C while a command imports its packages, when there is nothing to clean up."""
    os.write(2, b"error: stopped by SIGINT\n")
    os._exit(130)


def _ignore(number: int, _: types.FrameType | None) -> None:
    """Ignores a signal in this process only: a process started under `SIG_IGN` would inherit that."""


@contextlib.contextmanager
def stopped_at_once(outcome: str) -> Iterator[None]:
    """In the block, Ctrl-C, SIGTERM and SIGHUP raise `Stopped`: there is nothing to save. Later signals are ignored.

    Args:
        outcome: the end of its message.

    Raises:
        Stopped: also if an interrupted library raised an error of its own.
    """

    def stop(number: int, _: types.FrameType | None) -> None:
        for each in _END_SIGNALS:  # nothing interrupts the cleanup
            signal.signal(each, _ignore)
        _State.received = Stopped(number, outcome)
        if not _State.depth:
            raise _State.received

    def listen() -> None:
        for number in _END_SIGNALS:
            if before[number] is not signal.SIG_IGN:
                signal.signal(number, stop)

    def send_again(lost: "sys.UnraisableHookArgs") -> None:
        """Python ends no work for what is raised in a callback, such as those of weak references: it only prints it."""
        if not isinstance(lost.exc_value, Stopped):
            earlier_hook(lost)
            return
        listen()
        timer = threading.Timer(0.01, os.kill, (os.getpid(), lost.exc_value.exit_code - 128))
        timers.append(timer)
        timer.start()

    before = {number: signal.getsignal(number) for number in _END_SIGNALS}
    timers: list[threading.Timer] = []
    earlier_hook, sys.unraisablehook = sys.unraisablehook, send_again
    listen()
    try:
        yield
    except BaseException:
        raise_if_stopped()
        raise
    finally:
        for timer in timers:
            timer.cancel()
        sys.unraisablehook = earlier_hook
        _State.received = None
        for number in _END_SIGNALS:
            signal.signal(number, before[number])


def raise_if_stopped() -> None:
    """Raises `Stopped` again, because a library may have swallowed the first one.

    Raises:
        Stopped: a signal arrived in the block of `stopped_at_once`.
    """
    if _State.received is not None:
        raise _State.received from None


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Delays signals of `stopped_at_once` until the end of the block, for example while it creates a file."""
    _State.depth += 1
    try:
        yield
    finally:
        _State.depth -= 1
    if not _State.depth:
        raise_if_stopped()
