"""tf.distribute strategies as processes on this machine: equal weights on one device and many, and lost processes."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow as tf

from bert4rec_tf.training.coordination import is_chief
from bert4rec_tf.training.strategy import make_strategy
from tests.support.command_line import ROOT
from tfrecords.errors import InputError

SETTINGS = [
    "--set=model.hidden_size=16",
    "--set=model.num_layers=2",
    "--set=training.batch_size=32",
    "--set=training.num_length_buckets=2",
    "--set=training.steps_per_epoch=20",
    "--set=training.learning_rate=0.003",
    "--set=training.jit_compile=false",
]
ENDLESS = "--set=training.num_steps=1000000"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("strategies") / "data"
    command = [sys.executable, "pipelines/make_tfrecords.py", f"--output_dir={path}", "--set=data.max_seq_length=12",
               "--dataset=synthetic:num_users=300,num_items=60,num_themes=6,min_events=3,max_events=20"]  # fmt: skip
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return path


class Cluster:
    """Processes of train.py: one for each task of a cluster, or a single one."""

    def __init__(self, data_dir: pathlib.Path, model_dir: pathlib.Path, strategy: str, jobs: dict[str, int]):
        with contextlib.ExitStack() as sockets:  # all open together, so that all ports differ
            ports = {job: [sockets.enter_context(socket.socket()) for _ in range(n)] for job, n in jobs.items()}
            for each in ports.values():
                for opened in each:
                    opened.bind(("localhost", 0))
            addresses = {job: [f"localhost:{s.getsockname()[1]}" for s in each] for job, each in ports.items()}
        self._config = {"cluster": addresses}
        script = str(ROOT / "train.py")
        self._command = [sys.executable, script, f"--data_dir={data_dir}", f"--strategy={strategy}", *SETTINGS]
        self._model_dir = model_dir
        self.processes: dict[tuple[str, int], subprocess.Popen[str]] = {}

    def start(self, job: str, index: int, *flags: str) -> "subprocess.Popen[str]":
        """Starts a task. Only the chief may write: the other tasks run in another folder, where nothing may appear."""
        chief = (job, index) == (next(iter(self._config["cluster"])), 0)
        folder = self._model_dir.parent if chief else self._model_dir.with_name("elsewhere")
        folder.mkdir(exist_ok=True)
        environment = os.environ | {"TF_CONFIG": json.dumps(self._config | {"task": {"type": job, "index": index}})}
        log = self._model_dir.with_name(f"{job}-{index}.log").open("w+")
        self.processes[job, index] = subprocess.Popen(
            [*self._command, f"--model_dir={self._model_dir.name}", *flags],
            cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, text=True,
            # Where the tests run in the background, their shell has them ignore Ctrl-C, and a child inherits that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        return self.processes[job, index]

    def port(self, job: str, index: int) -> int:
        return int(self._config["cluster"][job][index].rpartition(":")[2])

    def wait_until_connecting(self, job: str, index: int) -> None:
        """Waits until a task is inside TensorFlow, waiting for its peers: TensorFlow's server listens at its port."""
        deadline = time.monotonic() + 120
        with socket.socket() as looking:
            while looking.connect_ex(("localhost", self.port(job, index))):
                assert time.monotonic() < deadline
                time.sleep(0.05)
        time.sleep(2)

    def printed(self, job: str, index: int) -> str:
        return self._model_dir.with_name(f"{job}-{index}.log").read_text()

    def wait(self, job: str, index: int, code: int = 0) -> str:
        """Waits until a task ends, and returns its output."""
        received = self.processes[job, index].wait(240)
        printed = self.printed(job, index)
        assert received == code, printed
        assert "Traceback" not in printed
        return printed

    def wait_for(self, job: str, index: int, words: str) -> None:
        deadline = time.monotonic() + 120
        while words not in self.printed(job, index):
            assert self.processes[job, index].poll() is None, self.printed(job, index)
            assert time.monotonic() < deadline
            time.sleep(0.05)


