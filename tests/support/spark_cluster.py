"""A standalone Spark cluster on loopback, from the classes of the pyspark wheel: a master, and workers of one core."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pyspark

_HOME = pathlib.Path(pyspark.__file__).parent
_DEPLOY = "org.apache.spark.deploy"
_SECONDS_TO_START = 60


class SparkCluster:
    """The processes of a cluster. Create it by `loopback_cluster`.

    Attributes:
        url: of the master.
    """

    def __init__(self, directory: pathlib.Path):
        self._directory, self._workers = directory, list[subprocess.Popen[bytes]]()
        self._processes = list[subprocess.Popen[bytes]]()
        self.url = self._start("master", "master.Master", r"Starting Spark master at (\S+)")

    def add_worker(self, memory: str) -> None:
        """Starts a worker of one core, with this memory for its executor."""
        name = f"worker-{len(self._workers)}"
        options = ["--cores", "1", "--memory", memory, "--work-dir", str(self._directory / name), self.url]
        self._start(name, "worker.Worker", r"Successfully registered with (master)", *options)
        self._workers.append(self._processes[-1])

    def kill_worker(self) -> None:
        """Kills a worker and its executor at once, by SIGKILL, as when a machine is lost."""
        worker = self._workers.pop()
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()

    def submit(self, *command: object, **conf: str) -> list[str]:
        """The command line that runs a script of this repository on the cluster.

        Args:
            command: the script and its flags.
            conf: settings of Spark, with `_` for `.` in their names.
        """
        settings = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
        settings |= {name.replace("_", "."): value for name, value in conf.items()}
        options = [option for name, value in settings.items() for option in ("--conf", f"{name}={value}")]
        return [str(_HOME / "bin" / "spark-submit"), "--master", self.url, *options, *map(str, command)]

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the cluster's processes, and of the commands that are submitted to it."""
        python = {"PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable}
        return os.environ | {"SPARK_HOME": str(_HOME), "SPARK_LOCAL_IP": "127.0.0.1"} | python

    def stop(self) -> None:
        """Ends all processes."""
        for process in reversed(self._processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _start(self, name: str, of_class: str, started: str, *options: str) -> str:
        """Starts a process, waits for a line of its log, and returns that line's group."""
        ports = ["--host", "127.0.0.1", "--port", "0", "--webui-port", "0"]
        log = self._directory / f"{name}.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [str(_HOME / "bin" / "spark-class"), f"{_DEPLOY}.{of_class}", *ports, *options],
                stdout=stream,
                stderr=stream,
                env=self.environment,
                start_new_session=True,
            )
        self._processes.append(process)
        last = time.monotonic() + _SECONDS_TO_START
        while time.monotonic() < last and process.poll() is None:
            if found := re.search(started, log.read_text()):
                return found[1]
            time.sleep(0.1)
        raise RuntimeError(f"{name} did not start: {log.read_text()[-2000:]}")


@contextlib.contextmanager
def loopback_cluster(directory: pathlib.Path, workers: int = 2, memory: str = "1g") -> Iterator[SparkCluster]:
    """Runs a cluster in the block; its logs and the workers' files go to `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    cluster = SparkCluster(directory)
    try:
        for _ in range(workers):
            cluster.add_worker(memory)
        yield cluster
    finally:
        cluster.stop()
