"""Recommendations in object stores: `_SUCCESS` comes last, and what could not be uploaded waits on this machine."""

import pathlib

import pytest

from bert4rec_tf.scoring.output_store import fetch_output, stored_output
from tests.support.model_dirs import files_in
from tests.support.object_stores import FlakyMemory, memory_store  # noqa: F401, a fixture
from tfrecords.errors import InputError
from tfrecords.stores import Store, StoreError

URL = "s3://bucket/night"
FILES = ("_metadata.json", "_monitoring.json", "part-00000.parquet", "part-00001.parquet", "_SUCCESS")


def score(content: str = "1", parts: int = 2) -> None:
    """The files that a new run writes."""
    with stored_output(URL) as (local, _):
        local.mkdir(exist_ok=True)
        for name in FILES[: 2 + parts] + FILES[-1:]:
            (local / name).write_text(content)


def test_success_comes_last_and_nothing_stays_here(memory: FlakyMemory, tmp_path: pathlib.Path) -> None:
    score()
    assert [path.rpartition("/")[2] for path in (memory.written[0], memory.written[-1])] == [
        "_metadata.json",
        "_SUCCESS",
    ]
    assert not list((tmp_path / "cache/recommendations").glob("night-*"))
    assert set(files_in(fetch_output(URL))) == set(FILES)


def test_a_finished_run_is_not_uploaded_again(memory: FlakyMemory) -> None:
    score()
    sent = len(memory.written)
    with stored_output(URL) as (local, is_new):
        assert not is_new
        assert set(files_in(local)) == {"_metadata.json", "_monitoring.json", "_SUCCESS"}
    assert len(memory.written) == sent


def test_another_run_replaces_all_parts(memory: FlakyMemory) -> None:
    score()
    score("2", parts=1)
    assert files_in(fetch_output(URL)) == {name: b"2" for name in FILES if name != "part-00001.parquet"}


def test_a_store_that_fails_half_way_is_not_marked_and_the_parts_stay_here(memory: FlakyMemory) -> None:
    def refuse(path: str) -> None:
        if "part-00001" in path:
            raise OSError("AWS Error SLOW_DOWN")

    memory.refuse = refuse
    with pytest.raises(StoreError, match=r"SLOW_DOWN \(s3://bucket/night/part-00001.parquet\)"):
        score()
    assert Store.open(URL).stamp("_SUCCESS") is None
    memory.refuse = lambda _: None
    with stored_output(URL) as (local, _):
        assert set(files_in(local)) == set(FILES)
    assert set(files_in(fetch_output(URL))) == set(FILES)


def test_a_folder_with_other_files_is_refused(memory: FlakyMemory) -> None:
    memory.pipe_file("/bucket/night/precious.txt", b"1")
    with pytest.raises(
        InputError, match=r"--output must be new, empty or made by recommend.py. Received: s3://bucket/night"
    ):
        score()
