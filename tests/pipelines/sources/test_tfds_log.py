"""A dataset in tensorflow-datasets' own on-disk format goes through the command; an unknown one is named."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from pipelines.sources.tfds_log import _table
from tests.support.command_line import ROOT
from tfrecords.manifest import Manifest
from tfrecords.vocabulary import Vocabulary


def make(tfds_dir: pathlib.Path, output_dir: pathlib.Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "pipelines/make_tfrecords.py", f"--output_dir={output_dir}", *flags],
        cwd=ROOT,
        env=os.environ | {"TFDS_DATA_DIR": str(tfds_dir)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.slow
def test_a_stored_dataset_becomes_records(tmp_path: pathlib.Path) -> None:
    events = np.arange(70)
    log = {
        "user_id": [str(user) for user in events % 7],
        "movie_id": [f"film {film}" for film in events % 11],
        "timestamp": events,
        "user_rating": (events % 5 + 1).astype(np.float32),
    }
    kinds = {"user_id": tf.string, "movie_id": tf.string, "timestamp": tf.int64, "user_rating": tf.float32}
    tfds.dataset_builders.store_as_tfds_dataset(
        name="tiny_log",
        version="1.0.0",
        data_dir=tmp_path,
        split_datasets={"train": tf.data.Dataset.from_tensor_slices(log)},
        features=tfds.features.FeaturesDict(kinds),
    )
    made = make(tmp_path, tmp_path / "data", "--dataset=tfds:tiny_log", "--min_rating=2")
    assert made.returncode == 0, made.stderr
    manifest = Manifest.load(tmp_path / "data")
    assert (manifest.counts["rows_read"], manifest.counts["low_rated_rows_dropped"]) == (70, 14)
    assert (manifest.counts["users"], manifest.counts["items"]) == (7, 11)
    assert set(Vocabulary.load(tmp_path / "data").item_ids) == {f"film {film}" for film in range(11)}

    wrong = make(tmp_path, tmp_path / "other", "--dataset=tfds:tiny_log", "--item_column=film")
    assert wrong.returncode == 2
    assert "must have the feature 'film'. Received: " in wrong.stderr
    unknown = make(tmp_path, tmp_path / "other", "--dataset=tfds:no_such_dataset")
    assert unknown.returncode == 2
    assert "'no_such_dataset'" in unknown.stderr
    assert "Traceback" not in wrong.stderr + unknown.stderr


def test_ids_that_are_not_utf8_are_set_aside() -> None:
    columns = {
        "user_id": np.array([b"u", b"\xff", "Zo\u00eb".encode()], object),
        "item_id": np.array([1, 2, 3]),
        "timestamp": np.array([5, 6, 7]),
    }
    table = _table(columns).to_pydict()
    assert table["user_id"] == ["u", None, "Zo\u00eb"]
    assert table["item_id"] == ["1", "2", "3"]
    assert table["fault"] == [None, "holds an id that is not UTF-8", None]
    assert table["timestamp"] == [5, 6, 7]