@contextlib.contextmanager
def cluster(data_dir: pathlib.Path, model_dir: pathlib.Path, strategy: str, **jobs: int) -> Iterator[Cluster]:
    """A cluster whose processes are all ended after the block."""
    made = Cluster(data_dir, model_dir, strategy, jobs)
    try:
        yield made
    finally:
        for process in made.processes.values():
            process.kill()
            process.wait()


def weights_after(model_dir: pathlib.Path, step: int) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(model_dir / f"checkpoints/latest/ckpt-{step}/state"))
    names = [name for name in reader.get_variable_to_shape_map() if name.startswith(("model/", "optimizer/"))]
    return {name: reader.get_tensor(name) for name in names}


@pytest.fixture(scope="module")
def one_device(data_dir: pathlib.Path) -> dict[str, np.ndarray]:
    return weights_of_three_steps(data_dir, data_dir.with_name("one"), "default")


def weights_of_three_steps(
    data_dir: pathlib.Path, model_dir: pathlib.Path, strategy: str, *flags: str
) -> dict[str, np.ndarray]:
    with cluster(data_dir, model_dir, strategy, worker=1) as alone:
        alone.start("worker", 0, "--set=training.num_steps=3", *flags)
        alone.wait("worker", 0)
    return weights_after(model_dir, 3)


def assert_same_weights(received: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert received.keys() == expected.keys()
    for name, value in expected.items():
        # Three steps of the warm-up hardly move the weights; the moments show whether the gradients are equal.
        atol = 1e-5 if name.startswith("model/") else 1e-3 * np.abs(value).max()
        np.testing.assert_allclose(received[name], value, rtol=0, atol=atol, err_msg=name)


@pytest.mark.slow
def test_mirrored_makes_the_updates_of_one_device(
    data_dir: pathlib.Path, tmp_path: pathlib.Path, one_device: dict[str, np.ndarray]
) -> None:
    # Dropout is on: replicas draw the same numbers as one device for the joint batch.
    assert_same_weights(weights_of_three_steps(data_dir, tmp_path / "model", "mirrored"), one_device)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["--set=training.loss=sampled_softmax", "--set=training.sampled_items=20", "--set=training.clip_norm=0.1"],
        ["--set=model.attention=causal"],
        [
            "--set=model.attention=prefix",
            "--set=model.neighbours=0.3",
            "--set=model.layer_norm=pre",
            "--set=model.block=gated",
        ],
    ],
    ids=["sparse gradients", "causal", "prefix, gated"],
)
def test_mirrored_makes_the_updates_of_one_device_with_other_losses_and_attention(
    data_dir: pathlib.Path, tmp_path: pathlib.Path, flags: list[str]
) -> None:
    mirrored, one_device = (
        weights_of_three_steps(data_dir, tmp_path / strategy, strategy, *flags) for strategy in ("mirrored", "default")
    )
    assert_same_weights(mirrored, one_device)


