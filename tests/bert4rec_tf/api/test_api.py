"""The library in Python: tables in, recommendations out, the same as by the commands."""

import pathlib
import re
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

import bert4rec_tf
from bert4rec_tf.api import recipes
from bert4rec_tf.api.recommender import Recommender
from bert4rec_tf.serving.export import ExportOptions, export
from pipelines.build import BuildResult
from pipelines.sources.synthetic import MarkovLog
from tests.support.command_line import ROOT
from tfrecords.errors import InputError

CONFIG: dict[str, dict[str, Any]] = {
    "data": {"max_seq_length": 8, "min_user_events": 1, "num_negatives": 5, "num_shards": 2},
    "model": {"hidden_size": 8, "num_layers": 1, "initializer_range": 0.5},
    "training": {"num_steps": 4, "batch_size": 16, "num_length_buckets": 1, "jit_compile": False},
}
LOG = MarkovLog(num_users=40, num_items=15, num_themes=3, min_events=5, max_events=9).interactions()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("api") / "data"
    titles = {item_id: f"The {item_id}" for item_id in set(LOG["item_id"].to_pylist())}
    bert4rec_tf.build_records(LOG, path, CONFIG, timestamp_unit="s", titles=titles)
    return path


@pytest.fixture(scope="module")
def model_dir(data_dir: pathlib.Path) -> pathlib.Path:
    path = data_dir.with_name("model")
    assert bert4rec_tf.train(data_dir, path, CONFIG) is not None
    return path


def built(log: Any, path: pathlib.Path, **columns: str) -> BuildResult:
    return bert4rec_tf.build_records(log, path, CONFIG, timestamp_unit="s", **columns)


def test_any_table_gives_the_records_of_a_file(tmp_path: pathlib.Path) -> None:
    table = LOG.select(["user_id", "item_id", "timestamp"])
    lines = [",".join(map(str, row)) for row in zip(*table.to_pydict().values(), strict=True)]
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(lines) + "\n")
    expected = built(tmp_path / "log.csv", tmp_path / "file").manifest
    logs = {
        "table": table,
        "reader": table.to_reader(),
        "paths": [str(tmp_path / "log.csv")],
        "relation": duckdb.connect().from_arrow(table),
        "renamed": table.rename_columns(["u", "i", "t"]),
    }
    for name, log in logs.items():
        columns = {"user_column": "u", "item_column": "i", "timestamp_column": "t"} if name == "renamed" else {}
        manifest = built(log, tmp_path / name, **columns).manifest
        assert manifest.splits == expected.splits, name
        assert manifest.vocabulary_sha256 == expected.vocabulary_sha256, name


def test_a_pandas_frame_with_dates_and_an_index_of_its_own(tmp_path: pathlib.Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = LOG.to_pandas()
    frame["timestamp"] = pandas.to_datetime(frame["timestamp"], unit="s")
    frame.index = frame.index + 1000
    manifest = bert4rec_tf.build_records(frame, tmp_path / "frame", CONFIG).manifest
    assert manifest.counts["events"] == LOG.num_rows


def test_a_polars_frame_with_categories(tmp_path: pathlib.Path) -> None:
    polars = pytest.importorskip("polars")
    frame = polars.from_arrow(LOG).with_columns(polars.col("item_id").cast(polars.Categorical))
    found = built(frame, tmp_path / "frame").manifest
    assert found.splits == built(LOG, tmp_path / "table").manifest.splits


def test_the_same_table_again_builds_nothing(tmp_path: pathlib.Path) -> None:
    assert built(LOG, tmp_path / "data").written
    assert not built(LOG, tmp_path / "data").written


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (pa.table({"user": ["a"], "item_id": ["b"], "timestamp": [1]}), "must have the columns user_id, item_id"),
        (LOG.slice(0, 0), "at least one event"),
        (3, "must be a path, a pandas or polars frame"),
        ([], "must be a path, a pandas or polars frame"),
    ],
)
def test_invalid_logs_are_refused(tmp_path: pathlib.Path, log: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        built(log, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_configuration_in_every_form(tmp_path: pathlib.Path) -> None:
    (tmp_path / "mine.json").write_text('{"model": {"num_layers": 3}}')
    config = bert4rec_tf.Config.from_dict({"model": {"num_layers": 3}})
    for given in (config, {"model": {"num_layers": 3}}, str(tmp_path / "mine.json"), tmp_path / "mine.json"):
        assert bert4rec_tf.Config.from_dict(recipes.settings_of(given)) == config
    assert recipes.settings_of(None) == {}
    for name in bert4rec_tf.recipe_names():
        bert4rec_tf.Config.from_dict(recipes.settings_of(name))
    with pytest.raises(InputError, match=r"one of the recipes .*ml-1m-fast"):
        recipes.settings_of("ml-1m-fats")
    with pytest.raises(InputError, match="num_layer"):
        recipes.settings_of({"model": {"num_layer": 3}})


def test_a_file_comes_before_a_recipe_of_its_name(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beauty").mkdir()  # a directory is no configuration, so the name means the recipe
    assert recipes.settings_of("beauty")["data"]["max_seq_length"] == 50
    (tmp_path / "demo").write_text('{"model": {"num_layers": 3}}')
    assert recipes.settings_of("demo") == {"model": {"num_layers": 3}}


@pytest.mark.slow
def test_an_evaluation_has_metrics_and_users(model_dir: pathlib.Path, data_dir: pathlib.Path) -> None:
    found = bert4rec_tf.evaluate(model_dir, data_dir)
    assert found.metrics["users"] == found.users.num_rows == 40
    ranks = found.users["full_rank"].to_numpy()
    assert found.metrics["full"]["hr@10"] == pytest.approx(np.mean(ranks <= 10))
    assert "40 users" in str(found)
    popular = bert4rec_tf.evaluate("popularity", data_dir, split="validation")
    assert popular.metrics["model"] == {"baseline": "popularity"}
    other = bert4rec_tf.evaluate(bert4rec_tf.load_model(model_dir), data_dir)
    assert other.users.equals(found.users)


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


@pytest.mark.slow
def test_the_readme_in_python(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = pytest.importorskip("pandas")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(import bert4rec_tf\n.*?)```", readme, re.DOTALL)
    log = LOG.to_pandas()
    log["item_id"] = (log["item_id"].str.removeprefix("item-").astype(int) + 160).astype(str)
    log["timestamp"] = pandas.to_datetime(log["timestamp"], unit="s")
    monkeypatch.chdir(tmp_path)
    exec(code.replace("2000", "2").replace('"378"', '"170"'), {"log": log})
