"""The processes of a cluster: reads them from TF_CONFIG, and waits until all of them have started.

TensorFlow waits for its peers in C++, without a message, a time limit or a reaction to signals. This module therefore
waits first, in Python, and a thread watches the calls of TensorFlow that still wait.
"""

import contextlib
import ctypes
import dataclasses
import json
import os
import pathlib
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import tensorflow as tf

from tfrecords.errors import InputError, PeerLost, Stopped
from tfrecords.interruption import STOP_SIGNALS

DEFAULT_TIMEOUT_MINUTES = 10.0
_JOBS = {"multi_worker_mirrored": {"chief", "worker"}, "parameter_server": {"chief", "worker", "ps"}}
_NEEDED_JOBS = {"multi_worker_mirrored": {"worker"}, "parameter_server": {"chief", "worker", "ps"}}
_POLL_SECONDS, _MESSAGE_SECONDS, _CONNECT_SECONDS = 1.0, 60.0, 2.0


@dataclasses.dataclass(frozen=True)
class Task:
    """One process of a cluster."""

    job: str
    index: int
    address: str

    def __str__(self) -> str:
        return f"{self.address} ({self.job} {self.index})"

    def host_and_port(self) -> tuple[str, int]:
        """The host and the port of the address; the host without the brackets of an IPv6 address."""
        host, _, port = self.address.rpartition(":")
        return host.removeprefix("[").removesuffix("]"), int(port)


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A cluster as TF_CONFIG describes it.

    Attributes:
        tasks: all processes.
        own: this process.
        peers: the processes that this process needs to start.
    """

    tasks: tuple[Task, ...]
    own: Task
    peers: tuple[Task, ...]


def read_cluster(strategy: str, text: str) -> Cluster:
    """Reads the TF_CONFIG of a strategy.

    Raises:
        InputError: TF_CONFIG does not fit the strategy.
    """
    try:
        tasks, own = _tasks(strategy, json.loads(text) if text else None)
    except json.JSONDecodeError as error:
        raise _unusable(strategy, text, f"no JSON: {error.msg} at character {error.pos}") from None
    except _UnusableError as error:
        raise _unusable(strategy, text, str(error)) from None
    others = [task for task in tasks if task != own]
    if strategy == "parameter_server" and own.job != "chief":  # a restarted worker must not wait for the other workers
        others = [task for task in others if task.job == "chief"]
    return Cluster(tuple(tasks), own, tuple(others))


class _UnusableError(Exception):
    """Describes what is wrong with a TF_CONFIG."""


def _tasks(strategy: str, config: Any) -> tuple[list[Task], Task]:
    if not config:
        raise _UnusableError("nothing is set")
    if not isinstance(config, dict) or not isinstance(config.get("cluster"), dict):
        raise _UnusableError('no "cluster"')
    jobs, known, needed = config["cluster"], _JOBS[strategy], _NEEDED_JOBS[strategy]
    if not needed <= set(jobs) <= known:
        raise _UnusableError(f"the jobs are {', '.join(sorted(jobs)) or 'none'}")
    for job, addresses in jobs.items():
        if not isinstance(addresses, list) or not addresses or not all(map(_is_address, addresses)):
            raise _UnusableError(f"the addresses of {job} are not all host:port")
    if len(jobs.get("chief", [""])) != 1:
        raise _UnusableError("more than one chief")
    tasks = [Task(job, index, address) for job, addresses in jobs.items() for index, address in enumerate(addresses)]
    addresses = [task.address for task in tasks]
    if twice := sorted({address for address in addresses if addresses.count(address) > 1}):
        raise _UnusableError(f"two tasks have the address {twice[0]}")
    task = config.get("task")
    if not isinstance(task, dict) or not {"type", "index"} <= task.keys():
        raise _UnusableError('no "task" with a "type" and an "index"')
    own = [one for one in tasks if (one.job, one.index) == (task["type"], task["index"])]
    if not own or isinstance(task["index"], bool):
        raise _UnusableError(f"the task is {task['type']!r} {task['index']!r}, which is not in the cluster")
    return tasks, own[0]


def _is_address(address: Any) -> bool:
    if not isinstance(address, str):
        return False
    host, _, port = address.rpartition(":")
    return bool(host) and "/" not in host and port.isdecimal() and 1 <= int(port) <= 65535


def _unusable(strategy: str, text: str, reason: str) -> InputError:
    return InputError(
        f"--strategy={strategy} needs TF_CONFIG with a cluster of {', '.join(sorted(_NEEDED_JOBS[strategy]))} and this "
        f'process\'s task. Received: {text or "none"} ({reason}). Fix: see "Many machines" in docs/distributed.md'
    )


def wait_for_peers(
    cluster: Cluster,
    timeout_minutes: float,
    is_listening: Callable[[Task], bool] | None = None,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Waits until all peers listen at their addresses. Prints a message immediately and then every minute.

    Meanwhile this process listens at its own address, because the peers wait for it too. TensorFlow's server takes over
    the port later.

    Args:
        cluster: from `read_cluster`.
        timeout_minutes: the longest wait.
        is_listening: whether a peer can be reached; None: try a TCP connection.
        now: the clock, in seconds.
        sleep: waits between two checks of the peers.

    Raises:
        InputError: this process's own port is taken.
        PeerLost: a peer is still missing when the time is up.
    """
    started, last_message = now(), None
    with _listening(cluster.own), ThreadPoolExecutor(max_workers=32) as threads:
        while missing := missing_peers(cluster, is_listening or _accepts, threads):
            waited = now() - started
            if waited >= 60 * timeout_minutes:
                raise PeerLost(_too_late(cluster, missing, timeout_minutes))
            if last_message is None or now() - last_message >= _MESSAGE_SECONDS:
                last_message = now()
                since = f"after {waited / 60:.0f} of" if waited >= _MESSAGE_SECONDS else "for"
                log(f"{_waiting(cluster, missing)}, {since} at most {timeout_minutes:g} minutes")
            sleep(_POLL_SECONDS)


