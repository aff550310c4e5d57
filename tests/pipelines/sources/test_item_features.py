"""Tables of item features: equal in every format, kinds that follow from the values, and faults named by row."""

import json
import pathlib
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.sources.item_features import FeatureTable, parse_kinds, read_feature_table
from tfrecords.errors import InputError
from tfrecords.item_features import CategoricalFeature, NumericFeature, VectorFeature

ROWS: list[dict[str, Any]] = [
    {"item_id": "a", "brand": "x", "tags": ["red", "blue"], "price": 1.5, "text": [1.0, 2.0], "title": "Film, A"},
    {"item_id": "b", "brand": None, "tags": [], "price": None, "text": None, "title": None},
    {"item_id": "c", "brand": "y|z", "tags": ["red"], "price": 2.0, "text": [0.5, -1.0], "title": "C"},
]
KINDS = {"brand": "categorical", "tags": "categorical", "price": "numeric", "text": "vector"}


def write(path: pathlib.Path, rows: list[dict[str, Any]] = ROWS) -> str:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        cells = [
            {
                name: json.dumps(value)
                if name == "text" and value
                else "|".join(value)
                if isinstance(value, list)
                else value
                for name, value in row.items()
            }
            for row in rows
        ]
        pd.DataFrame(cells).to_csv(path, sep="\t" if path.suffix == ".tsv" else ",", index=False, quotechar='"')
    return str(path)


def text_of(table: FeatureTable) -> tuple[Any, ...]:
    """Everything that was read, as values that compare."""
    return (
        table.item_ids,
        table.kinds,
        table.titles,
        table.columns["tags"],
        np.nan_to_num(table.columns["price"], nan=-1).tolist(),
        np.nan_to_num(table.columns["text"], nan=-9).tolist(),
    )


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv"])
def test_every_format_reads_the_same(tmp_path: pathlib.Path, ending: str) -> None:
    table = read_feature_table(write(tmp_path / f"items.{ending}"))
    assert text_of(table) == (
        ["a", "b", "c"],
        KINDS,
        {"a": "Film, A", "c": "C"},
        [("red", "blue"), (), ("red",)],
        [1.5, -1, 2.0],
        [[1.0, 2.0], [-9, -9], [0.5, -1.0]],
    )
    brands = [("x",), (), ("y", "z") if ending == "csv" else ("y|z",)]
    assert table.columns["brand"] == brands, "only text files separate several categories by |"


def test_features_follow_the_vocabulary(tmp_path: pathlib.Path) -> None:
    features = read_feature_table(write(tmp_path / "items.jsonl")).features_of(["c", "other", "a"])
    brand, tags, price, text = features.features
    assert isinstance(brand, CategoricalFeature)
    assert isinstance(tags, CategoricalFeature)
    assert isinstance(price, NumericFeature)
    assert isinstance(text, VectorFeature)
    assert (tags.categories, tags.values.values.tolist(), tags.values.lengths.tolist()) == (
        ("red", "blue"),
        [0, 0, 1],
        [1, 0, 2],
    )
    np.testing.assert_array_equal(price.values, [2.0, np.nan, 1.5])
    np.testing.assert_array_equal(text.values, np.array([[0.5, -1], [np.nan, np.nan], [1, 2]], np.float32))
    assert features.has_value().tolist() == [True, False, True]
    assert features.counts() == {"brand": 2, "tags": 2, "price": 2, "text": 2}


def test_items_in_no_event_are_named_by_row(tmp_path: pathlib.Path) -> None:
    table = read_feature_table(write(tmp_path / "items.csv"))
    assert [(table.item_ids[row], table.places[row]) for row in table.items_outside(["a"])] == [
        ("b", "line 3"),
        ("c", "line 4"),
    ]


def test_new_items_are_numbered_as_the_trained_ones(tmp_path: pathlib.Path) -> None:
    table = read_feature_table(write(tmp_path / "items.jsonl"))
    trained = table.features_of(["a"])
    brand, tags, price, _ = table.features_of(["c", "a"], trained).features
    assert isinstance(brand, CategoricalFeature)
    assert isinstance(tags, CategoricalFeature)
    assert isinstance(price, NumericFeature)
    assert (brand.categories, brand.values.lengths.tolist()) == (("x",), [0, 1]), "y|z was not trained"
    assert tags.values.values.tolist() == [tags.categories.index("red"), *range(2)]
    assert (price.mean, price.deviation) == (1.5, 1.0)
    other = read_feature_table(write(tmp_path / "other.jsonl", [{"item_id": "a", "brand": "x"}]))
    with pytest.raises(InputError, match=r"text \(vector of 2\).*Received: .*other.jsonl with brand \(categorical\)"):
        other.features_of(["a"], trained)


