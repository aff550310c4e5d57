"""Reading TF_CONFIG, and waiting for the processes of a cluster: with simulated peers and clock, on loopback only."""

import json
import os
import signal
import socket
from collections.abc import Callable

import pytest

from bert4rec_tf.training.cluster import Cluster, Task, read_cluster, wait_for_peers
from bert4rec_tf.training.strategy import make_strategy
from tfrecords.errors import InputError, PeerLost, Stopped
from tfrecords.interruption import stopped_at_once

WORKERS = {"worker": ["localhost:1001", "localhost:1002", "[::1]:1003"]}
SERVERS = {"chief": ["localhost:1001"], "worker": ["localhost:1002", "localhost:1003"], "ps": ["localhost:1004"]}


def config(jobs: object, job: object = "worker", index: object = 0) -> str:
    return json.dumps({"cluster": jobs, "task": {"type": job, "index": index}})


def free_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


def cluster_of_three() -> Cluster:
    """This process at a free port, and two simulated peers."""
    jobs = {"worker": [f"localhost:{free_port()}", "localhost:1002", "localhost:1003"]}
    return read_cluster("multi_worker_mirrored", config(jobs))


class Clock:
    """A clock that moves only in `sleep`, which then calls `act` with the seconds so far."""

    def __init__(self, act: Callable[[float], object] = lambda _: None):
        self.seconds, self._act = 1000.0, act

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self._act(self.seconds - 1000.0)


def test_each_worker_needs_all_others() -> None:
    cluster = read_cluster("multi_worker_mirrored", config(WORKERS, index=1))
    assert cluster.own == Task("worker", 1, "localhost:1002")
    assert [peer.host_and_port() for peer in cluster.peers] == [("localhost", 1001), ("::1", 1003)]


@pytest.mark.parametrize(
    ("job", "needed"),
    [("chief", ["worker 0", "worker 1", "ps 0"]), ("worker", ["chief 0"]), ("ps", ["chief 0"])],
)
def test_the_chief_needs_all_others_and_they_need_only_the_chief(job: str, needed: list[str]) -> None:
    cluster = read_cluster("parameter_server", config(SERVERS, job))
    assert [f"{peer.job} {peer.index}" for peer in cluster.peers] == needed


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "nothing is set"),
        ("{}", "nothing is set"),
        ('{"cluster"', "no JSON: .* at character 10"),
        ("3", 'no "cluster"'),
        (json.dumps({"task": {"type": "worker", "index": 0}}), 'no "cluster"'),
        (json.dumps({"cluster": WORKERS}), 'no "task"'),
        (json.dumps({"cluster": WORKERS, "task": {"type": "worker"}}), 'no "task"'),
        (config({}), "the jobs are none"),
        (config(WORKERS | {"evaluator": ["a:1"]}), "the jobs are evaluator, worker"),
        (config({"chief": ["a:1"]}, "chief"), "the jobs are chief"),
        (config({"worker": []}), "not all host:port"),
        (config({"worker": "a:1"}), "not all host:port"),
        (config({"worker": ["a:1", "b"]}), "not all host:port"),
        (config({"worker": ["a:1", "b:0"]}), "not all host:port"),
        (config({"worker": ["a:1", "b:65536"]}), "not all host:port"),
        (config({"worker": ["a:1", "grpc://b:1"]}), "not all host:port"),
        (config({"worker": ["a:1", 7]}), "not all host:port"),
        (config({"worker": ["a:1", "b:1", "a:1"]}), "two tasks have the address a:1"),
        (config({"chief": ["a:1", "b:1"], "worker": ["c:1"]}), "more than one chief"),
        (config(WORKERS, index=3), "'worker' 3, which is not in the cluster"),
        (config(WORKERS, index=-1), "'worker' -1, which is not in the cluster"),
        (config(WORKERS, index="0"), "'worker' '0', which is not in the cluster"),
        (config(WORKERS, index=True), "'worker' True, which is not in the cluster"),
        (config(WORKERS, job="ps"), "'ps' 0, which is not in the cluster"),
        (config(WORKERS, job=["worker"]), "which is not in the cluster"),
    ],
)
def test_an_invalid_tf_config_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(InputError, match=rf"--strategy=multi_worker_mirrored needs TF_CONFIG.*Received.*{reason}"):
        read_cluster("multi_worker_mirrored", text)