def missing_peers(cluster: Cluster, is_listening: Callable[[Task], bool], threads: ThreadPoolExecutor) -> list[Task]:
    """The peers that cannot be reached now."""
    reached = threads.map(is_listening, cluster.peers)
    return [peer for peer, there in zip(cluster.peers, reached, strict=True) if not there]


def log(text: str) -> None:
    """Prints a line on stderr immediately."""
    print(text, file=sys.stderr, flush=True)


def _names(tasks: list[Task]) -> str:
    shown = ", ".join(map(str, tasks[:5]))
    return shown if len(tasks) <= 5 else f"{shown} and {len(tasks) - 5} more"


def _count(cluster: Cluster, missing: list[Task]) -> str:
    needed = len(cluster.peers) + 1
    return f"{needed - len(missing)} of {needed} processes are there"


def _waiting(cluster: Cluster, missing: list[Task]) -> str:
    return f"waiting for {_names(missing)}; {_count(cluster, missing)}"


def _too_late(cluster: Cluster, missing: list[Task], timeout_minutes: float) -> str:
    return (
        f"All processes of TF_CONFIG must start within --cluster_timeout_minutes={timeout_minutes:g}. Received: no "
        f"answer from {_names(missing)}; {_count(cluster, missing)}. Fix: start the same command on each machine, "
        "check that these addresses can be reached from here, or raise --cluster_timeout_minutes"
    )


