"""The wheel outside the checkout: the console commands from a log to an export, and the recipes by name."""

import importlib.util
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile

import pytest
import requests

import bert4rec_tf
from tests.support.command_line import ROOT

NAMES = ("evaluate", "explore", "export", "make-tfrecords", "recommend", "search", "train")
COMMANDS = [f"bert4rec-{name}" for name in NAMES]
NOT_IN_A_RELEASE = (".git", ".venv*", "__pycache__", ".*_cache", ".hypothesis", "*.egg-info", "dist", "build",
                    "demo_output", "data", "models", "exports", "site")  # fmt: skip


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The source distribution and the wheel, as `make dist` builds them, from a copy of the checkout."""
    pytest.importorskip("build", reason="needs requirements-dev.txt")
    checkout = tmp_path_factory.mktemp("checkout") / "bert4rec_tf"
    shutil.copytree(ROOT, checkout, symlinks=True, ignore=shutil.ignore_patterns(*NOT_IN_A_RELEASE))
    built = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation"], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return checkout / "dist"


@pytest.fixture(scope="module")
def installed(dist: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with the packages and the console commands of the wheel; the dependencies are those of the tests."""
    target = tmp_path_factory.mktemp("installed")
    (wheel,) = dist.glob("*.whl")
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", f"--target={target}", str(wheel)]
    subprocess.run([sys.executable, *install], check=True)
    return target


def run(installed: pathlib.Path, directory: pathlib.Path, *command: str, code: int = 0) -> str:
    """Runs a command in a directory outside the checkout, with the wheel's packages first on the path."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


def explored_page(installed: pathlib.Path, directory: pathlib.Path, *command: str) -> str:
    """Starts the explorer on a free port, fetches its page and its style, and ends it."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    with subprocess.Popen([*command, "--port=0"], cwd=directory, env=environment, stdout=subprocess.PIPE) as process:
        address = process.stdout.readline().decode().split()[0] if process.stdout else ""
        page = requests.get(address, timeout=60)
        assert requests.get(f"{address}style.css", timeout=60).status_code == page.status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    return page.text


@pytest.mark.slow
def test_the_metadata_is_fit_for_a_package_index(dist: pathlib.Path) -> None:
    files = sorted(str(path) for path in dist.iterdir())
    assert [pathlib.Path(file).name for file in files] == [
        f"bert4rec_tf-{bert4rec_tf.__version__}-py3-none-any.whl",
        f"bert4rec_tf-{bert4rec_tf.__version__}.tar.gz",
    ]
    checked = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.slow
def test_both_distributions_hold_every_recipe(dist: pathlib.Path) -> None:
    recipes = {path.name: path.read_bytes() for path in (ROOT / "configs").glob("*.json")}
    (wheel,), (source,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert {name: archive.read(f"bert4rec_tf/recipes/{name}") for name in recipes} == recipes
        assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {
            "bert4rec_tf", "pipelines", "tfrecords"
        }  # fmt: skip
    with tarfile.open(source) as archive:
        top = source.name.removesuffix(".tar.gz")
        for folder in ("configs", "bert4rec_tf/recipes"):
            found = {name: archive.extractfile(f"{top}/{folder}/{name}") for name in recipes}
            assert {name: file.read() for name, file in found.items() if file} == recipes
        in_source = set(archive.getnames())
    needed = [path for folder in ("tests", "deploy") for path in (ROOT / folder).rglob("*") if path.is_file()]
    needed = [path for path in needed if "__pycache__" not in path.parts]
    assert not {path for path in needed if f"{top}/{path.relative_to(ROOT).as_posix()}" not in in_source}


@pytest.mark.slow
def test_the_commands_work_outside_the_checkout(installed: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert sorted(path.name for path in (installed / "bin").iterdir() if path.name.startswith("bert4rec")) == COMMANDS
    where = run(installed, tmp_path, sys.executable, "-c", "import bert4rec_tf; print(bert4rec_tf.__file__)")
    assert where.strip() == str(installed / "bert4rec_tf/__init__.py")
    evaluate, explore, export, make_tfrecords, recommend, search, train = (
        str(installed / "bin" / name) for name in COMMANDS
    )
    log = "--dataset=synthetic:num_users=200,num_items=60,num_themes=6,min_events=5,max_events=20"
    built = run(installed, tmp_path, make_tfrecords, log, "--config=demo", "--output_dir=data", "--num_workers=2")
    assert "wrote data in " in built
    short = ["--config=demo", "--set=training.num_steps=20", "--set=training.jit_compile=false"]
    assert "best validation NDCG@10" in run(installed, tmp_path, train, "--data_dir=data", "--model_dir=model", *short)
    assert "200 users" in run(
        installed, tmp_path, evaluate, "--model_dir=model", "--data_dir=data", "--output=metrics.json"
    )
    assert json.loads((tmp_path / "metrics.json").read_text())["users"] == 200
    assert "wrote exported/" in run(installed, tmp_path, export, "--model_dir=model", "--export_dir=exported")
    (version,) = (tmp_path / "exported").glob("[0-9]*")
    metadata = json.loads((version / "assets.extra/metadata.json").read_text())
    assert metadata["package_version"] == bert4rec_tf.__version__
    assert "git_commit" not in metadata, "the wheel is no checkout"
    assert "A rollback needs at least two versions" in run(
        installed, tmp_path, export, "rollback", "--export_dir=exported", code=2
    )
    printed = run(installed, tmp_path, recommend, "--export_dir=exported", log, "--output=recommended")
    assert "200 users, 0 of them without a known item" in printed
    if importlib.util.find_spec("uvicorn"):
        assert "explorer" in explored_page(installed, tmp_path, explore, "--export_dir=exported", "--data_dir=data")
    if importlib.util.find_spec("optuna"):
        flags = [*short, "--trials=1", "--set=training.num_passes=null"]
        (tmp_path / "space.json").write_text('{"model.dropout": {"low": 0.1, "high": 0.2}}')
        printed = run(installed, tmp_path, search, "--data_dir=data", "--study_dir=s", "--space=space.json", *flags)
        assert "1 trials finished" in printed
    code = """
import bert4rec_tf
assert "bert4rec-dense" in bert4rec_tf.recipe_names()
found = bert4rec_tf.Recommender.load("exported").recommend([["i1", "i2"]], k=3)
assert len(found.item_ids[0]) == 3
bert4rec_tf.build_records("log.csv", "again", "demo")
"""
    (tmp_path / "log.csv").write_text(
        "user_id,item_id,timestamp\n" + "".join(f"u{u},i{(u * 7 + t) % 23},{t}\n" for u in range(20) for t in range(6))
    )
    run(installed, tmp_path, sys.executable, "-c", code)
    assert (tmp_path / "again/manifest.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_the_flags(installed: pathlib.Path, tmp_path: pathlib.Path, command: str) -> None:
    shown = run(installed, tmp_path, str(installed / "bin" / command), "--help", code=1)  # absl exits with 1
    assert "dir: " in shown
    assert ("--item_column" in shown) == (command in ("bert4rec-make-tfrecords", "bert4rec-recommend"))
