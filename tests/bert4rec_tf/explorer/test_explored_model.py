"""The models of the explorer: a version, a model directory, and a server, which give the same answers."""

import pathlib
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bert4rec_tf.api.evaluation_records import EvaluationRecords
from bert4rec_tf.config import EvaluationConfig, ModelConfig
from bert4rec_tf.explorer.explanation import left_out_effects, similar_items
from bert4rec_tf.explorer.explored_model import ExploredModel, LocalModel, ModelError, RemoteModel
from bert4rec_tf.explorer.held_out_users import HeldOutUsers
from bert4rec_tf.explorer.source import Source
from bert4rec_tf.explorer.state import State
from bert4rec_tf.explorer.view import page_values
from bert4rec_tf.inputs.user_histories import iterate_raw_histories
from bert4rec_tf.model.bert4rec import Bert4Rec, build_model
from bert4rec_tf.model_dir import load_model
from bert4rec_tf.serving.export import export
from bert4rec_tf.serving.recommender import Recommender
from bert4rec_tf.serving.served_model import ServedModel
from tests.support.made_up_features import COUNTS, made_up_features
from tests.support.serving_double import ServingDouble
from tests.support.short_run import build, train_here
from tests.support.small_models import PREFIX_TIMES, random_model, with_random_weights
from tests.support.tiny_version import save_version
from tfrecords.errors import InputError
from tfrecords.vocabulary import NUM_SPECIAL_IDS, Vocabulary

VOCABULARY = Vocabulary(tuple(f"a{number}" for number in range(12)), np.arange(12, 0, -1), ("A title",) * 12)
HISTORY = ["a3", "unknown", "a1", "a7"]


@pytest.fixture(scope="module")
def model() -> Bert4Rec:
    config = ModelConfig(hidden_size=8, num_layers=1, dropout=0.0, attention_dropout=0.0)
    return with_random_weights(build_model(config, VOCABULARY.size, max_seq_length=6), seed=1)