@pytest.mark.slow
def test_mirrored_makes_the_updates_of_one_device_in_mixed_precision(
    data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    mirrored, one_device = (
        weights_of_three_steps(data_dir, tmp_path / strategy, strategy, "--set=training.precision=mixed_float16")
        for strategy in ("mirrored", "default")
    )
    assert mirrored.keys() == one_device.keys()
    moments = [name for name, value in one_device.items() if name.startswith("optimizer/") and value.ndim > 1]
    assert moments
    for name in moments:  # sums of products that are rounded to half precision, in another order
        atol = 2.0**-6 * np.abs(one_device[name]).max()
        np.testing.assert_allclose(mirrored[name], one_device[name], rtol=0, atol=atol, err_msg=name)


@pytest.mark.slow  # the same sums as mirrored replicas, over the network
def test_two_workers_make_the_updates_of_one_device(
    data_dir: pathlib.Path, tmp_path: pathlib.Path, one_device: dict[str, np.ndarray]
) -> None:
    with cluster(data_dir, tmp_path / "model", "multi_worker_mirrored", worker=2) as workers:
        for index in range(2):
            workers.start("worker", index, "--set=training.num_steps=3")
        assert "best validation" in workers.wait("worker", 0)
        assert "best validation" not in workers.wait("worker", 1)
    assert_same_weights(weights_after(tmp_path / "model", 3), one_device)
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.slow
def test_a_worker_with_other_settings_is_refused(data_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with cluster(data_dir, tmp_path / "model", "multi_worker_mirrored", worker=2) as workers:
        workers.start("worker", 0, "--set=training.num_steps=3")
        workers.start("worker", 1, "--set=training.num_steps=3", "--set=training.seed=2")
        assert "All workers need the same records and settings" in workers.wait("worker", 1, code=2)
        assert "another process of the cluster is gone" in workers.wait("worker", 0, code=3)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_worker_ends_the_others(data_dir: pathlib.Path, tmp_path: pathlib.Path, killed: int) -> None:
    with cluster(data_dir, tmp_path / "model", "multi_worker_mirrored", worker=2) as workers:
        for index in range(2):
            workers.start("worker", index, ENDLESS)
        workers.wait_for("worker", 0, "epoch 2, step 40")
        workers.processes["worker", killed].kill()
        assert "another process of the cluster is gone" in workers.wait("worker", 1 - killed, code=3)
    with cluster(data_dir, tmp_path / "model", "multi_worker_mirrored", worker=2) as workers:
        for index in range(2):
            workers.start("worker", index, ENDLESS)
        workers.wait_for("worker", 0, "validation NDCG@10")
        assert "resuming" in workers.printed("worker", 0)
        # SIGTERM at one worker, as before a machine is taken away, makes all of them save and stop.
        workers.processes["worker", 1].terminate()
        for index in range(2):
            assert "stopped by SIGTERM and saved" in workers.wait("worker", index, code=143)


@pytest.mark.slow
def test_a_parameter_server_cluster_trains(data_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with cluster(data_dir, tmp_path / "model", "parameter_server", chief=1, worker=2, ps=1) as servers:
        for job, index in (("ps", 0), ("worker", 0), ("worker", 1)):
            servers.start(job, index)
        servers.start("chief", 0, "--set=training.num_steps=40")
        printed = servers.wait("chief", 0)
        assert "epoch 2, step 40" in printed
    weights = weights_after(tmp_path / "model", 40)
    assert all(np.isfinite(value).all() for value in weights.values())
    first, last = map(json.loads, (tmp_path / "model/history.jsonl").read_text().splitlines())
    assert last["loss"] < first["loss"]
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.slow
def test_a_parameter_server_run_survives_a_lost_worker_and_uses_it_again(
    data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    def wait_for_later_epoch() -> None:
        epochs = servers.printed("chief", 0).count("validation NDCG@10")
        servers.wait_for("chief", 0, f"epoch {epochs + 2}, ")

    with cluster(data_dir, tmp_path / "model", "parameter_server", chief=1, worker=2, ps=1) as servers:
        for job, index in (("ps", 0), ("worker", 0), ("worker", 1)):
            servers.start(job, index)
        servers.start("chief", 0, ENDLESS)
        servers.wait_for("chief", 0, "epoch 2, step 40")
        servers.processes["worker", 1].kill()
        servers.processes["worker", 1].wait()
        wait_for_later_epoch()
        servers.start("worker", 1)
        time.sleep(
            20
        )  # TensorFlow does not report when it uses the worker again, and fails if the other one is lost before that
        wait_for_later_epoch()
        servers.processes["worker", 0].kill()
        servers.processes["worker", 0].wait()
        wait_for_later_epoch()  # only the restarted worker can have trained it
        assert servers.processes["worker", 1].poll() is None


@pytest.mark.slow
@pytest.mark.parametrize(("index", "number", "code"), [(0, signal.SIGTERM, 143), (1, signal.SIGINT, 130)])
@pytest.mark.parametrize("peer", ["missing", "silent"])
def test_a_waiting_worker_reports_missing_peers_and_stops_at_signals(
    data_dir: pathlib.Path, tmp_path: pathlib.Path, peer: str, index: int, number: signal.Signals, code: int
) -> None:
    with contextlib.ExitStack() as stack:
        workers = stack.enter_context(cluster(data_dir, tmp_path / "model", "multi_worker_mirrored", worker=2))
        if peer == "silent":  # it listens, but never connects
            stack.enter_context(socket.create_server(("localhost", workers.port("worker", 1 - index))))
        process = workers.start("worker", index)
        if peer == "missing":
            workers.wait_for("worker", index, f"waiting for localhost:{workers.port('worker', 1 - index)}")
        else:
            workers.wait_until_connecting("worker", index)
        process.send_signal(number)
        assert f"stopped by {number.name} while" in workers.wait("worker", index, code=code)


@pytest.mark.slow
@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize(("strategy", "job"), [("multi_worker_mirrored", "worker"), ("parameter_server", "chief")])
def test_a_cluster_that_is_not_complete_in_time_is_an_error(
    data_dir: pathlib.Path, tmp_path: pathlib.Path, strategy: str, job: str, silent: bool
) -> None:
    jobs = {"worker": 2} if job == "worker" else {"chief": 1, "worker": 1, "ps": 1}
    with contextlib.ExitStack() as stack:
        processes = stack.enter_context(cluster(data_dir, tmp_path / "model", strategy, **jobs))
        missing = [("worker", 1)] if job == "worker" else [("worker", 0), ("ps", 0)]
        for other in missing if silent else []:
            stack.enter_context(socket.create_server(("localhost", processes.port(*other))))
        processes.start(job, 0, "--cluster_timeout_minutes=0.05")
        printed = processes.wait(job, 0, code=3)
        assert "--cluster_timeout_minutes=0.05" in printed
        for other in missing:
            assert f"localhost:{processes.port(*other)} ({other[0]} {other[1]})" in printed


@pytest.mark.slow
def test_serving_processes_stop_at_signals(data_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with cluster(data_dir, tmp_path / "model", "parameter_server", chief=1, worker=1, ps=1) as servers:
        for job in ("ps", "worker"):
            servers.start(job, 0)
        with socket.create_server(("localhost", servers.port("chief", 0))):
            for job, number, code in (("ps", signal.SIGTERM, 143), ("worker", signal.SIGINT, 130)):
                servers.wait_for(job, 0, "until this process is stopped")
                servers.processes[job, 0].send_signal(number)
                assert f"stopped by {number.name} while it served" in servers.wait(job, 0, code=code)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_worker_killed_before_the_first_step_ends_the_other(
    data_dir: pathlib.Path, tmp_path: pathlib.Path, killed: int
) -> None:
    with cluster(data_dir, tmp_path / "model", "multi_worker_mirrored", worker=2) as workers:
        for index in range(2):
            workers.start("worker", index)
        deadline = time.monotonic() + 120
        while not (tmp_path / "model/config.json").exists():  # connected; the model is not built yet
            assert time.monotonic() < deadline
            time.sleep(0.01)
        workers.processes["worker", killed].kill()
        assert "another process of the cluster is gone" in workers.wait("worker", 1 - killed, code=3)


@pytest.mark.parametrize("name", ["multi_worker_mirrored", "parameter_server"])
@pytest.mark.parametrize(
    "config",
    [
        "",
        "{",
        "[]",
        '{"cluster": {"worker": ["a:1"]}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"evaluator": ["a:1"]}, "task": {"type": "evaluator", "index": 0}}',
    ],
)
def test_an_invalid_cluster_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, config: str) -> None:
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(InputError, match=f"--strategy={name} needs TF_CONFIG"):
        make_strategy(name)


def test_a_missing_tpu_is_named() -> None:
    with pytest.raises(InputError, match="--strategy=tpu needs a TPU"):
        make_strategy("tpu")


def test_one_process_is_its_own_chief() -> None:
    assert is_chief(make_strategy("default"))
