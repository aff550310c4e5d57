"""The README: every command and code block runs as it is written, and prints what the README shows."""

import json
import os
import pathlib
import re
import shlex
import shutil
import stat
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from bert4rec_tf.api import recipes
from tests.support.command_line import ROOT
from tests.support.serving_double import ServingDouble

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
ML_100K = ROOT.parent / "shared" / "data" / "ml-100k" / "u.data"
# The recipe of the README, but with a model and a training that take seconds.
SHORT = {"model": {"hidden_size": 16}, "training": {"num_passes": None, "num_steps": 20, "steps_per_epoch": 10}}
# What stands in for programs that need a network or a container: the download is a zip file that the test made, and
# curl's request goes to the double of TF Serving.
STAND_INS = {
    "curl": """
import os, shutil, sys, urllib.request
if sys.argv[1] == "-O":
    shutil.copy(os.environ["DOWNLOAD"], os.path.basename(sys.argv[2]))
else:
    option, data, url = sys.argv[1:]
    assert option == "-d"
    url = url.replace("localhost:8501", os.environ["REST_ADDRESS"])
    print(urllib.request.urlopen(url, data.encode()).read().decode())
""",
    "unzip": """
import sys, zipfile
option, path = sys.argv[1:]
assert option == "-q"
zipfile.ZipFile(path).extractall()
""",
    "docker": """
import os, sys
assert sys.argv[1] == "run"
(volume,) = [argument for argument in sys.argv if ":/models/" in argument]
assert os.path.isdir(volume.split(":")[0])
""",
}


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCKS if name == language]


def shell_block(start: str) -> str:
    (found,) = [text for text in blocks("bash") if text.startswith(start)]
    return found


def without_numbers(text: str) -> str:
    """Words and punctuation; every number is N, and runs of spaces are one."""
    return re.sub(r" +", " ", re.sub(r"[0-9]*\.?[0-9]+", "N", text)).strip()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A directory with the commands of the checkout, the shortened recipe, and stand-ins for outside programs."""
    path = tmp_path_factory.mktemp("checkout")
    for name in ("pipelines", "train.py", "evaluate.py", "export.py", "recommend.py"):
        (path / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "configs", path / "configs")
    recipe = json.loads((path / "configs" / "bert4rec-dense.json").read_text())
    for section, settings in SHORT.items():
        recipe[section] |= settings
    (path / "configs" / "bert4rec-dense.json").write_text(json.dumps(recipe))
    (path / "bin").mkdir()
    programs = {name: f"#!{sys.executable}\n{code}" for name, code in STAND_INS.items()}
    programs["python"] = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n'
    for name, text in programs.items():
        program = path / "bin" / name
        program.write_text(text)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    with zipfile.ZipFile(path / "download.zip", "w") as archive:
        archive.writestr("ml-100k/u.data", ML_100K.read_text() if ML_100K.exists() else made_up_log())
    return path


def made_up_log() -> str:
    """A log in the format of MovieLens-100K, for machines that do not have that log."""
    draw = np.random.default_rng(1)
    rows = [(user, item) for user in range(1, 201) for item in draw.permutation(200)[:30] + 1]
    return "".join(f"{user}\t{item}\t{draw.integers(1, 6)}\t{draw.integers(8.7e8, 8.9e8)}\n" for user, item in rows)


def run_block(block: str, checkout: pathlib.Path, rest_address: str = "") -> str:
    """Runs a block in bash, which ends at the first command that fails. Returns what it printed to stdout."""
    environment = os.environ | {
        "PATH": f"{checkout / 'bin'}:{os.environ['PATH']}",
        "DOWNLOAD": str(checkout / "download.zip"),
        "REST_ADDRESS": rest_address,
    }
    ran = subprocess.run(
        ["bash", "-euc", block], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_length_and_links() -> None:
    assert len(README.splitlines()) <= 150
    links = [target for target in re.findall(r"\]\(([^)]+)\)", README) if not target.startswith("http")]
    assert len(links) > 10
    for target in links:
        assert (ROOT / target).exists(), target


def test_every_block_has_a_test() -> None:
    tested = [shell_block("make demo"), shell_block("curl"), shell_block("docker"), *blocks("python"), *blocks("json")]
    (shown,) = blocks("text")
    (citation,) = blocks("bibtex")
    assert citation.startswith("@inproceedings{")
    assert sorted(text for _, text in BLOCKS) == sorted([*tested, shown, citation])


def test_continuous_integration_runs_the_installation() -> None:
    commands = [line.split("#")[0].strip() for line in shell_block("make demo").splitlines()]
    assert commands == ["make demo", "source .venv/bin/activate"]
    assert "make demo" in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.slow
def test_from_a_log_to_a_served_model(checkout: pathlib.Path) -> None:
    printed = run_block(shell_block("curl"), checkout)
    (shown,) = blocks("text")
    assert without_numbers(shown) in without_numbers(printed)
    assert (checkout / "report.html").exists()
    exports = checkout / "exports" / "ml-100k"
    server = ServingDouble(exports, "ml-100k")
    try:
        answer = json.loads(run_block(shell_block("docker"), checkout, server.rest_address))
    finally:
        server.stop()
    (expected,) = map(json.loads, blocks("json"))
    assert answer.keys() == expected.keys()
    for got, written in zip(answer["predictions"], expected["predictions"], strict=True):
        assert got.keys() == written.keys()
        assert {name: len(values) for name, values in got.items()} == {
            name: len(values) for name, values in written.items()
        }
        assert not {"50", "181", "172"} & set(got["item_ids"])


@pytest.mark.slow
def test_python_block(checkout: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("pandas")
    monkeypatch.chdir(checkout)
    monkeypatch.setattr(recipes, "_RECIPES", checkout / "configs")
    if not (checkout / "ml-100k").exists():
        zipfile.ZipFile(checkout / "download.zip").extractall()
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "ndcg@10" in printed
    assert "item_id" in printed
