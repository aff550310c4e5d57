"""Exported versions: their files, metadata, answers and warm-up requests, and the quality gate before them."""

import dataclasses
import datetime
import json
import pathlib
import shutil
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

import bert4rec_tf
from bert4rec_tf.checkpoints import Checkpoints, Progress
from bert4rec_tf.config import Config
from bert4rec_tf.evaluation.evaluate import evaluate, make_ranker
from bert4rec_tf.evaluation.metrics import MISSED_RANK, ranking_metrics
from bert4rec_tf.inputs.user_histories import RawHistories, iterate_raw_histories
from bert4rec_tf.model.bert4rec import build_model
from bert4rec_tf.model_dir import TrainedModel, load_model, open_model_dir
from bert4rec_tf.serving.export import ExportOptions, export
from bert4rec_tf.serving.provenance import provenance
from bert4rec_tf.serving.quality_gate import compare
from bert4rec_tf.serving.warmup import BATCH_SIZES, WARM_UP_FILE, replay_warm_up
from pipelines.build import build_records
from pipelines.sources.synthetic import MarkovLog
from tests.support.command_line import ROOT
from tests.support.tiny_version import write_bad_warm_up
from tfrecords.errors import InputError
from tfrecords.manifest import Manifest
from tfrecords.vocabulary import NUM_SPECIAL_IDS, Vocabulary

CONFIG = Config.from_dict(
    {
        "data": {"max_seq_length": 8, "min_user_events": 1, "num_negatives": 5},
        "model": {"hidden_size": 8, "num_heads": 2, "num_layers": 1, "initializer_range": 1.0},
    }
)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("publishing") / "data"
    log = MarkovLog(
        num_users=150, num_items=60, num_themes=4, min_events=5, max_events=12, successors=(0.1,), noise=0.6
    )
    build_records(log, {}, CONFIG, str(path))
    return path


def make_model(data_dir: pathlib.Path, name: str, good: bool) -> pathlib.Path:
    """A model directory. A good model ranks by popularity for every user; a bad one ranks in reverse order."""
    vocabulary = Vocabulary.load(data_dir)
    path = data_dir.with_name(name)
    open_model_dir(path, CONFIG, Manifest.load(data_dir), vocabulary)
    model = build_model(CONFIG.model, vocabulary.size, CONFIG.data.max_seq_length)
    model.head.output_bias.assign(100 * vocabulary.log_popularity() * (1 if good else -1))
    Checkpoints(path, {"model": model, "progress": Progress(1)}, to_keep=1).save(best=True)
    return path


@pytest.fixture(scope="module")
def good(data_dir: pathlib.Path) -> pathlib.Path:
    return make_model(data_dir, "good", good=True)


@pytest.fixture(scope="module")
def bad(data_dir: pathlib.Path) -> pathlib.Path:
    return make_model(data_dir, "bad", good=False)


