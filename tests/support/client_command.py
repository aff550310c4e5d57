"""Runs deploy/client.py as users do."""

import subprocess
import sys

from tests.support.command_line import ROOT


def run_client(*flags: str, code: int = 0) -> str:
    command = [sys.executable, "deploy/client.py", "--timeout_seconds=30", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    printed = done.stderr if code else done.stdout
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in printed
    return printed
