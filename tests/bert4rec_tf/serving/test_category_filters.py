"""Filters by category against a loop over the items, alone and beside id lists."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from bert4rec_tf.model.folding import fold_item_vectors
from bert4rec_tf.serving.category_filters import CategoryFilters
from bert4rec_tf.serving.ivf_index import InvertedFileIndex
from bert4rec_tf.serving.recommender import Recommender
from tests.support.made_up_features import BRANDS, COUNTS, ITEMS, TAGS, made_up_features, model_with_features
from tests.support.small_models import SMALL
from tfrecords.item_features import CategoricalFeature, ItemFeatures
from tfrecords.vocabulary import NUM_SPECIAL_IDS, Vocabulary

FEATURES = made_up_features()
VALUES = ["brand=x", "brand=y", "brand=once", "brand=gone", "tags=r", "tags=g", "tags=b", ""]
rows_of_values = st.lists(st.lists(st.sampled_from(VALUES), min_size=3, max_size=3), min_size=3, max_size=3)


def hidden_by_hand(allowed: list[str], excluded: list[str]) -> list[bool]:
    """Which items a row's filters leave out."""
    hidden = []
    for item in range(ITEMS):
        having = {f"brand={brand}" for brand in BRANDS[item]} | {f"tags={tag}" for tag in TAGS[item]}
        gone = bool(having & set(excluded))
        for feature in ("brand", "tags"):
            named = {value for value in allowed if value.startswith(f"{feature}=")}
            gone |= bool(named) and not having & named
        hidden.append(gone)
    return hidden


@given(rows_of_values, rows_of_values)
def test_filters_leave_out_what_a_loop_leaves_out(allowed: list[list[str]], excluded: list[list[str]]) -> None:
    found = FILTERS.hidden(tf.constant(allowed), tf.constant(excluded)).numpy()
    assert not found[:, :NUM_SPECIAL_IDS].any() or any(value for row in allowed for value in row)
    expected = [hidden_by_hand(*row) for row in zip(allowed, excluded, strict=True)]
    assert found[:, NUM_SPECIAL_IDS:].tolist() == expected


FILTERS = CategoryFilters(FEATURES)


@pytest.mark.parametrize("value", ["x", "brand", "colour=red", "price=1.0", "=x"])
def test_other_values_are_refused(value: str) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match="must be written feature=category"):
        FILTERS.hidden(tf.constant([[value]]), tf.constant([["brand=x"]]))


def test_categories_with_unusual_characters() -> None:
    odd = ["a=b", "line\nend", "Ünï=", " "]
    cells = [[text] for text in odd]
    filters = CategoryFilters(ItemFeatures(("1", "2", "3", "4"), (CategoricalFeature.from_cells("f", cells),)))
    for index, text in enumerate(odd):
        hidden = filters.hidden(tf.constant([[f"f={text}"]]), tf.constant([[""]])).numpy()[0, NUM_SPECIAL_IDS:]
        assert np.flatnonzero(~hidden).tolist() == [index]


ids = st.lists(st.sampled_from([*(f"item-{index}" for index in range(ITEMS)), ""]), min_size=4, max_size=4)


@pytest.mark.parametrize("kind", ["exact", "ivf"])
@settings(max_examples=25)
@given(data=st.data())
def test_recommendations_hold_to_filters_and_lists(kind: str, data: st.DataObject) -> None:
    recommend = SIGNATURES[kind]["recommend"]
    histories, excluded, allowed = (data.draw(st.lists(ids, min_size=3, max_size=3)) for _ in range(3))
    allowed_values, excluded_values = data.draw(rows_of_values), data.draw(rows_of_values)
    drop_seen = data.draw(st.booleans())
    answer = recommend(
        item_ids=tf.constant(histories), k=tf.constant([ITEMS]), drop_seen=tf.constant([drop_seen]),
        excluded_item_ids=tf.constant(excluded), allowed_item_ids=tf.constant(allowed),
        allowed_values=tf.constant(allowed_values), excluded_values=tf.constant(excluded_values),
    )  # fmt: skip
    everything = SIGNATURES["exact"]["rank"](
        item_ids=tf.constant(histories), candidate_item_ids=tf.constant([[f"item-{index}" for index in range(ITEMS)]])
    )["scores"].numpy()
    for row in range(3):
        hidden = hidden_by_hand(allowed_values[row], excluded_values[row])
        left = [
            index
            for index in range(ITEMS)
            if not hidden[index]
            and f"item-{index}" not in excluded[row]
            and not (drop_seen and f"item-{index}" in histories[row])
            and (not any(allowed[row]) or f"item-{index}" in allowed[row])
        ]
        received = [name.decode() for name in answer["item_ids"].numpy()[row] if name]
        if kind == "ivf" and not any([*allowed_values[row], *excluded_values[row]]):
            assert set(received) <= {f"item-{index}" for index in left}, "without a filter the index is approximate"
            continue
        best = sorted(left, key=lambda index: (-everything[row, index], index))
        scores = answer["scores"].numpy()[row][: len(received)]
        assert sorted(received) == sorted(f"item-{index}" for index in left)
        np.testing.assert_allclose(scores, everything[row, best], atol=1e-5)


def signatures(kind: str) -> dict:
    model = model_with_features(SMALL)
    vocabulary = Vocabulary(FEATURES.item_ids, COUNTS, (None,) * ITEMS)
    recommender = Recommender(fold_item_vectors(model), vocabulary, 5, item_features=FEATURES)
    if kind == "ivf":
        queries = np.random.default_rng(1).normal(size=[20, SMALL.hidden_size]).astype(np.float32)
        recommender.index = InvertedFileIndex(recommender.scores, queries)
    return recommender.signatures()


SIGNATURES = {kind: signatures(kind) for kind in ("exact", "ivf")}


def test_without_categories_the_signature_has_no_filters() -> None:
    model = fold_item_vectors(model_with_features(SMALL))
    vocabulary = Vocabulary(FEATURES.item_ids, COUNTS, (None,) * ITEMS)
    names = []
    for features in (None, FEATURES):
        recommend = Recommender(model, vocabulary, 5, item_features=features).signatures()["recommend"]
        names.append({spec.name for spec in recommend.input_signature})
    assert names[1] - names[0] == {"allowed_values", "excluded_values"}
    assert not names[0] - names[1]
