"""One training of a search, in a process of its own that can be ended early."""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from bert4rec_tf.model_dir import CONFIG_FILE, HISTORY_FILE
from tfrecords.files import write_whole

_TRAIN = "from bert4rec_tf.commands.entry_point import train; train()"
_SECONDS_BETWEEN_LOOKS = 0.5
_SECONDS_TO_SAVE = 60.0


@dataclasses.dataclass(frozen=True)
class TrialOutcome:
    """How a training ended.

    Attributes:
        best: the best validation NDCG@10; None: there was no validation.
        finished: whether it ran to its end.
        error: what the training said if it failed; "" if it did not.
    """

    best: float | None
    finished: bool
    error: str = ""


def run_trial(
    data_dir: str,
    model_dir: pathlib.Path,
    settings: dict[str, dict[str, Any]],
    threads: int,
    stop: Callable[[int, float], bool],
    end: threading.Event,
    deadline: float | None,
) -> TrialOutcome:
    """Trains, and looks at each validation. A training that was stopped goes on when it is called again.

    Args:
        data_dir: the records.
        model_dir: of this trial.
        settings: sections and fields, as for `--config`.
        threads: of TensorFlow.
        stop: called with each validation, after how many percent of the steps it was and its NDCG@10; returns whether
            the training is given up.
        end: ends the training, which saves its progress.
        deadline: a time of `time.monotonic` to end at; None: none.
    """
    model_dir.parent.mkdir(parents=True, exist_ok=True)
    config, log = model_dir.with_suffix(".json"), model_dir.with_suffix(".log")
    write_whole(config, json.dumps(settings, indent=1) + "\n")
    environment = os.environ | {"TF_NUM_INTRAOP_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    flags = [f"--data_dir={data_dir}", f"--model_dir={model_dir}", f"--config={config}"]
    seen, given_up = 0, False
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", _TRAIN, *flags],
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            start_new_session=True,  # Ctrl-C reaches it through this process, once
        )
        try:
            while process.poll() is None:
                ended = end.wait(_SECONDS_BETWEEN_LOOKS) or (deadline is not None and time.monotonic() > deadline)
                for percent, value in _validations(model_dir)[seen:]:
                    seen += 1
                    given_up = stop(percent, value) or given_up
                if ended or given_up:
                    _end(process)
        finally:
            _end(process)
    validations = _validations(model_dir)
    for percent, value in validations[seen:]:
        stop(percent, value)
    error = "" if process.returncode == 0 or _was_stopped(process) else _last_line(log)
    best = max((value for _, value in validations), default=None)
    return TrialOutcome(best, process.returncode == 0 and not given_up, error)


def _was_stopped(process: "subprocess.Popen[bytes]") -> bool:
    """Whether a training was stopped: it then ends with the number of the signal plus 128."""
    return process.returncode in (-signal.SIGTERM, -signal.SIGKILL, 128 + signal.SIGTERM, 128 + signal.SIGINT)


def _validations(model_dir: pathlib.Path) -> list[tuple[int, float]]:
    """The NDCG@10 of each validation so far, after how many percent of the steps."""
    files = model_dir / HISTORY_FILE, model_dir / CONFIG_FILE
    if not all(file.is_file() for file in files):
        return []
    history, config = (file.read_text(encoding="utf-8") for file in files)
    steps = json.loads(config)["training"]["num_steps"]
    found = []
    for line in history.splitlines():
        with contextlib.suppress(ValueError):  # a line that is being written
            row = json.loads(line)
            found.append((round(100 * row["step"] / steps), float(row["validation"]["full"]["ndcg@10"])))
    return found


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_SECONDS_TO_SAVE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _last_line(log: pathlib.Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    named = [line for line in lines if line.startswith("error: ")]
    return (named or lines or ["it printed nothing"])[-1].removeprefix("error: ")[:500]
