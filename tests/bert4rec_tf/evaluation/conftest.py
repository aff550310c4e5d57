"""Records of a small log."""

import pathlib

import pytest

from pipelines.build import build_records
from tests.support.evaluated_log import CONFIG, LOG


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("evaluation") / "data"
    build_records(LOG, {}, CONFIG, str(path))
    return path