@pytest.fixture(scope="module")
def export_dir(model: Bert4Rec, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("exports") / "shop"
    path.mkdir()
    save_version(path / "1", Recommender(model, VOCABULARY, top_k=4), VOCABULARY, 6)
    vectors = model.embedding.item_table.numpy()[NUM_SPECIAL_IDS:]
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    pq.write_table(pa.table({"vector": column}), path / "1/assets.extra/item_vectors.parquet")
    return path


@pytest.fixture(scope="module")
def local(export_dir: pathlib.Path) -> LocalModel:
    return LocalModel(export_dir)


def expected_scores(model: Bert4Rec, history: list[str]) -> np.ndarray:
    ids = [VOCABULARY.ids_of(history)]
    return model.score_next_item(np.array(ids, np.int32)).numpy()[0, NUM_SPECIAL_IDS:]


def check_answers(explored: ExploredModel, model: Bert4Rec) -> None:
    scores = expected_scores(model, HISTORY)
    best = [at for at in np.argsort(-scores) if VOCABULARY.item_ids[at] not in [*HISTORY, "a2"]][:3]
    found = explored.recommend(HISTORY, 3, False, ["a2"])
    assert [item_id for item_id, _ in found] == [VOCABULARY.item_ids[at] for at in best]
    np.testing.assert_allclose([score for _, score in found], scores[best], atol=1e-4)
    assert len(explored.recommend([], 100, True)) == 12
    ranked, known = explored.rank([HISTORY], ["a2", "no", "a3"])
    np.testing.assert_allclose(ranked[0, [0, 2]], scores[[2, 3]], atol=1e-4)
    assert known.tolist() == [True, False, True]
    assert explored.rank([HISTORY], [])[0].shape == (1, 0)
    weights = explored.attention(HISTORY)
    assert weights is not None
    expected = model.attend_to_history(np.array([VOCABULARY.ids_of(HISTORY)], np.int32)).numpy()[0, -1].mean(axis=0)
    np.testing.assert_allclose(weights, expected, atol=1e-5)
    effects = left_out_effects(explored, HISTORY, ["a2"])
    shorter = expected_scores(model, ["unknown", "a1", "a7"])[2]
    np.testing.assert_allclose(effects[0], [scores[2] - shorter], atol=1e-4)
    assert sorted(effects) == [0, 2, 3]


@pytest.mark.slow
def test_a_version_answers_as_the_model(local: LocalModel, model: Bert4Rec) -> None:
    assert (local.name, local.version) == ("shop", "1")
    check_answers(local, model)
    assert len(similar_items(local, "a2", 5)) == 5


@pytest.mark.slow
def test_a_model_with_times_and_categories_gets_unknown_times_and_no_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    features, model = made_up_features(), random_model(PREFIX_TIMES)
    vocabulary = Vocabulary(features.item_ids, COUNTS, (None,) * len(COUNTS))
    recommender = Recommender(model, vocabulary, 4, item_features=features)
    served = ServedModel(
        "9", "", recommender.signatures(), vocabulary, 1000, ("brand", "tags"), True, None,
        lambda: model.embedding.item_table.numpy()[NUM_SPECIAL_IDS:], recommender,
    )  # fmt: skip
    monkeypatch.setattr(ServedModel, "load", lambda _: served)
    explored, history = LocalModel("models/shop"), ["item-3", "item-0", "unknown"]
    scores = model.score_next_item(np.array([vocabulary.ids_of(history)], np.int32)).numpy()[0, NUM_SPECIAL_IDS:]
    found = explored.recommend(history, 20, keep_seen=True)
    expected = sorted(zip(vocabulary.item_ids, scores.tolist(), strict=True), key=lambda pair: -pair[1])
    assert [item_id for item_id, _ in found] == [item_id for item_id, _ in expected]
    assert sorted(left_out_effects(explored, history, ["item-5"])) == [0, 1]
    weights = explored.attention(history)
    assert weights is not None
    assert (weights > 0).tolist() == [True, True, False]


@pytest.mark.slow
def test_a_server_answers_as_the_model(
    export_dir: pathlib.Path, model: Bert4Rec, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    server = ServingDouble(export_dir, "shop")
    try:
        remote = RemoteModel(server.grpc_address, "shop", "", str(export_dir))
        assert remote.version == "1"
        check_answers(remote, model)
        assert len(similar_items(remote, "a2", 5)) == 5
        assert capsys.readouterr().err == ""
        shutil.copytree(export_dir / "1", tmp_path / "shop/2")
        other = RemoteModel(server.grpc_address, "shop", "", str(tmp_path / "shop"))
        assert "does not hold version 1, which answers" in capsys.readouterr().err
        assert (other.vocabulary is None, other.nearest_items) == (False, None)
        assert similar_items(other, "a2", 5) == []
        with pytest.raises(InputError, match="--export_dir must hold versions"):
            RemoteModel(server.grpc_address, "shop", "", str(tmp_path))
        alone = Source(server=server.grpc_address, model="shop", compare_with="1").open()
        assert len(alone.catalogue) == 0
        assert page_values(alone, State(("a1", "a2")))["models"][1]["shared"] == 10
        with pytest.raises(InputError, match="--model=default"):
            Source(server=server.grpc_address).open()
        with pytest.raises(InputError, match="version 99"):
            Source(server=server.grpc_address, model="shop", compare_with="99").open()
        with pytest.raises(InputError, match="version no-such-label"):
            Source(server=server.grpc_address, model="shop", compare_with="no-such-label").open()
    finally:
        server.stop()
    with pytest.raises(ModelError, match="UNAVAILABLE"):
        remote.recommend(HISTORY, 3)


@pytest.mark.slow
def test_a_server_of_an_old_version_has_no_attention(
    model: Bert4Rec, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommender = Recommender(model, VOCABULARY, top_k=4)
    signatures = {name: value for name, value in recommender.signatures().items() if name != "attention"}
    monkeypatch.setattr(recommender, "signatures", lambda: signatures)
    monkeypatch.setattr("tests.support.tiny_version.write_warm_up", lambda *_, **__: None)
    (tmp_path / "shop").mkdir()
    save_version(tmp_path / "shop/1", recommender, VOCABULARY, 6)
    server = ServingDouble(tmp_path / "shop", "shop")
    try:
        assert RemoteModel(server.grpc_address, "shop").attention(HISTORY) is None
    finally:
        server.stop()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("trained")
    build(path / "data")
    train_here(path / "data", path / "model")
    export(path / "model", path / "exports/shop")
    return path


@pytest.mark.slow
def test_sources(trained: pathlib.Path, export_dir: pathlib.Path) -> None:
    data, model_dir, exports = str(trained / "data"), str(trained / "model"), str(trained / "exports/shop")
    (version,) = (path.name for path in pathlib.Path(exports).iterdir() if path.name.isdecimal())
    explored = Source(export_dir=exports, compare_with=version).open(data, {"i1": "Given"})
    assert [each.version for each in explored.models] == [version, version]
    assert explored.users is not None
    assert len(explored.users.users) == explored.users.total == 30
    values = page_values(explored, State(user=explored.users.draw().user_id, k=100))
    ranks = [column["target"]["rank"] for column in values["models"]]
    assert ranks[0] == ranks[1]
    trained_model = load_model(model_dir)
    of_dir = Source(model_dir=model_dir).open(data)
    assert of_dir.models[0].version == f"step-{trained_model.state['step']}"
    history = explored.history(State(user=next(iter(explored.users.users))))
    for one, other in zip(*(each.models[0].recommend(history, 5) for each in (explored, of_dir)), strict=True):
        assert one[0] == other[0]
        assert one[1] == pytest.approx(other[1], abs=1e-4)
    with pytest.raises(InputError, match="must be a directory or a version in --export_dir"):
        Source(export_dir=exports, compare_with="12").open()
    with pytest.raises(InputError, match="shares none with shop"):
        Source(export_dir=str(export_dir)).open(data)


@pytest.mark.slow
def test_the_rank_of_the_truth_is_that_of_the_metrics(trained: pathlib.Path) -> None:
    records = EvaluationRecords.open(str(trained / "data"), "again")
    model = records.load_models([str(trained / "model")])
    ranks, _ = records.evaluate(model, "test", EvaluationConfig())
    explored = Source(export_dir=str(trained / "exports/shop")).open(str(trained / "data"))
    shown = {
        user_id: page_values(explored, State(user=user_id))["models"][0]["target"]["rank"] for user_id in ranks.user_ids
    }
    assert shown == dict(zip(ranks.user_ids, ranks.full.tolist(), strict=True))


@pytest.mark.slow
def test_held_out_users_are_those_of_the_test_split(trained: pathlib.Path) -> None:
    found = HeldOutUsers.read(trained / "data")
    expected = {
        (tuple(item for item in row if item), target)
        for batch in iterate_raw_histories(str(trained / "data"), "test", 64, 64)
        for row, target in zip(batch.item_ids, batch.targets, strict=True)
    }
    assert {(user.history, user.target) for user in found.users.values()} == expected
    few = HeldOutUsers.read(trained / "data", max_users=7)
    assert len(few.users) == 7
    assert few.total == 30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Give one of --export_dir, --model_dir and --server.*Received: none"),
        ({"export_dir": "a", "model_dir": "b"}, "Received: --export_dir=a, --model_dir=b"),
        ({"model_dir": "b", "server": "c:1"}, "Give one of"),
        ({"server": "http://localhost:8501"}, "--server must be host:port, for gRPC"),
        ({"server": "localhost"}, "--server must be host:port"),
        ({"export_dir": "a", "model": "b"}, "--model names a model at --server"),
    ],
)
def test_wrong_sources_are_refused(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Source(**arguments)
