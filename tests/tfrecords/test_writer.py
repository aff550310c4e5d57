"""Shards: TensorFlow reads them, their description is right, and a partial one never appears."""

import hashlib
import pathlib
from collections.abc import Iterator

import pytest
import tensorflow as tf

from tfrecords.writer import Shard, shard_name, write_shard

RECORDS = [b"one", b"", b"\x00\xff" * 70_000, b"four"]


@pytest.mark.parametrize("records", [RECORDS, []])
def test_tensorflow_reads_back_what_was_written(tmp_path: pathlib.Path, records: list[bytes]) -> None:
    shard = write_shard(tmp_path, "train/a.tfrecord", iter(records))
    assert [record.numpy() for record in tf.data.TFRecordDataset(str(tmp_path / "train/a.tfrecord"))] == records
    content = (tmp_path / "train/a.tfrecord").read_bytes()
    assert shard == Shard("train/a.tfrecord", len(records), len(content), hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("before", [None, b"an earlier file"])
def test_a_failure_midway_changes_nothing(tmp_path: pathlib.Path, before: bytes | None) -> None:
    if before:
        (tmp_path / "train").mkdir()
        (tmp_path / "train/a.tfrecord").write_bytes(before)

    def failing() -> Iterator[bytes]:
        yield from RECORDS
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_shard(tmp_path, "train/a.tfrecord", failing())
    left = {path.name: path.read_bytes() for path in (tmp_path / "train").iterdir()}
    assert left == ({"a.tfrecord": before} if before else {})


def test_a_second_write_replaces_the_first(tmp_path: pathlib.Path) -> None:
    write_shard(tmp_path, "train/a.tfrecord", RECORDS)
    again = write_shard(tmp_path, "train/a.tfrecord", [b"other"])
    assert (again.records, again.bytes) == (1, (tmp_path / "train/a.tfrecord").stat().st_size)
    assert len(list((tmp_path / "train").iterdir())) == 1


def test_shard_names_sort_by_number() -> None:
    assert shard_name("train", 3, 8) == "train/00003-of-00008.tfrecord"
    names = [shard_name("test", index, 1234) for index in range(1234)]
    assert names == sorted(names)
