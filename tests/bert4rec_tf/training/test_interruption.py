"""How a training process handles Ctrl-C and SIGTERM, between steps and inside one."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from bert4rec_tf.training.interruption import StopSignals
from tfrecords.errors import Stopped


@pytest.fixture(autouse=True)
def own_handler() -> Iterator[list[int]]:
    """Records the signals that reach the test process, which would end it otherwise."""
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    yield received
    signal.signal(signal.SIGTERM, before)


def test_a_signal_is_remembered_until_it_is_checked(own_handler: list[int]) -> None:
    ended: list[int] = []
    with StopSignals(end=ended.append) as signals:
        signals.stop_if_received()
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGTERM
        with pytest.raises(Stopped, match="stopped by SIGTERM and saved") as stopped:
            signals.stop_if_received()
        assert stopped.value.exit_code == 143
        signals.acknowledge()
        assert not own_handler
        os.kill(os.getpid(), signal.SIGTERM)
        assert own_handler == [signal.SIGTERM], "a second signal runs the earlier handler"
    os.kill(os.getpid(), signal.SIGTERM)
    assert own_handler == [signal.SIGTERM] * 2
    assert not ended


@pytest.mark.parametrize("limit_seconds", [0.0, 0.3])
def test_an_unacknowledged_signal_ends_the_process(limit_seconds: float, capsys: pytest.CaptureFixture[str]) -> None:
    ended, done = [], threading.Event()
    with StopSignals(limit_seconds, end=lambda code: (ended.append(code), done.set())):
        os.kill(os.getpid(), signal.SIGTERM)
        assert done.wait(10)
    assert ended == [143]
    assert "stopped by SIGTERM in the middle of a step; the last checkpoint is kept" in capsys.readouterr().err


def test_a_second_signal_does_not_wait_for_the_limit() -> None:
    ended, done = [], threading.Event()
    with StopSignals(1e6, end=lambda code: (ended.append(code), done.set())):
        os.kill(os.getpid(), signal.SIGTERM)
        assert not done.wait(0.1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert done.wait(10)
    assert ended == [143]


def test_a_signal_that_is_acknowledged_in_time_ends_nothing() -> None:
    ended: list[int] = []
    with StopSignals(0.3, end=ended.append) as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        signals.acknowledge()
        threading.Event().wait(0.6)
    assert not ended
