"""A signal ends a build at any moment: it prints one line, exits with the shell's code, and leaves no files."""

import contextlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from pipelines.staging import staged
from tests.support.command_line import ROOT
from tfrecords.errors import Stopped
from tfrecords.interruption import deferred, raise_if_stopped, stopped_at_once

COMMAND = [sys.executable, str(ROOT / "pipelines" / "make_tfrecords.py"), "--num_workers=2", "--set=data.num_shards=24"]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A CSV that the engine reads first, and one that is read line by line."""
    directory, draw = tmp_path_factory.mktemp("signals"), random.Random(1)
    for name, quoted in (("plain.csv", ""), ("quoted.csv", '"a ""b"""')):
        rows = [f"u{draw.randrange(4000)},i{draw.randrange(500)},{time_},{quoted}\n" for time_ in range(60_000)]
        (directory / name).write_text("user_id,item_id,timestamp,note\n" + "".join(rows))
    return directory


NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def restore_default_signals() -> None:
    """Undoes settings of a parent: shells let background processes ignore Ctrl-C, and nohup does so for SIGHUP."""
    for number in NUMBERS:
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def nothing_ignored() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in NUMBERS}
    restore_default_signals()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def start(log: pathlib.Path, output_dir: pathlib.Path) -> "subprocess.Popen[str]":
    """Starts the command as a terminal does: with its workers in a process group of their own."""
    return subprocess.Popen(
        [*COMMAND, f"--input={log}/*.csv", f"--output_dir={output_dir}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=restore_default_signals,
    )


def check_stopped(process: "subprocess.Popen[str]", number: int, directory: pathlib.Path) -> bool:
    """Checks how the build ended, if the signal came before the build was done; returns whether it did."""
    _, stderr = process.communicate(timeout=300)
    if (directory / "data").exists():
        return False
    assert process.returncode == 128 + number, stderr
    assert len(stderr.splitlines()) == 1, stderr
    assert stderr.startswith(f"error: stopped by {signal.Signals(number).name}"), stderr
    assert not list(directory.iterdir())
    return True


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_ends_a_build_in_one_line(log: pathlib.Path, tmp_path: pathlib.Path, number: int) -> None:
    process = start(log, tmp_path / "data")
    deadline = time.monotonic() + 120
    while not (tmp_path / ".data.building").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(0.1)
    os.killpg(process.pid, number)
    assert check_stopped(process, number, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("group", [True, False], ids=["the group", "the command alone"])
@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_ends_a_build_at_any_moment(
    log: pathlib.Path, tmp_path: pathlib.Path, number: int, group: bool
) -> None:
    started = time.monotonic()
    assert start(log, tmp_path / "whole").wait() == 0
    seconds, ended = time.monotonic() - started, 0
    for moment in range(20):
        directory = tmp_path / str(moment)
        directory.mkdir()
        process = start(log, directory / "data")
        while not list(directory.iterdir()) and process.poll() is None:
            time.sleep(0.002)
        time.sleep(seconds * moment / 25)
        if process.poll() is None:
            (os.killpg if group else os.kill)(process.pid, number)
        ended += check_stopped(process, number, directory)
    assert ended >= 10


BUILD = """
import os, pathlib, signal, time

from pipelines.engines import duckdb_engine
from tfrecords.errors import Stopped
from tfrecords.interruption import stopped_at_once


def build(function):
    duckdb_engine.stream_shards = lambda connection, num_shards: iter(range(num_shards))
    try:
        with stopped_at_once(""), duckdb_engine.DuckDBEngine(pathlib.Path("spill"), num_workers=2) as engine:
            engine._num_shards = 9
            list(engine.map_shards(function))
    except Stopped:
        print("stopped")
"""

STARTING_A_WORKER = """
import multiprocessing.forkserver
from concurrent.futures import ProcessPoolExecutor


class Pool(ProcessPoolExecutor):
    submitted = 0

    def submit(self, *args):
        Pool.submitted += 1
        if Pool.submitted == 2:
            time.sleep(1)  # the first worker waits for the next shard, and holds the lock of the queue
            assert self._idle_worker_semaphore.acquire(blocking=False)  # as if it were at work: starts a second worker
            os.killpg(0, signal.SIGTERM)
            os.waitid(os.P_PID, multiprocessing.forkserver._forkserver._forkserver_pid, os.WEXITED | os.WNOWAIT)
        return super().submit(*args)


if __name__ == "__main__":
    duckdb_engine.ProcessPoolExecutor = Pool
    build(abs)
"""

SENDING_A_RESULT = """
import struct, sys, threading

SENDING = pathlib.Path("sending")


def send_half(shard):
    frame = sys._getframe()
    while "result_queue" not in frame.f_locals:
        frame = frame.f_back
    os.write(frame.f_locals["result_queue"]._writer.fileno(), struct.pack("!i", 1 << 20))  # the size of a message
    SENDING.touch()
    time.sleep(600)


def stop():
    while not SENDING.exists():
        time.sleep(0.01)
    time.sleep(0.5)  # until the pool waits for the message
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=stop).start()
    build(send_half)
"""


@pytest.mark.parametrize("code", [STARTING_A_WORKER, SENDING_A_RESULT], ids=["it starts", "it sends its result"])
def test_a_signal_ends_a_build_whatever_a_worker_does(tmp_path: pathlib.Path, code: str) -> None:
    """A worker starts just after the signal, or is killed while it sends its result."""
    script = tmp_path / "script.py"
    script.write_text(BUILD + code)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, script], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            assert process.communicate(timeout=60)[0] == b"stopped\n"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0


def test_a_process_that_starts_after_the_signal_does_not_ignore_signals() -> None:
    handlers = "import signal; print([signal.getsignal(n) == signal.SIG_DFL for n in (signal.SIGTERM, signal.SIGHUP)])"
    printed = []

    def work() -> None:
        with stopped_at_once("while it slept"), deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGHUP)
            printed.append(subprocess.run([sys.executable, "-c", handlers], capture_output=True, check=True).stdout)

    with pytest.raises(Stopped, match="SIGTERM"):
        work()
    assert printed == [b"[True, True]\n"]