def _accepts(task: Task) -> bool:
    try:
        socket.create_connection(task.host_and_port(), timeout=_CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _listening(own: Task) -> Iterator[None]:
    _, port = own.host_and_port()
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        # The peers' connections are never accepted here: it is enough that the kernel completes them.
        server = socket.create_server(("", port), family=family, dualstack_ipv6=dual, backlog=4096)
    except OSError as error:
        raise InputError(
            f"This process's own address in TF_CONFIG must be free. Received: {own}: {error.strerror or error}. "
            "Fix: end the process that uses the port, or name another one on every machine"
        ) from None
    with server:
        yield


@contextlib.contextmanager
def watched_start(cluster: Cluster, timeout_minutes: float) -> Iterator[None]:
    """Watches TensorFlow while it connects to the peers: one of them may have ended after all were there.

    While the main thread is inside TensorFlow, no Python handler runs. A thread handles SIGTERM and Ctrl-C, prints the
    missing peers every minute, and ends this process when the time is up. No work is lost: the training has not begun.
    """
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    ended = threading.Event()
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    watched = [number for number, handler in handlers.items() if handler is not signal.SIG_IGN]
    for number in watched:
        signal.signal(number, lambda *_: None)  # the thread reads the signals from the wakeup descriptor
    before = signal.set_wakeup_fd(write_end)
    watch = threading.Thread(target=_watch, args=(cluster, timeout_minutes, read_end, watched, ended), daemon=True)
    watch.start()
    try:
        with _released_interpreter_lock():
            yield
    finally:
        ended.set()
        watch.join()
        signal.set_wakeup_fd(before)
        for number in watched:
            signal.signal(number, handlers[number])
        os.close(read_end)
        os.close(write_end)


def _watch(
    cluster: Cluster, timeout_minutes: float, signals: int, watched: list[signal.Signals], ended: threading.Event
) -> None:
    started = last_message = time.monotonic()
    handlers = {number: _c_handler(number) for number in watched}
    with ThreadPoolExecutor(max_workers=32) as threads:
        while not ended.is_set():
            for number, handler in handlers.items():
                _LIBC.signal(number, handler)  # TensorFlow replaces Python's handler by its own
            if select.select([signals], [], [], 0.2)[0]:
                received = os.read(signals, 1)[0]
                if received in watched:
                    stopped = Stopped(received, "while the cluster started; run the same command again")
                    log(f"error: {stopped}")
                    os._exit(stopped.exit_code)
            now = time.monotonic()
            if now - last_message >= _MESSAGE_SECONDS:
                last_message = now
                missing = missing_peers(cluster, _accepts, threads)
                log(_waiting(cluster, missing) if missing else "waiting for the peers to connect; all of them listen")
            if now - started >= 60 * timeout_minutes:
                missing = missing_peers(cluster, _accepts, threads)
                log(f"error: {_too_late(cluster, missing or list(cluster.peers), timeout_minutes)}")
                os._exit(PeerLost.exit_code)


_LIBC = ctypes.CDLL(None)
_LIBC.signal.restype, _LIBC.signal.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]


def _c_handler(number: int) -> int | None:
    """The address of the handler that the kernel calls for a signal."""
    handler = _LIBC.signal(number, signal.SIG_DFL)
    _LIBC.signal(number, handler)
    return handler


@contextlib.contextmanager
def _released_interpreter_lock() -> Iterator[None]:
    """In the block, the two TensorFlow calls that wait for peers release Python's lock, which they hold otherwise."""
    from tensorflow.python import pywrap_tfe

    library = ctypes.CDLL(str(pathlib.Path(tf.__file__).parent / "libtensorflow_cc.so.2"))
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    library.TF_NewStatus.restype = pointer
    library.TF_DeleteStatus.argtypes = library.TF_GetCode.argtypes = library.TF_Message.argtypes = [pointer]
    library.TF_Message.restype = ctypes.c_char_p
    library.TFE_EnableCollectiveOps.argtypes = [pointer, ctypes.c_char_p, size, pointer]
    connect = library.TFE_ContextSetServerDefWithTimeoutAndRetries
    connect.argtypes = [pointer, ctypes.c_int, ctypes.c_char_p, size, ctypes.c_int64, ctypes.c_int, pointer,
                        ctypes.c_bool]  # fmt: skip
    address = ctypes.pythonapi.PyCapsule_GetPointer
    address.restype, address.argtypes = pointer, [ctypes.py_object, ctypes.c_char_p]

    def checked(call: Callable[[int], None]) -> None:
        status = library.TF_NewStatus()
        try:
            call(status)
            if code := library.TF_GetCode(status):
                message = library.TF_Message(status).decode(errors="replace")
                raise tf.compat.v1.errors.exception_type_from_error_code(code)(None, None, message)
        finally:
            library.TF_DeleteStatus(status)

    def enable_collective_ops(context: object, server: bytes) -> None:
        checked(lambda status: library.TFE_EnableCollectiveOps(address(context, None), server, len(server), status))

    def set_server_def(context: object, keep_alive: int, server: bytes, timeout: int, retries: int) -> None:
        checked(
            lambda status: connect(
                address(context, None), keep_alive, server, len(server), timeout, retries, status, False
            )
        )

    replaced = {
        "TFE_EnableCollectiveOps": enable_collective_ops,
        "TFE_ContextSetServerDefWithTimeoutAndRetries": set_server_def,
    }
    originals = {name: getattr(pywrap_tfe, name) for name in replaced}
    for name, function in replaced.items():
        setattr(pywrap_tfe, name, function)
    try:
        yield
    finally:
        for name, function in originals.items():
            setattr(pywrap_tfe, name, function)
