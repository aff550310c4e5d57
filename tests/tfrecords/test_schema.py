"""The record encoder against tf.train.Example, and the parser against the encoder."""

from itertools import pairwise

import numpy as np
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.parsed_record import parse
from tests.support.ragged_lists import ragged
from tfrecords.schema import EVALUATION_USER, MASKED_WINDOW, Column, Schema, encode, parse_batch

Row = dict[str, list[int] | int | str]


def rows_of(schema: Schema, largest: int) -> st.SearchStrategy[list[Row]]:
    ids = st.integers(0, largest) | st.sampled_from([0, 127, 128, 16_383, 16_384, largest])
    times = st.lists(st.integers(-(10**15), 10**15), max_size=8).map(sorted)
    kinds = {"ids": st.lists(ids, max_size=8), "id": ids, "text": st.text(max_size=8), "times": times}
    return st.lists(st.fixed_dictionaries({feature.name: kinds[feature.kind] for feature in schema}), max_size=5)


def columns_of(schema: Schema, rows: list[Row]) -> dict[str, Column]:
    arrays = {"ids": ragged, "times": ragged, "id": lambda values: np.array(values, np.int64), "text": list}
    return {feature.name: arrays[feature.kind]([row[feature.name] for row in rows]) for feature in schema}


def example_of(schema: Schema, row: Row) -> bytes:
    features = {}
    for feature in schema:
        value = row[feature.name]
        if feature.kind == "text":
            features[feature.name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))
        else:
            values = [value] if feature.kind == "id" else value
            if feature.kind == "times":
                values = value[:1] + [later - earlier for earlier, later in pairwise(value)]
            features[feature.name] = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True)


LONG = {
    "item_ids": list(range(3, 300)),
    "negative_item_ids": [2**40] * 90,
    "target_item_id": 0,
    "times": [-7, -7, 0, 2**31, 2**40],
    "trained_items": 150,
    "user_id": "Zoë 😀" * 40,
}
EMPTY = {
    "item_ids": [],
    "negative_item_ids": [],
    "target_item_id": 2**31,
    "times": [],
    "trained_items": 0,
    "user_id": "",
}


@given(rows_of(EVALUATION_USER, 2**40))
@example([LONG, EMPTY, LONG])
@settings(max_examples=100)
def test_evaluation_users_are_the_bytes_of_the_protocol_buffer(rows: list[Row]) -> None:
    encoded = encode(EVALUATION_USER, columns_of(EVALUATION_USER, rows))
    assert encoded == [example_of(EVALUATION_USER, row) for row in rows]


@given(rows_of(MASKED_WINDOW, 2**40))
@settings(max_examples=50)
def test_masked_windows_are_the_bytes_of_the_protocol_buffer(rows: list[Row]) -> None:
    encoded = encode(MASKED_WINDOW, columns_of(MASKED_WINDOW, rows))
    assert encoded == [example_of(MASKED_WINDOW, row) for row in rows]


@given(rows_of(EVALUATION_USER, 2**31 - 1))
@example(
    [EMPTY | {"negative_item_ids": [7], "target_item_id": 2**31 - 1, "times": [-(2**40), 5], "user_id": "Zoë\t😀"}]
)
@settings(max_examples=30)
def test_parse_gives_the_rows_back(rows: list[Row]) -> None:
    records = encode(EVALUATION_USER, columns_of(EVALUATION_USER, rows))
    together = parse_batch(EVALUATION_USER, tf.constant(records, tf.string))
    for name, values in together.items():
        found = values.to_list() if isinstance(values, tf.RaggedTensor) else values.numpy().tolist()
        assert found == [row[name].encode() if name == "user_id" else row[name] for row in rows]
    for row, record in zip(rows, records, strict=True):
        parsed = parse(EVALUATION_USER, tf.constant(record))
        assert parsed["user_id"].numpy().decode() == row["user_id"]
        for name in ("item_ids", "negative_item_ids", "target_item_id"):
            assert parsed[name].dtype == tf.int32
            assert parsed[name].numpy().tolist() == row[name]
        assert parsed["times"].dtype == tf.int64
        assert parsed["times"].numpy().tolist() == row["times"]


def test_records_without_times_are_read() -> None:
    earlier = tuple(feature for feature in MASKED_WINDOW if feature.kind != "times")
    row = {"item_ids": [3, 4], "masked_counts": [1], "masked_positions": [0], "shown_item_ids": []}
    (record,) = encode(earlier, columns_of(earlier, [row]))
    parsed = parse(MASKED_WINDOW, tf.constant(record))
    assert parsed["item_ids"].numpy().tolist() == [3, 4]
    assert parsed["times"].numpy().tolist() == []


def test_features_are_sorted_by_name() -> None:
    for schema in (MASKED_WINDOW, EVALUATION_USER):
        assert list(schema) == sorted(schema, key=lambda feature: feature.name)
