"""Writes shards: TFRecord files that appear complete or not at all."""

import dataclasses
import hashlib
import pathlib
import struct
import uuid
from collections.abc import Iterable

import google_crc32c

from tfrecords.files import replacing

FRAME_BYTES = 16  # per record: its length and two checksums


@dataclasses.dataclass(frozen=True)
class Shard:
    """One written file, as the manifest lists it.

    Attributes:
        file: path below the data directory, with `/`.
        records: number of records in it.
        bytes: its size.
        sha256: hex digest of its bytes.

    >>> built.manifest.shards("test")[0]
    Shard(file='test/00000-of-00001.tfrecord', records=20, bytes=..., sha256='...')
    """

    file: str
    records: int
    bytes: int
    sha256: str


def shard_name(split: str, index: int, num_shards: int) -> str:
    """The file of a shard below the data directory.

    >>> shard_name("train", 3, 8)
    'train/00003-of-00008.tfrecord'
    """
    return f"{split}/{index:05d}-of-{num_shards:05d}.tfrecord"


def write_shard(data_dir: str | pathlib.Path, file: str, records: Iterable[bytes]) -> Shard:
    """Writes `records` to `data_dir/file` by rename, so that a reader never sees a partial shard.

    Raises:
        OSError: the directory cannot be written or the disk is full; no file is left behind.

    >>> shard = write_shard("shards", "train/00000-of-00001.tfrecord", [b"a record", b"another"])
    >>> shard.records, shard.bytes == len(b"a record") + len(b"another") + 2 * FRAME_BYTES
    (2, True)
    """
    path = pathlib.Path(data_dir) / file
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, count, size = hashlib.sha256(), 0, 0
    # Two tasks may write the same shard at once: Spark runs a slow task a second time.
    with replacing(path, tag=f"{uuid.uuid4().hex}.") as stream:
        for record in records:
            framed = _frame(record)
            stream.write(framed)
            digest.update(framed)
            count, size = count + 1, size + len(framed)
    return Shard(file, count, size, digest.hexdigest())


def _frame(record: bytes) -> bytes:
    """TFRecord framing: length, its masked CRC, the record, its masked CRC (tensorflow/core/lib/io/record_writer)."""
    length = struct.pack("<Q", len(record))
    return b"".join((length, _masked_crc(length), record, _masked_crc(record)))


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