def test_kinds_can_be_named(tmp_path: pathlib.Path) -> None:
    rows = [{"item_id": "a", "year": 1999, "code": 1.5}, {"item_id": "b", "year": None, "code": 2.5}]
    path = write(tmp_path / "items.jsonl", rows)
    assert read_feature_table(path).kinds == {"year": "categorical", "code": "numeric"}
    table = read_feature_table(path, {"year": "numeric", "code": "categorical"})
    np.testing.assert_array_equal(table.columns["year"], [1999, np.nan])
    assert table.columns["code"] == [("1.5",), ("2.5",)]
    assert parse_kinds(["a:b:numeric", "c:vector"]) == {"a:b": "numeric", "c": "vector"}


@pytest.mark.parametrize("kinds", ["year", "year:number", ":numeric"])
def test_a_kind_must_be_a_known_one(kinds: str) -> None:
    with pytest.raises(InputError, match="must be NAME:KIND pairs"):
        parse_kinds([kinds])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("items.csv", "item,brand\na,x\n", "must have a header with item_id"),
        ("items.csv", "item_id\na\n", "must have a header with item_id and the names of the features"),
        ("items.csv", "item_id,x,x\na,1,2\n", "each with a name of its own"),
        ("items.csv", "item_id,brand\na,x\nb\n", "line 3 must have 2 fields"),
        ("items.csv", "item_id,brand\na,x\n,y\n", "Each row needs an item_id.*line 3"),
        ("items.csv", "item_id,brand\na,x\nb,y\na,z\n", "must have one row. Received: 'a', which line 2 has.*line 4"),
        ("items.csv", "item_id,brand\n", "must have a row"),
        ("items.csv", 'item_id,t\na,"[1.0, 2.0]"\nb,"[1.0]"\n', "Received: 1 numbers, where line 2 has 2.*line 3"),
        ("items.jsonl", '{"item_id": "a", "t": [1.0, 2.0]}\n{"item_id": "b", "t": [1.0, 1e999]}\n', "finite.*line 2"),
        ("items.jsonl", '{"item_id": "a", "x": 1.5}\n{"item_id": "b", "x": "much"}\n', "Received: 'much'.*line 2"),
        ("items.jsonl", '{"item_id": "a", "x": {"y": 1}}\n', "must hold categories.*line 1"),
        ("items.jsonl", '{"item_id": "a", "x": 1.5}\n[1]\n', "must be a JSON object.*line 2"),
        ("items.jsonl", '{"item_id": 1.5, "x": 1.5}\n', "Each row needs an item_id.*1.5.*line 1"),
        ("items.parquet", "nothing", "must be a Parquet file"),
        ("items.xml", "<x/>", "must be a .parquet, .csv, .tsv or .jsonl file"),
    ],
)
def test_faults_are_named(tmp_path: pathlib.Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_feature_table(str(tmp_path / name))


def test_ragged_vectors_of_parquet_are_named_by_row(tmp_path: pathlib.Path) -> None:
    rows = [{"item_id": "a", "text": [1.0, 2.0]}, {"item_id": "b", "text": None}, {"item_id": "c", "text": [3.0]}]
    with pytest.raises(InputError, match=r"Received: 1 numbers, where row 1 has 2 in .*, row 3"):
        read_feature_table(write(tmp_path / "items.parquet", rows))


def test_a_table_of_other_items_is_refused(tmp_path: pathlib.Path) -> None:
    table = read_feature_table(write(tmp_path / "items.jsonl"))
    with pytest.raises(
        InputError, match=r"of whose 3 items none is in the log; its first item_id is 'a', the log's '7'"
    ):
        table.features_of(["7"])
    with pytest.raises(InputError, match="whose column brand is empty for all of them"):
        table.features_of(["b"])


def test_a_missing_file_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="must be a readable file"):
        read_feature_table(str(tmp_path / "none.csv"))