@pytest.fixture(scope="module")
def exported(good: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """One version; tests may read and copy it, but not change it."""
    return export(str(good), str(tmp_path_factory.mktemp("exported") / "shop"), ExportOptions(top_k=7))


def copies(exported: pathlib.Path) -> Callable[[TrainedModel, pathlib.Path, ExportOptions], dict[str, Any]]:
    """A quick replacement of `_write_version`, for tests that do not depend on the version's files."""

    def copy(trained: TrainedModel, building: pathlib.Path, options: ExportOptions) -> dict[str, Any]:
        shutil.copytree(exported, building)
        return {"top_k": options.top_k} | trained.description()

    return copy


@pytest.fixture
def quick(exported: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bert4rec_tf.serving.export._write_version", copies(exported))
    monkeypatch.setattr("bert4rec_tf.serving.export.replay_warm_up", lambda _: None)
    monkeypatch.setattr("bert4rec_tf.serving.export.gc", types.SimpleNamespace(collect=int))


def exports_with(exported: pathlib.Path, root: pathlib.Path, *numbers: int) -> pathlib.Path:
    """An export directory with copies of a version as older versions."""
    for number in numbers:
        shutil.copytree(exported, root / str(number))
    return root


def names(root: pathlib.Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.name not in (".lock", "models.config"))


def test_a_version_has_vocabulary_and_metadata(
    good: pathlib.Path, exported: pathlib.Path, data_dir: pathlib.Path
) -> None:
    extra = exported / "assets.extra"
    assert Vocabulary.load(extra).item_ids == Vocabulary.load(data_dir).item_ids
    described = json.loads((extra / "metadata.json").read_text())
    assert described["max_k"] == 1000
    assert described["top_k"] == 7
    assert described["index"] == {"kind": "exact"}
    assert Config.from_dict(described["config"]) == CONFIG
    assert described["training"]["step"] == 0
    assert names(exported.parent) == [exported.name]


def test_metadata_describes_the_origin(good: pathlib.Path, exported: pathlib.Path, data_dir: pathlib.Path) -> None:
    described = json.loads((exported / "assets.extra" / "metadata.json").read_text())
    assert described["manifest_sha256"] == Manifest.load(data_dir).sha256()
    assert described["package_version"] == bert4rec_tf.__version__
    exported_at = datetime.datetime.fromisoformat(described["exported_at"])
    assert exported_at.utcoffset() == datetime.timedelta(0)
    assert abs(exported_at - datetime.datetime.now(datetime.timezone.utc)) < datetime.timedelta(hours=1)
    assert ("git_commit" in described) == (ROOT / ".git").exists()
    assert "validation" not in described  # this model was never validated
    history = [{"step": 0, "validation": {"ndcg@10": 0.25}}, {"step": 5, "validation": {"ndcg@10": 0.5}}]
    (good / "history.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in history) + '{"step": 0, "va')
    assert provenance([good], load_model(good))["validation"] == {"ndcg@10": 0.25}


def test_a_version_answers_as_the_checkpoint(good: pathlib.Path, exported: pathlib.Path) -> None:
    trained = load_model(good)
    history = trained.vocabulary.item_ids[5:9]
    answer = tf.saved_model.load(str(exported)).signatures["serving_default"](item_ids=tf.constant([history]))
    scores = trained.model.score_next_item(tf.constant([trained.vocabulary.ids_of(list(history))])).numpy()[0]
    scores[trained.vocabulary.ids_of(list(history))] = -np.inf
    best = np.argsort(-scores, kind="stable")[:7]
    expected = [trained.vocabulary.item_ids[item - NUM_SPECIAL_IDS] for item in best]
    assert answer["item_ids"].numpy()[0].astype(str).tolist() == expected
    np.testing.assert_allclose(answer["scores"].numpy()[0], scores[best], rtol=1e-5)


@pytest.fixture(scope="module")
def averaged(data_dir: pathlib.Path, good: pathlib.Path) -> tuple[list[pathlib.Path], pathlib.Path]:
    """Two model directories, of another width and window, and their exported average."""
    wide = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, hidden_size=12, attention="prefix"))
    other, vocabulary = data_dir.with_name("wide"), Vocabulary.load(data_dir)
    open_model_dir(other, wide, Manifest.load(data_dir), vocabulary)
    model = build_model(wide.model, vocabulary.size, CONFIG.data.max_seq_length, seed=2)
    Checkpoints(other, {"model": model, "progress": Progress(1)}, to_keep=1).save(best=True)
    return [good, other], export([good, str(other)], data_dir.with_name("averages"), ExportOptions(top_k=7))


@pytest.mark.slow
def test_an_exported_average_answers_as_its_models(averaged: tuple[list[pathlib.Path], pathlib.Path]) -> None:
    models = [load_model(model_dir) for model_dir in averaged[0]]
    vocabulary = models[0].vocabulary
    history = list(vocabulary.item_ids[5:9])
    ids = vocabulary.ids_of(history)
    scores = np.mean([each.model.score_next_item(tf.constant([ids])).numpy()[0] for each in models], axis=0)
    scores[ids] = -np.inf
    best = np.argsort(-scores, kind="stable")[:7]
    signatures = tf.saved_model.load(str(averaged[1])).signatures
    answer = signatures["serving_default"](item_ids=tf.constant([history]))
    expected = [vocabulary.item_ids[item - NUM_SPECIAL_IDS] for item in best]
    assert answer["item_ids"].numpy()[0].astype(str).tolist() == expected
    np.testing.assert_allclose(answer["scores"].numpy()[0], scores[best], rtol=1e-5)
    assert signatures["attention"](item_ids=tf.constant([history]))["weights"].shape == (1, 2, 1, 4)
    assert signatures["encode"](item_ids=tf.constant([history]))["vectors"].shape == (1, 20)


@pytest.mark.slow
def test_the_metadata_of_an_average_describe_each_model(
    averaged: tuple[list[pathlib.Path], pathlib.Path], data_dir: pathlib.Path
) -> None:
    described = json.loads((averaged[1] / "assets.extra" / "metadata.json").read_text())
    assert described["model_name"] == "average of 2 models (BERT4Rec, Cloze; BERT4Rec, random prefix)"
    assert [member["config"]["model"]["hidden_size"] for member in described["members"]] == [8, 12]
    for member in described["members"]:
        assert member["manifest_sha256"] == Manifest.load(data_dir).sha256()
        assert member["training"]["step"] == 0
    assert "manifest_sha256" not in described
    vectors = pq.read_table(averaged[1] / "assets.extra" / "item_vectors.parquet")["vector"]
    assert vectors.type.list_size == 20


@pytest.mark.slow
def test_an_average_is_searched_by_cells(
    averaged: tuple[list[pathlib.Path], pathlib.Path], data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    settings = ExportOptions(index="ivf", min_recall=0.5, data_dir=str(data_dir))
    version = export(averaged[0], tmp_path / "shop", settings)
    described = json.loads((version / "assets.extra" / "metadata.json").read_text())["index"]
    assert described["recall@60"] >= 0.5
    assert described["probes"] < described["cells"]


def test_item_vectors_give_the_scores(exported: pathlib.Path) -> None:
    table = pq.read_table(exported / "assets.extra" / "item_vectors.parquet")
    vectors = np.array(table["vector"].to_pylist(), np.float32)
    assert vectors.shape == (len(Vocabulary.load(exported / "assets.extra").item_ids), 8)
    item_ids = table["item_id"].to_pylist()
    signatures = tf.saved_model.load(str(exported)).signatures
    history = tf.constant([item_ids[:3]])
    query = signatures["encode"](item_ids=history)["vectors"].numpy()[0]
    ranked = signatures["rank"](item_ids=history, candidate_item_ids=tf.constant([item_ids]))
    np.testing.assert_allclose(vectors @ query + table["bias"].to_numpy(), ranked["scores"].numpy()[0], rtol=1e-4)


def test_warm_up_requests_cover_every_signature_and_batch_size(exported: pathlib.Path) -> None:
    requested = set()
    for record in tf.data.TFRecordDataset(str(exported / WARM_UP_FILE)):
        request = PredictionLog.FromString(record.numpy()).predict_log.request
        sizes = {
            value.tensor_shape.dim[0].size for name, value in request.inputs.items() if name != "excluded_item_ids"
        }
        requested |= {(request.model_spec.signature_name, max(sizes))}
    signatures = tf.saved_model.load(str(exported)).signatures
    assert requested == {(signature, size) for signature in signatures for size in BATCH_SIZES}
    batching = (ROOT / "deploy" / "batching_parameters.txt").read_text()
    for size in BATCH_SIZES:
        assert f"allowed_batch_sizes: {size}\n" in batching


@pytest.mark.slow
def test_a_version_that_cannot_answer_is_not_published(
    good: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replay_bad_request(version: pathlib.Path) -> None:
        write_bad_warm_up(version)
        replay_warm_up(version)

    monkeypatch.setattr("bert4rec_tf.serving.export.replay_warm_up", replay_bad_request)
    with pytest.raises(InputError, match=r"warm-up requests.*must be at least 1.*nothing was published"):
        export(str(good), str(tmp_path / "shop"), ExportOptions())
    assert names(tmp_path / "shop") == []


@pytest.mark.slow
def test_the_trained_model_is_freed_before_the_version_is_loaded(
    good: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, freed = list[weakref.ref[TrainedModel]](), list[bool]()

    def load(model_dir: pathlib.Path, *, fold: bool) -> TrainedModel:
        trained = load_model(model_dir, fold=fold)
        loaded.append(weakref.ref(trained))
        return trained

    monkeypatch.setattr("bert4rec_tf.serving.export.load_model", load)
    monkeypatch.setattr("bert4rec_tf.serving.export.replay_warm_up", lambda _: freed.append(loaded[0]() is None))
    export(str(good), str(tmp_path / "shop"), ExportOptions())
    assert freed == [True], "both would be in memory: a large catalogue twice"


@pytest.mark.slow
def test_the_gate_refuses_a_worse_model(
    good: pathlib.Path,
    bad: pathlib.Path,
    data_dir: pathlib.Path,
    exported: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = exports_with(exported, tmp_path / "shop", 5)
    gated = ExportOptions(data_dir=str(data_dir), max_regression=0.05)
    with pytest.raises(
        InputError, match=r"(0\.\d{4}) against (0\.\d{4}) of version 5 \(-.*%\), over 150 users.*95% in"
    ):
        export(str(bad), str(root), gated)
    assert names(root) == ["5"]
    monkeypatch.setattr("bert4rec_tf.serving.export._write_version", copies(exported))
    equal = export(str(good), str(root), gated)
    gate = json.loads((equal / "assets.extra" / "metadata.json").read_text())["gate"]
    assert gate["candidate"] == gate["served"] > 0
    assert (gate["users"], gate["served_version"], gate["max_regression"]) == (150, "5", 0.05)
    assert (gate["difference"], gate["ci95"]) == (0, [0, 0])
    assert (gate["split"], gate["drop_seen"]) == ("validation", True)


@pytest.mark.parametrize("drop_seen", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_gate_ranks_validation_users_as_evaluation_does(
    good: pathlib.Path, exported: pathlib.Path, data_dir: pathlib.Path, drop_seen: bool
) -> None:
    trained, manifest = load_model(good), Manifest.load(data_dir)
    ranks = evaluate(make_ranker(trained.model.score_next_item, drop_seen=drop_seen), data_dir, manifest, "validation")
    within_top_k = np.where(ranks.full <= 7, ranks.full, MISSED_RANK)  # the version answers 7 items
    found = compare(exported, exported, str(data_dir), drop_seen)
    assert found.served == found.candidate == pytest.approx(ranking_metrics(within_top_k)["ndcg@10"])
    assert found.served > 0


def test_the_gate_needs_a_hit_and_users(
    exported: pathlib.Path, data_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def users(*_: object) -> Iterator[RawHistories]:
        yield from found

    monkeypatch.setattr("bert4rec_tf.serving.quality_gate.iterate_raw_histories", users)
    found = [RawHistories([["a"], ["b"]], ["unknown", "unknown"], np.array([[0], [0]]))]
    nothing = compare(exported, exported, str(data_dir))
    assert (nothing.users, nothing.candidate, nothing.served) == (2, 0, 0)
    with pytest.raises(InputError, match=r"cannot tell.*0\.0000 against 0\.0000 of version .*2 users.*Fix: name a"):
        nothing.check(0.5)
    found = []
    with pytest.raises(InputError, match=r"needs validation users. Received: .*which has none. Fix: "):
        compare(exported, exported, str(data_dir))


def test_users_of_replaced_records_are_refused(tmp_path: pathlib.Path) -> None:
    def build(seed: int) -> None:
        log = MarkovLog(num_users=60, num_items=20, num_themes=4, min_events=5, max_events=9, seed=seed)
        build_records(log, {}, CONFIG, str(tmp_path / "data"), overwrite=True)

    build(1)
    users = iterate_raw_histories(str(tmp_path / "data"), "validation", 10, 60)
    next(users)
    build(2)
    with pytest.raises(InputError, match="run the same command again when the records are complete"):
        list(users)


def test_the_gate_names_a_served_version_that_cannot_be_loaded(
    good: pathlib.Path, data_dir: pathlib.Path, quick: None, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "shop" / "5").mkdir(parents=True)
    with pytest.raises(InputError, match="served version must answer"):
        export(str(good), str(tmp_path / "shop"), ExportOptions(data_dir=str(data_dir), max_regression=0.05))
    assert names(tmp_path / "shop") == ["5"]


@pytest.mark.slow
def test_ivf_probes_are_chosen_by_recall(good: pathlib.Path, data_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    settings = ExportOptions(index="ivf", min_recall=0.5, data_dir=str(data_dir))
    version = export(str(good), str(tmp_path / "shop"), settings)
    described = json.loads((version / "assets.extra" / "metadata.json").read_text())["index"]
    assert described["kind"] == "ivf"
    assert described["recall@60"] >= 0.5
    assert described["users"] == 150
    assert 1 <= described["probes"] < described["cells"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"top_k": 0}, "--top_k must be at least 1"),
        ({"top_k": 5, "max_k": 4}, "--max_k must be at least --top_k, which is 5. Received: 4"),
        ({"max_k": 0}, "--max_k must be at least"),
        ({"index": "scann"}, "--index must be exact or ivf"),
        ({"index": "ivf"}, "no --data_dir"),
        ({"max_regression": 0.1}, "no --data_dir"),
        ({"max_regression": -0.1, "data_dir": "x"}, "--max_regression must be at least 0"),
        ({"keep_versions": 0}, "--keep_versions must be at least 1"),
        ({"min_recall": 0.0}, "--min_recall must be above 0"),
    ],
)
def test_wrong_options_are_named(wrong: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ExportOptions(**wrong)


def test_a_directory_without_a_model_changes_nothing(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="model_dir"):
        export(str(tmp_path), str(tmp_path / "exports"), ExportOptions())
    assert not (tmp_path / "exports").exists()
