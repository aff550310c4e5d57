"""The examples run as they are: the Python script and the notebook. test_nightly_job.py has the nightly job."""

import json
import pathlib

import pytest

from tests.support.command_line import ROOT, run

EXAMPLES = ROOT / "examples"
NOTEBOOK = EXAMPLES / "movielens.ipynb"
ML_100K = ROOT.parent / "shared/data/ml-100k"


@pytest.mark.slow
def test_the_python_script_recommends_better_than_popularity() -> None:
    pytest.importorskip("pandas", reason="pandas is installed on Python 3.11 and later")
    rows = [line.split() for line in run(EXAMPLES / "python_api.py").splitlines()]
    (scores,) = (row[1:] for row in rows if row[:1] == ["ndcg@10"])
    popularity, model = map(float, scores)
    assert model > 2 * popularity


def test_the_notebook_is_stored_with_its_outputs() -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    text = json.dumps(outputs)
    assert "<iframe srcdoc=" in text, "the report"
    assert "/tmp/" not in text
    assert str(ROOT) not in text


@pytest.mark.slow
@pytest.mark.parametrize(
    "data",
    [
        "synthetic",
        pytest.param("ml-100k", marks=pytest.mark.skipif(not ML_100K.exists(), reason=f"{ML_100K} is absent")),
    ],
)
def test_the_notebook_runs(data: str, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs requirements-dev.txt, on Python 3.11 and later")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("ML_100K", str(ML_100K if data == "ml-100k" else tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    events = {"synthetic": "1,000 users, 300 items", "ml-100k": "100,000 events of 943 users, 1,682 items"}
    assert events[data] in code[1].outputs[0]["text"]
    table = next(cell.outputs[-1]["data"]["text/plain"] for cell in code if "evaluations = {" in cell.source)
    (scores,) = (line.split()[1:] for line in table.splitlines() if line.startswith("ndcg@10"))
    popularity, model = map(float, scores)
    assert model > 1.2 * popularity
