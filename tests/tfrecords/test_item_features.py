"""Item features survive their file to the bit, and are numbered as documented."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfrecords.errors import InputError
from tfrecords.item_features import CategoricalFeature, ItemFeatures, NumericFeature, VectorFeature

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
numbers = st.none() | st.floats(-1e6, 1e6)


@given(st.data(), st.integers(1, 8))
def test_features_survive_their_file(data: st.DataObject, items: int) -> None:
    cells = data.draw(st.lists(st.lists(texts, max_size=3), min_size=items, max_size=items))
    values = data.draw(st.lists(numbers, min_size=items, max_size=items))
    missing = np.array(data.draw(st.lists(st.booleans(), min_size=items, max_size=items)))
    vectors = np.arange(items * 3, dtype=np.float32).reshape(items, 3)
    vectors[missing] = np.nan
    features = ItemFeatures(
        tuple(f"item\t{index}" for index in range(items)),
        (
            CategoricalFeature.from_cells("a", cells),
            NumericFeature.from_values("b", np.array(values, np.float64)),
            VectorFeature("c", vectors),
        ),
    )
    content = features.to_bytes()
    read = ItemFeatures.from_bytes(content, "a copy")
    assert (read.item_ids, read.to_bytes()) == (features.item_ids, content)
    categories, number, vector = read.features
    assert [
        [categories.categories[value] for value in row]
        for row in np.split(categories.values.values, categories.values.offsets[1:-1])
    ] == [sorted(set(cell), key=categories.categories.index) for cell in cells]
    np.testing.assert_array_equal(number.values, np.array(values, np.float64))
    np.testing.assert_array_equal(vector.values, vectors)
    assert read.has_value().tolist() == [
        bool(cell) or value is not None or not gone for cell, value, gone in zip(cells, values, missing, strict=True)
    ]


def test_categories_are_numbered_by_falling_number_of_items_then_by_text() -> None:
    feature = CategoricalFeature.from_cells("brand", [["b", "b", "a"], ["c", "b"], ["c"], []])
    assert feature.categories == ("b", "c", "a")
    assert feature.item_counts().tolist() == [2, 2, 1]
    assert feature.values.values.tolist() == [0, 2, 0, 1, 1]


def test_known_categories_keep_their_numbers_and_others_are_left_out() -> None:
    feature = CategoricalFeature.from_cells("brand", [["new", "a"], ["b"]], categories=("b", "a"))
    assert feature.categories == ("b", "a")
    assert (feature.values.values.tolist(), feature.values.lengths.tolist()) == ([1, 0], [1, 1])


def test_numbers_are_standardised_and_bounded() -> None:
    feature = NumericFeature("price", np.array([3.0, 1.0, 1e9, np.nan]), mean=2.0, deviation=0.5)
    assert feature.standardised().tolist() == [2.0, -2.0, 10.0, 0.0]
    assert NumericFeature.from_values("same", np.array([4.0, 4.0])).standardised().tolist() == [0.0, 0.0]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all"])
def test_other_content_is_refused(content: bytes) -> None:
    with pytest.raises(InputError, match=r"must be item features written by pipelines/make_tfrecords.py"):
        ItemFeatures.from_bytes(content, "item_features.parquet")
