"""The projector's files hold one row per item, also for titles with tabs or line ends; traces cover ten steps."""

import pathlib

import numpy as np
import pytest

from bert4rec_tf.training import tensorboard
from bert4rec_tf.training.steps import StepSums
from bert4rec_tf.training.tensorboard import Profiler, write_projector
from tfrecords.vocabulary import NUM_SPECIAL_IDS, Vocabulary


def test_projector_files_have_one_row_per_item(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = Vocabulary(("a\tb", "c\n", 'd"', "e"), np.array([4, 3, 2, 1]), ("A\tTitle\r\n", None, None, "E"))
    table = np.random.default_rng(1).normal(size=(4 + NUM_SPECIAL_IDS, 3)).astype(np.float32)
    write_projector(tmp_path, table, vocabulary)
    np.testing.assert_allclose(np.loadtxt(tmp_path / "items.tsv"), table[NUM_SPECIAL_IDS:], rtol=1e-5)
    rows = [line.split("\t") for line in (tmp_path / "items_metadata.tsv").read_text().splitlines()]
    assert rows == [
        ["item", "item_id", "count"],
        ["A\\tTitle\\r\\n", "a\\tb", "4"],
        ["c\\n", "c\\n", "3"],
        ['d\\"', 'd\\"', "2"],
        ["E", "e", "1"],
    ]
    config = (tmp_path / "projector_config.pbtxt").read_text()
    assert all((tmp_path / name).name in config for name in ("items.tsv", "items_metadata.tsv"))
    monkeypatch.setattr(tensorboard, "MAX_ITEMS", 2)
    write_projector(tmp_path, table, vocabulary)
    assert len((tmp_path / "items.tsv").read_text().splitlines()) == 2
    assert len((tmp_path / "items_metadata.tsv").read_text().splitlines()) == 3


def test_tensorboard_reads_the_configuration(tmp_path: pathlib.Path) -> None:
    from google.protobuf import text_format
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    write_projector(tmp_path, np.zeros((NUM_SPECIAL_IDS + 1, 2)), Vocabulary(("a",), np.array([1]), (None,)))
    parsed = text_format.Parse((tmp_path / "projector_config.pbtxt").read_text(), ProjectorConfig())
    assert parsed.embeddings[0].tensor_path == "items.tsv"


def test_a_trace_covers_ten_steps_for_any_size_of_call(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    made: list[str] = []
    monkeypatch.setattr("tensorflow.profiler.experimental.start", lambda _: made.append("start"))
    monkeypatch.setattr("tensorflow.profiler.experimental.stop", lambda: made.append("stop"))
    for calls in ([1, 2, 102, 100, 100], [10, 10, 5, 5, 5]):
        made.clear()
        profiler, after = Profiler(tmp_path), []
        for number in calls:
            profiler.after_steps(StepSums(number, 1.0, 1.0, 1.0, 0.0, 1.0))
            after.append(len(made))
        profiler.close()
        assert made == ["start", "stop"]
        assert after == ([0, 0, 1, 2, 2] if calls[2] == 102 else [0, 1, 1, 2, 2])
