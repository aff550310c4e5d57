"""Ctrl-C while a command still imports its packages."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from tests.support.command_line import ROOT


@pytest.mark.parametrize("name", ["train", "evaluate", "export", "recommend", "search", "explore"])
def test_ctrl_c_ends_the_imports_in_one_line(name: str, tmp_path: pathlib.Path) -> None:
    """Every command imports NumPy. Here, a module of that name prints a line and then sleeps."""
    (tmp_path / "numpy.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    with subprocess.Popen(
        [sys.executable, str(ROOT / f"{name}.py")],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # in the background, shells ignore it
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert stderr == "error: stopped by SIGINT\n"
    assert process.returncode == 130
