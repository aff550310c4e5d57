"""The scripts in benchmarks/ and experiments/ take only flags."""

import ast
import pathlib
import runpy
import sys
from unittest import mock

import pytest

from tests.support import command_line
from tests.support.command_line import ROOT

SCRIPTS = sorted([*ROOT.glob("benchmarks/*.py"), *ROOT.glob("experiments/*.py")])
REQUIRED_FLAGS = {
    "ablations": ["--dataset=x", "--input=x", "--config=x", "--steps=1", "--work_dir=x"],
    "openvino_runtime": ["--model_dir=x", "--data_dir=x"],
    "pipeline_engines": ["--log=x", "--work_dir=x"],
    "pipeline_kills": ["--work_dir=x"],
    "pipeline_memory": ["--work_dir=x"],
    "pipeline_speed": ["--input=x", "--work_dir=x"],
    "reading_speed": ["--data_dir=x"],
    "recommend_speed": ["--log=x", "--max_seq_length=1", "--work_dir=x"],
    "reproduce": ["--dataset=x", "--input=x", "--config=x", "--work_dir=x"],
    "growth": ["--work_dir=x"],
    "serving_memory": ["--work_dir=x"],
    "serving_index": ["--model_dir=x", "--data_dir=x", "--work_dir=x"],
    "serving_latency": ["--version=x", "--data_dir=x"],
    "serving_swaps": ["--work_dir=x"],
    "table2": ["--dataset=x", "--input=x", "--work_dir=x"],
    "text_logs": ["--work_dir=x"],
    "training_kills": ["--work_dir=x"],
    "training_speed": ["--log=x", "--max_seq_length=1", "--masking_rate=0.5", "--work_dir=x"],
}
PEER_MODULES = (
    "pandas", "pytorch_lightning", "recbole", "recbole.config", "recbole.data", "recbole.model",
    "recbole.model.sequential_recommender", "recbole.utils", "recbole.utils.case_study", "rectools", "rectools.dataset",
    "rectools.fast_transformers", "rectools.models", "torch",
)  # fmt: skip


def test_every_script_ends_as_the_commands_do() -> None:
    assert len(SCRIPTS) > 12
    for path in SCRIPTS:
        functions = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
        (main,) = (function for function in functions if function.name == "main")
        assert [ast.unparse(decorator) for decorator in main.decorator_list] == ["command"], path


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(path, id=path.stem, marks=[] if path.stem == "results_table" else pytest.mark.slow)
        for path in SCRIPTS
    ],
)
def test_a_positional_argument_is_an_error(script: pathlib.Path) -> None:
    printed = command_line.run(script, *REQUIRED_FLAGS.get(script.stem, []), "stray", code=2)
    assert printed.endswith("error: Arguments must be flags. Received: stray. Fix: write --name=value\n")


@pytest.mark.parametrize("name", ["recbole_bert4rec", "rectools_bert4rec", "rectools_fast_sasrec"])
@pytest.mark.parametrize("arguments", [[], ["{}", "stray"]])
def test_the_peers_scripts_take_one_argument(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in PEER_MODULES:
        monkeypatch.setitem(sys.modules, module, mock.MagicMock())
    monkeypatch.setattr(sys.modules["pytorch_lightning"], "Callback", object)
    script = str(ROOT / "benchmarks" / "peers" / f"{name}.py")
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "peers")  # as for a script that is run
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    with pytest.raises(SystemExit, match="the only argument must be a JSON object"):
        runpy.run_path(script)
