"""Signals that end a command at once, with nothing half written left behind."""

import contextlib
import signal
import types
from collections.abc import Iterator

from tfrecords.errors import Stopped

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_END_SIGNALS = (*STOP_SIGNALS, signal.SIGHUP)


class _State:
    """Of the main thread, which alone handles signals: the `deferred` blocks it is in, and the first signal."""

    depth = 0
    received: Stopped | None = None


@contextlib.contextmanager
def stopped_at_once(outcome: str) -> Iterator[None]:
    """In the block, Ctrl-C, SIGTERM and SIGHUP raise `Stopped`, for there is nothing to save. Later ones are ignored.

    Args:
        outcome: how its message ends.

    Raises:
        Stopped: also in place of the error that an interrupted library raises.
    """

    def stop(number: int, _: types.FrameType | None) -> None:
        for each in _END_SIGNALS:  # nothing interrupts the cleaning up
            signal.signal(each, signal.SIG_IGN)
        _State.received = Stopped(number, outcome)
        if not _State.depth:
            raise _State.received

    before = {number: signal.getsignal(number) for number in _END_SIGNALS}
    for number in _END_SIGNALS:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    except BaseException:
        raise_if_stopped()
        raise
    finally:
        _State.received = None
        for number in _END_SIGNALS:
            signal.signal(number, before[number])


def raise_if_stopped() -> None:
    """Raises `Stopped` again, where a library may have taken the first one for an error of its own.

    Raises:
        Stopped: there was a signal in the block of `stopped_at_once`.
    """
    if _State.received is not None:
        raise _State.received from None


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Has a signal of `stopped_at_once` wait until the block is done, such as one that makes or removes a file."""
    _State.depth += 1
    try:
        yield
    finally:
        _State.depth -= 1
    if not _State.depth:
        raise_if_stopped()
