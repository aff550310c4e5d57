"""Runs the repository's commands as users do."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def run(*command: object, code: int = 0) -> str:
    """Runs a command of the repository; gives what it printed, and checks its exit code."""
    finished = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    printed = finished.stdout + finished.stderr
    assert finished.returncode == code, printed
    assert "Traceback" not in printed
    return printed
