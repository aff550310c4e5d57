"""What a run refuses to train on."""

import pathlib

import pytest

from bert4rec_tf.config import Config
from pipelines.build import build_records
from pipelines.sources.log_source import LogSource
from tests.support.short_run import build, train_here
from tfrecords.errors import InputError


def test_a_causal_model_refuses_windows_of_one_item(tmp_path: pathlib.Path) -> None:
    data_dir = build(tmp_path / "data", min_events=3, max_events=3)
    with pytest.raises(InputError, match=r"at least two items\. Received: 30 training windows .* all of one item"):
        train_here(data_dir, tmp_path / "model", model={"attention": "causal"})
    assert not (tmp_path / "model").exists()


def test_records_of_a_single_item_are_refused(tmp_path: pathlib.Path) -> None:
    log, data_dir = tmp_path / "log.txt", tmp_path / "data"
    log.write_text("".join(f"{user} item\n" for user in "aabb" * 3))
    build_records(LogSource([str(log)], "user_item"), {}, Config(), str(data_dir))
    with pytest.raises(InputError, match=r"at least two items to choose from\. Received: 1 in"):
        train_here(data_dir, tmp_path / "model")
