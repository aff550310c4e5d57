"""Recommendations in Python are those of the model."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

import bert4rec_tf
from bert4rec_tf.api.recommender import Recommender
from bert4rec_tf.serving.export import ExportOptions, export
from tfrecords.errors import InputError


@pytest.fixture(scope="module", params=["model", pytest.param("export", marks=pytest.mark.slow)])
def directory(request: pytest.FixtureRequest, model_dir: pathlib.Path) -> pathlib.Path:
    if request.param == "model":
        return model_dir
    return export(str(model_dir), str(model_dir.with_name("exports")), ExportOptions()).parent


@pytest.fixture(scope="module")
def loaded(directory: pathlib.Path) -> Recommender:
    return Recommender.load(directory)


def test_recommendations_are_those_of_the_model(loaded: Recommender, model_dir: pathlib.Path) -> None:
    trained = bert4rec_tf.load_model(model_dir)
    items = list(trained.vocabulary.item_ids)
    histories = [items[:3], [], ["unknown"], [items[4], "unknown", items[5], items[4]]]
    found = loaded.recommend(histories, k=4)
    assert found.item_ids[1] == found.item_ids[2] == items[:4], "popularity without a known item"
    for row, history in enumerate(histories):
        assert len(found.item_ids[row]) == 4
        assert not set(found.item_ids[row]) & set(history)
    scores = trained.model.score_next_item(tf.constant([trained.vocabulary.ids_of(histories[0])])).numpy()[0][3:]
    scores[:3] = -np.inf
    best = np.argsort(-scores, kind="stable")[:4]
    assert found.item_ids[0] == [items[index] for index in best]
    np.testing.assert_allclose(found.scores[0], scores[best], atol=1e-4)
    assert set(loaded.recommend([items[:3]], k=15, drop_seen=False).item_ids[0]) == set(items)
    narrow = loaded.recommend([items[:3]] * 2, exclude=[items[7]], allow=[items[5:9], items[8:10]])
    assert [set(ids) for ids in narrow.item_ids] == [{items[5], items[6], items[8]}, {items[8], items[9]}]


@pytest.mark.slow
def test_more_histories_than_a_batch_are_answered_in_order(loaded: Recommender, model_dir: pathlib.Path) -> None:
    items = list(bert4rec_tf.load_model(model_dir).vocabulary.item_ids)
    histories = [[items[number % 15]] for number in range(300)]
    found = loaded.recommend(histories, k=2, allow=[[items[(number + 1) % 15]] for number in range(300)])
    assert found.item_ids == [[items[(number + 1) % 15]] for number in range(300)]
    assert len(loaded.recommend([])) == 0
    assert loaded.encode(histories).shape == (300, 8)
    assert loaded.encode([]).shape == (0, 8)


def test_ranks_and_similar_items(loaded: Recommender, model_dir: pathlib.Path) -> None:
    trained = bert4rec_tf.load_model(model_dir)
    items = list(trained.vocabulary.item_ids)
    ranked = loaded.rank([items[:3], items[3:5]], [items[0], "unknown", items[9]])
    assert [set(ids) for ids in ranked.item_ids] == [{items[0], items[9]}] * 2
    assert all(np.all(np.diff(scores) <= 0) for scores in ranked.scores)
    table = trained.model.embedding.item_table.numpy()[3:]
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    cosines = unit @ unit[2]
    cosines[2] = -np.inf
    similar = loaded.similar_items([items[2]], k=3)
    assert similar.item_ids == [[items[index] for index in np.argsort(-cosines)[:3]]]
    with pytest.raises(InputError, match="'unknown'"):
        loaded.similar_items(["unknown"])


def test_recommendations_as_a_table(loaded: Recommender) -> None:
    table = loaded.recommend([["item-0001"], []], k=2).to_arrow()
    assert table["row"].to_pylist() == [0, 0, 1, 1]
    assert table["rank"].to_pylist() == [1, 2, 1, 2]
    assert table["title"].to_pylist() == [f"The {item_id}" for item_id in table["item_id"].to_pylist()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"histories": ["161"]}, "must be lists of item ids"),
        ({"histories": [["161"]], "k": 0}, "`k` must be from 1 to 1000"),
        ({"histories": [["161"]], "k": 1001}, "`k` must be from 1 to 1000"),
        ({"histories": [["161"]], "allow": [["a"], ["b"]]}, "`allow` must be one list, or one for each of 1"),
    ],
)
def test_invalid_requests_are_refused(loaded: Recommender, arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        loaded.recommend(**arguments)


def test_a_directory_without_a_model_is_named(tmp_path: pathlib.Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="must be a model directory of train"):
            Recommender.load(path)