def test_the_wait_names_missing_peers_immediately_and_every_minute(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    arrival = {1002: 30.0, 1003: 150.0}
    wait_for_peers(
        cluster_of_three(), 10, lambda peer: clock.now() - 1000 >= arrival[peer.host_and_port()[1]],
        clock.now, clock.sleep,
    )  # fmt: skip
    assert clock.now() - 1000 == 150
    assert capsys.readouterr().err.splitlines() == [
        "waiting for localhost:1002 (worker 1), localhost:1003 (worker 2); 1 of 3 processes are there, "
        "for at most 10 minutes",
        "waiting for localhost:1003 (worker 2); 2 of 3 processes are there, after 1 of at most 10 minutes",
        "waiting for localhost:1003 (worker 2); 2 of 3 processes are there, after 2 of at most 10 minutes",
    ]


def test_all_peers_must_be_there_at_the_same_time() -> None:
    clock = Clock()
    seen = {1002: lambda waited: waited < 5 or waited >= 9, 1003: lambda waited: waited >= 5}
    wait_for_peers(
        cluster_of_three(), 10, lambda peer: seen[peer.host_and_port()[1]](clock.now() - 1000), clock.now, clock.sleep
    )
    assert clock.now() - 1000 == 9


def test_a_peer_that_never_starts_ends_the_wait() -> None:
    clock = Clock()
    with pytest.raises(PeerLost, match=r"=2\. Received: no answer from localhost:1003 \(worker 2\); 2 of 3 processes"):
        wait_for_peers(cluster_of_three(), 2, lambda peer: peer.index == 1, clock.now, clock.sleep)
    assert clock.now() - 1000 == 120


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_wait(number: signal.Signals, code: int) -> None:
    before = signal.signal(number, signal.default_int_handler)  # the shell may ignore the signal
    try:
        clock = Clock(lambda waited: os.kill(os.getpid(), number) if waited >= 3 else None)
        with (
            pytest.raises(Stopped, match=f"stopped by {number.name} while it waited") as stopped,
            stopped_at_once("while it waited"),
        ):
            wait_for_peers(cluster_of_three(), 10, lambda _: False, clock.now, clock.sleep)
        assert stopped.value.exit_code == code
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)


def test_real_peers_on_loopback_see_each_other_and_the_port_is_free_afterwards() -> None:
    with socket.create_server(("localhost", 0)) as peer:
        own, other = free_port(), peer.getsockname()[1]
        seen = []

        def look(task: Task) -> bool:
            with socket.create_connection(("localhost", own), timeout=5):
                seen.append(task)
            return len(seen) > 1

        jobs = {"worker": [f"localhost:{own}", f"localhost:{other}"]}
        cluster = read_cluster("multi_worker_mirrored", config(jobs))
        wait_for_peers(cluster, 1, look, sleep=lambda _: None)
        assert len(seen) == 2, "this process could be reached while it waited"
        wait_for_peers(cluster, 1)  # by connections
    with socket.create_server(("localhost", own)):
        pass


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as other:
        address = f"localhost:{other.getsockname()[1]}"
        cluster = read_cluster("multi_worker_mirrored", config({"worker": [address, "localhost:1002"]}))
        with pytest.raises(
            InputError, match=rf"must be free\. Received: {address} \(worker 0\): Address already in use"
        ):
            wait_for_peers(cluster, 1, lambda _: True)


@pytest.mark.parametrize("minutes", [0, -1, float("nan")])
def test_an_invalid_timeout_is_refused(minutes: float) -> None:
    with pytest.raises(InputError, match="--cluster_timeout_minutes must be above 0"):
        make_strategy("multi_worker_mirrored", minutes)
