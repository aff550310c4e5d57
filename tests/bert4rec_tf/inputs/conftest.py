"""Records of a small log."""

import pathlib

import pytest

from pipelines.build import build_records
from tests.support.training_records import CONFIG, LOG
from tfrecords.manifest import Manifest


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("reader") / "data"
    build_records(LOG, {}, CONFIG, str(directory))
    return directory


@pytest.fixture(scope="session")
def manifest(data_dir: pathlib.Path) -> Manifest:
    return Manifest.load(data_dir)
