"""Records and a model of a small log."""

import pathlib

import pytest

import bert4rec_tf
from tests.support.small_run import CONFIG, LOG


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("api") / "data"
    titles = {item_id: f"The {item_id}" for item_id in set(LOG["item_id"].to_pylist())}
    bert4rec_tf.build_records(LOG, path, CONFIG, timestamp_unit="s", titles=titles)
    return path


@pytest.fixture(scope="session")
def model_dir(data_dir: pathlib.Path) -> pathlib.Path:
    path = data_dir.with_name("model")
    assert bert4rec_tf.train(data_dir, path, CONFIG) is not None
    return path
