"""The README's Python example."""

import pathlib
import re

import pytest

from tests.support.command_line import ROOT
from tests.support.small_run import LOG


@pytest.mark.slow
def test_the_readme_in_python(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = pytest.importorskip("pandas")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(import bert4rec_tf\n.*?)```", readme, re.DOTALL)
    log = LOG.to_pandas()
    log["item_id"] = (log["item_id"].str.removeprefix("item-").astype(int) + 160).astype(str)
    log["timestamp"] = pandas.to_datetime(log["timestamp"], unit="s")
    monkeypatch.chdir(tmp_path)
    exec(code.replace("2000", "2").replace('"378"', '"170"'), {"log": log})