def test_a_deferred_block_is_finished_before_the_signal_is_raised() -> None:
    done = []

    def work() -> None:
        with stopped_at_once("while it slept"):
            with deferred():
                os.kill(os.getpid(), signal.SIGTERM)
                done.append("the block")
            done.append("what follows")

    with pytest.raises(Stopped, match="SIGTERM while it slept") as error:
        work()
    assert done == ["the block"]
    assert error.value.exit_code == 143


def test_an_error_of_an_interrupted_library_becomes_the_signal() -> None:
    def work() -> None:
        with stopped_at_once("while it slept"):
            try:
                os.kill(os.getpid(), signal.SIGHUP)
                time.sleep(1)
            except Stopped:
                raise RuntimeError("query interrupted") from None

    with pytest.raises(Stopped, match="SIGHUP"):
        work()


def test_a_signal_in_a_callback_is_raised_after_it(capfd: pytest.CaptureFixture[str]) -> None:
    class Owner:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)

    def work() -> None:
        with stopped_at_once("while it slept"):
            Owner()  # lives until the end of this line
            time.sleep(60)

    before, started = sys.unraisablehook, time.monotonic()
    with pytest.raises(Stopped, match="SIGTERM"):
        work()
    assert time.monotonic() - started < 30
    assert capfd.readouterr().err == ""
    assert sys.unraisablehook is before


def test_other_errors_in_callbacks_are_printed_as_before(capfd: pytest.CaptureFixture[str]) -> None:
    class Owner:
        def __del__(self) -> None:
            raise ValueError("a mistake in a callback")

    unpatched, sys.unraisablehook = sys.unraisablehook, sys.__unraisablehook__  # pytest collects them
    try:
        with stopped_at_once("while it slept"):
            Owner()
    finally:
        sys.unraisablehook = unpatched
    assert "ValueError: a mistake in a callback" in capfd.readouterr().err


def test_a_signal_that_a_library_swallows_is_raised_later(tmp_path: pathlib.Path) -> None:
    def work() -> None:
        with stopped_at_once("while it built"), staged(tmp_path / "data", overwrite=False) as building:
            (building / "whole").write_text("whole")
            with contextlib.suppress(Stopped):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(1)

    with pytest.raises(Stopped, match="SIGINT"):
        work()
    assert not list(tmp_path.iterdir())
    raise_if_stopped()


def test_a_signal_leaves_no_lock_and_no_temporary_directory(tmp_path: pathlib.Path) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def work() -> None:
        with stopped_at_once("while it built"), staged(tmp_path / "data", overwrite=False) as building:
            (building / "half").write_text("half")
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)

    with pytest.raises(Stopped):
        work()
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is before
