"""The nightly job as a Prefect flow: one task for each step of nightly_job.sh, with retries.

    pip install -r examples/requirements-flow.txt
    python examples/nightly_flow.py 'logs/*.csv' work exports/shop my-config.json \
        --recommendations=recommendations --limits=limits.json

Prefect may be in an environment of its own: this file imports nothing of the project. The job finds the console
commands on the PATH, or else runs the scripts of the checkout by the interpreter that the variable PYTHON names. All
state is on the disk, so a second run of a night resumes where the first one stopped.
"""

import argparse
import datetime
import os
import pathlib
import subprocess
from typing import Any

from prefect import flow, get_run_logger, task

JOB = pathlib.Path(__file__).with_name("nightly_job.sh")
STEPS = ("records", "training", "evaluation", "publication", "scores", "promotion")
REFUSED = 2  # exit code of a command that refuses its input or its model: a second try would end the same way


class StepError(Exception):
    """A step of the job ended with an exit code other than 0."""

    def __init__(self, step: str, code: int):
        super().__init__(f"the step {step} ended with exit code {code}")
        self.code = code


def _is_no_refusal(_task: Any, _run: Any, state: Any) -> bool:
    error = state.result(raise_on_failure=False)
    return not (isinstance(error, StepError) and error.code == REFUSED)


@task(task_run_name="{step}", retries=2, retry_condition_fn=_is_no_refusal)
def run_step(step: str, arguments: list[str], variables: dict[str, str]) -> None:
    """Runs a step of the job, and logs what it prints."""
    command = ["bash", str(JOB), *arguments, step]
    environment = os.environ | variables
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            get_run_logger().info(line.rstrip())
    if process.returncode:
        raise StepError(step, process.returncode)


@flow(name="bert4rec-nightly", flow_run_name="{night}")
def nightly(
    log: str,
    work_dir: str,
    export_dir: str,
    config: str,
    night: str,
    recommendations: str = "",
    limits: str = "",
    retry_seconds: float = 60,
) -> None:
    """Runs the steps of a night in their order. The first one that fails ends the night."""
    variables = {"NIGHT": night, "RECOMMENDATIONS": recommendations, "LIMITS": limits}
    step_with_pause = run_step.with_options(retry_delay_seconds=retry_seconds)
    for step in STEPS:
        step_with_pause(step, [log, work_dir, export_dir, config], variables)


def main() -> None:
    """Reads the command line, and runs the flow of one night."""
    parser = argparse.ArgumentParser(description="Runs a night of nightly_job.sh as a Prefect flow.")
    for name in ("log", "work_dir", "export_dir", "config"):
        parser.add_argument(name)
    parser.add_argument("--night", default=datetime.date.today().isoformat())
    parser.add_argument("--recommendations", default="")
    parser.add_argument("--limits", default="")
    parser.add_argument("--retry_seconds", type=float, default=60)
    nightly(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
