"""The feature table: it encodes the records that the pipeline writes and parses those that the model reads.

A record is a `tf.train.Example` whose features are int64 lists of any length (no padding) or one bytes value. Times are
stored as gaps, which take fewer bytes.
Encoding needs no TensorFlow, so that the pipeline starts fast and its workers need little memory. The bytes are those
of the protocol buffer with the features sorted by name (the tests compare them with `tf.train.Example`).
"""

import dataclasses
import functools
import itertools
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf
from tfrecords.ragged import Ragged

SCHEMA_VERSION = 3
READABLE_VERSIONS = (2, 3)  # records of version 2 have no times


@dataclasses.dataclass(frozen=True)
class Feature:
    """One feature of a record.

    `ids` is an int64 list of any length, `id` one int64, `text` one UTF-8 string, and `times` an int64 list of any
    length: the first event's time, then the seconds from each event to the next.

    >>> {feature.name: feature.kind for feature in MASKED_WINDOW[2:]}
    {'masked_positions': 'ids', 'shown_item_ids': 'ids', 'times': 'times'}
    """

    name: str
    kind: Literal["ids", "id", "text", "times"]
    description: str


# Sorted by name: the order in which a protocol buffer map is serialised deterministically.
MASKED_WINDOW = (
    Feature("item_ids", "ids", "one window of a training sequence, oldest first"),
    Feature("masked_counts", "ids", "how many slots are masked in each instance of the window"),
    Feature(
        "masked_positions",
        "ids",
        "the masked slots of all instances, concatenated; rising in each, counted from 0",
    ),
    Feature("shown_item_ids", "ids", "the ids that the masked slots show; empty if all show [MASK]"),
    Feature("times", "times", "the times of the window's events, in seconds"),
)
EVALUATION_USER = (
    Feature("item_ids", "ids", "the user's whole history before the target, oldest first"),
    Feature("negative_item_ids", "ids", "distinct items that the user never interacted with, drawn by popularity"),
    Feature("target_item_id", "id", "the item to be predicted"),
    Feature("times", "times", "the times of the history's events and of the target, in seconds"),
    Feature("trained_items", "id", "how many items the user's training sequence has"),
    Feature("user_id", "text", "the user's id in the log"),
)
Schema = tuple[Feature, ...]
Column = Ragged | np.ndarray | list[str]


def encode(schema: Schema, columns: dict[str, Column]) -> list[bytes]:
    """Serialises records, column by column.

    Args:
        schema: the feature table.
        columns: by feature name: `ids` and `times` a `Ragged`, `id` an integer array [rows], `text` a list of str.
            Times are given in seconds, and `encode` takes the gaps.

    Returns:
        One serialised tf.train.Example per row.

    >>> schema = (Feature("item_ids", "ids", "a history"), Feature("user_id", "text", "its user"))
    >>> histories = Ragged.from_lengths(np.array([3, 5, 4]), np.array([2, 1]))
    >>> [len(record) for record in encode(schema, {"item_ids": histories, "user_id": ["ann", "bo"]})]
    [42, 40]
    """
    pieces = [_encode_feature(feature, columns[feature.name]) for feature in schema]
    records = []
    for row in zip(*pieces, strict=True):
        features = b"".join(row)
        records.append(b"\x0a" + _varint(len(features)) + features)
    return records


def parse_batch(schema: Schema, serialized: "tf.Tensor") -> "dict[str, tf.Tensor | tf.RaggedTensor]":
    """Parses serialised records, which takes a tenth of the time of parsing them one by one.

    Args:
        schema: the feature table.
        serialized: string [R].

    Returns:
        By feature name: `ids` a ragged int32 [R, any length], `id` int32 [R], `text` string [R], and `times` a ragged
        int64 [R, any length], in seconds; empty rows if the records have none.

    >>> import tensorflow as tf
    >>> records = next(iter(tf.data.TFRecordDataset("data/test/00000-of-00001.tfrecord").batch(2)))
    >>> parse_batch(EVALUATION_USER, records)["target_item_id"].numpy().tolist()
    [9, 10]
    """
    import tensorflow as tf

    kinds = {
        "ids": tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64),
        "times": tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64),
        "id": tf.io.FixedLenFeature([], tf.int64),
        "text": tf.io.FixedLenFeature([], tf.string),
    }
    parsed = tf.io.parse_example(serialized, {feature.name: kinds[feature.kind] for feature in schema})
    for feature in schema:
        values = parsed[feature.name]
        if feature.kind == "times":
            sums = tf.cumsum(values.values)
            before = tf.gather(tf.concat([[tf.constant(0, tf.int64)], sums], axis=0), values.row_starts())
            parsed[feature.name] = values.with_values(sums - tf.repeat(before, values.row_lengths()))
        elif feature.kind != "text":
            parsed[feature.name] = tf.cast(values, tf.int32)
    return parsed


def _encode_feature(feature: Feature, column: Column) -> list[bytes]:
    """One serialised entry of the Features map per row."""
    if isinstance(column, list):
        texts = [text.encode("utf-8") for text in column]
        return [_entry_prefix(feature.name, 1, len(text)) + text for text in texts]
    rows = column if isinstance(column, Ragged) else Ragged(np.asarray(column), np.arange(len(column) + 1))
    if feature.kind == "times":
        rows = _gaps(rows)
    packed, ends = _varints(rows.values)
    bounds = np.concatenate([[0], ends])[rows.offsets].tolist()
    payload = packed.tobytes()
    return [
        _entry_prefix(feature.name, 3, end - start) + payload[start:end] for start, end in itertools.pairwise(bounds)
    ]


def _gaps(times: Ragged) -> Ragged:
    """The first time of each row, then the differences."""
    gaps = np.diff(times.values, prepend=0)
    first = times.offsets[:-1][times.lengths > 0]
    gaps[first] = times.values[first]
    return Ragged(gaps, times.offsets)


@functools.lru_cache(maxsize=1 << 16)  # few sizes recur
def _entry_prefix(name: str, list_field: int, size: int) -> bytes:
    """The bytes before the payload in `Features.feature[name] = {bytes_list (1) or int64_list (3) {value}}`."""
    value = b"\x0a" + _varint(size) if size or list_field == 1 else b""  # an empty packed list is left out
    values = bytes([list_field << 3 | 2]) + _varint(len(value) + size) + value
    key = name.encode()
    entry = b"\x0a" + _varint(len(key)) + key + b"\x12" + _varint(len(values) + size) + values
    return b"\x0a" + _varint(len(entry) + size) + entry


def _varint(value: int) -> bytes:
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def _varints(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Protocol buffer varints of int64 values: their bytes, and where each value ends. Negative ones take 10 bytes."""
    values = values.astype(np.uint64)
    sizes = np.ones(len(values), np.int64)
    for bits in range(7, 64, 7):
        more = values >= (np.uint64(1) << np.uint64(bits))
        if not more.any():
            break
        sizes += more
    ends = np.cumsum(sizes)
    packed = np.empty(ends[-1] if len(ends) else 0, np.uint8)
    for byte in range(int(sizes.max(initial=0))):
        has = sizes > byte
        low = (values[has] >> np.uint64(7 * byte)) & np.uint64(0x7F)
        packed[ends[has] - sizes[has] + byte] = low | (sizes[has] > byte + 1).astype(np.uint64) << np.uint64(7)
    return packed, ends
