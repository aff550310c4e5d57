"""Versions: whole, warm, gated, labelled, taken back."""

import datetime
import fcntl
import json
import pathlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig
from tiny_version import ask_for_no_items

import bert4rec_tf
from bert4rec_tf.checkpoints import Checkpoints, Progress
from bert4rec_tf.config import Config
from bert4rec_tf.evaluation.evaluate import evaluate, make_ranker
from bert4rec_tf.evaluation.metrics import MISSED_RANK, ranking_metrics
from bert4rec_tf.inputs.user_histories import iterate_raw_histories
from bert4rec_tf.model.bert4rec import build_model
from bert4rec_tf.model_dir import TrainedModel, load_model, open_model_dir
from bert4rec_tf.serving.export import Publishing, export
from bert4rec_tf.serving.provenance import git_state, provenance
from bert4rec_tf.serving.quality_gate import Comparison, compare
from bert4rec_tf.serving.versions import rollback, versions, write_models_config
from bert4rec_tf.serving.warmup import BATCH_SIZES, WARM_UP_FILE, replay_warm_up
from pipelines.build import build_records
from pipelines.sources.synthetic import MarkovLog
from tfrecords.errors import InputError
from tfrecords.manifest import Manifest
from tfrecords.vocabulary import NUM_SPECIAL_IDS, Vocabulary

ROOT = pathlib.Path(__file__).parents[1]
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


def a_model(data_dir: pathlib.Path, name: str, good: bool) -> pathlib.Path:
    """A model directory: good, with the popularity order for every user, or bad, with its opposite."""
    vocabulary = Vocabulary.load(data_dir)
    path = data_dir.with_name(name)
    open_model_dir(path, CONFIG, Manifest.load(data_dir), vocabulary)
    model = build_model(CONFIG.model, vocabulary.size, CONFIG.data.max_seq_length)
    model.head.output_bias.assign(100 * vocabulary.log_popularity() * (1 if good else -1))
    Checkpoints(path, {"model": model, "progress": Progress(1)}, to_keep=1).save(best=True)
    return path


@pytest.fixture(scope="module")
def good(data_dir: pathlib.Path) -> pathlib.Path:
    return a_model(data_dir, "good", good=True)


@pytest.fixture(scope="module")
def bad(data_dir: pathlib.Path) -> pathlib.Path:
    return a_model(data_dir, "bad", good=False)


@pytest.fixture(scope="module")
def exported(good: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """One version, to be looked at and copied, not to be changed."""
    return export(str(good), str(tmp_path_factory.mktemp("exported") / "shop"), Publishing(top_k=7))


def copies(exported: pathlib.Path) -> Callable[[TrainedModel, pathlib.Path, Publishing], dict[str, Any]]:
    """What `export` may call to write a version, where the test is about the directory around it."""

    def copy(trained: TrainedModel, building: pathlib.Path, publishing: Publishing) -> dict[str, Any]:
        shutil.copytree(exported, building)
        return {"top_k": publishing.top_k}

    return copy


@pytest.fixture
def quick(exported: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bert4rec_tf.serving.export._write", copies(exported))


def exports_with(exported: pathlib.Path, root: pathlib.Path, *numbers: int) -> pathlib.Path:
    """An export directory with copies of a version, as older ones."""
    for number in numbers:
        shutil.copytree(exported, root / str(number))
    return root


def names(root: pathlib.Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.name not in (".lock", "models.config"))


def test_a_version_stands_alone(good: pathlib.Path, exported: pathlib.Path, data_dir: pathlib.Path) -> None:
    extra = exported / "assets.extra"
    assert Vocabulary.load(extra).item_ids == Vocabulary.load(data_dir).item_ids
    described = json.loads((extra / "metadata.json").read_text())
    assert described["max_k"] == 1000
    assert described["top_k"] == 7
    assert described["index"] == {"kind": "exact"}
    assert Config.from_dict(described["config"]) == CONFIG
    assert described["training"]["step"] == 0
    assert names(exported.parent) == [exported.name]


def test_metadata_says_what_was_trained_on(good: pathlib.Path, exported: pathlib.Path, data_dir: pathlib.Path) -> None:
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
    assert provenance(good, load_model(good))["validation"] == {"ndcg@10": 0.25}


def test_the_commit_is_that_of_the_checkout_itself(tmp_path: pathlib.Path) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "file").write_text("1")
    assert git_state(checkout) == {}

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(checkout), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init")
    assert git_state(checkout) == {}  # no commit yet
    git("add", "file")
    git("commit", "-m", "one")
    assert git_state(checkout) == {"git_commit": git("rev-parse", "HEAD"), "git_changed": False}
    (checkout / "file").write_text("2")
    assert git_state(checkout)["git_changed"] is True
    (checkout / "installed").mkdir()
    assert git_state(checkout / "installed") == {}


def test_it_answers_as_the_checkpoint_does(good: pathlib.Path, exported: pathlib.Path) -> None:
    trained = load_model(good)
    history = trained.vocabulary.item_ids[5:9]
    answer = tf.saved_model.load(str(exported)).signatures["serving_default"](item_ids=tf.constant([history]))
    scores = trained.model.score_next_item(tf.constant([trained.vocabulary.ids_of(list(history))])).numpy()[0]
    scores[trained.vocabulary.ids_of(list(history))] = -np.inf
    best = np.argsort(-scores, kind="stable")[:7]
    expected = [trained.vocabulary.item_ids[item - NUM_SPECIAL_IDS] for item in best]
    assert answer["item_ids"].numpy()[0].astype(str).tolist() == expected
    np.testing.assert_allclose(answer["scores"].numpy()[0], scores[best], rtol=1e-5)


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


def test_warm_up_asks_every_signature_at_every_batch_size(exported: pathlib.Path) -> None:
    asked = set()
    for record in tf.data.TFRecordDataset(str(exported / WARM_UP_FILE)):
        request = PredictionLog.FromString(record.numpy()).predict_log.request
        sizes = {
            value.tensor_shape.dim[0].size for name, value in request.inputs.items() if name != "excluded_item_ids"
        }
        asked |= {(request.model_spec.signature_name, max(sizes))}
    signatures = tf.saved_model.load(str(exported)).signatures
    assert asked == {(signature, size) for signature in signatures for size in BATCH_SIZES}
    batching = (ROOT / "deploy" / "batching_parameters.txt").read_text()
    for size in BATCH_SIZES:
        assert f"allowed_batch_sizes: {size}\n" in batching


@pytest.mark.slow
def test_a_version_that_cannot_answer_is_not_published(
    good: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked_for_no_items(version: pathlib.Path) -> None:
        ask_for_no_items(version)
        replay_warm_up(version)

    monkeypatch.setattr("bert4rec_tf.serving.export.replay_warm_up", asked_for_no_items)
    with pytest.raises(InputError, match=r"warm-up requests.*must be at least 1.*nothing was published"):
        export(str(good), str(tmp_path / "shop"), Publishing())
    assert names(tmp_path / "shop") == []


def test_numbers_only_rise_and_leftovers_go(
    good: pathlib.Path, exported: pathlib.Path, quick: None, tmp_path: pathlib.Path
) -> None:
    root = exports_with(exported, tmp_path / "shop", 99999999999)
    (root / ".tmp-99999999990").mkdir()
    (root / ".withdrawn-99999999999999").mkdir()
    assert export(str(good), str(root), Publishing()).name == "100000000000000"
    assert names(root) == [".withdrawn-99999999999999", "100000000000000", "99999999999"]


def test_old_versions_are_deleted_only_if_asked(
    good: pathlib.Path, exported: pathlib.Path, quick: None, tmp_path: pathlib.Path
) -> None:
    root = exports_with(exported, tmp_path / "shop", 1, 2, 10)
    (root / ".withdrawn-3").mkdir()
    newest = export(str(good), str(root), Publishing(keep_versions=2, poll_seconds=0.0))
    assert names(root) == ["10", newest.name]


def test_labels_follow_the_versions(
    good: pathlib.Path, exported: pathlib.Path, quick: None, tmp_path: pathlib.Path
) -> None:
    def labels() -> dict[str, int]:
        parsed = text_format.Parse((root / "models.config").read_text(), ModelServerConfig())
        (config,) = parsed.model_config_list.config
        assert (config.name, config.base_path, config.model_platform) == ("my shop", "/models/my shop", "tensorflow")
        assert config.model_version_policy.latest.num_versions == 3
        return dict(config.version_labels)

    root = tmp_path / "my shop"
    exports_with(exported, root, 5)
    write_models_config(root, versions(root))
    assert labels() == {"stable": 5, "previous": 5}
    exports_with(exported, root, 7)
    newest = export(str(good), str(root), Publishing())
    assert labels() == {"stable": int(newest.name), "previous": 7}
    assert rollback(str(root), poll_seconds=0.0) == (newest.name, "7")
    assert labels() == {"stable": 7, "previous": 5}
    assert names(root) == [f".withdrawn-{newest.name}", "5", "7"]


def test_labels_never_name_what_is_gone(
    good: pathlib.Path, exported: pathlib.Path, quick: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while old versions are deleted, or before a version is withdrawn."""

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    root = exports_with(exported, tmp_path / "shop", 5, 6)
    with monkeypatch.context() as killed:
        killed.setattr("bert4rec_tf.serving.export.remove_version", die)
        with pytest.raises(KeyboardInterrupt):
            export(str(good), str(root), Publishing(keep_versions=1, poll_seconds=0.0))
    newest = versions(root)[-1].name
    text = (root / "models.config").read_text()
    assert text.count(f"value: {newest}") == 2
    with monkeypatch.context() as killed:
        killed.setattr(pathlib.Path, "rename", die)
        with pytest.raises(KeyboardInterrupt):
            rollback(str(root), poll_seconds=0.0)
    assert f'"stable" value: {6}' in (root / "models.config").read_text()
    assert rollback(str(root), poll_seconds=0.0) == (newest, "6")


def test_rollback_needs_a_version_to_return_to(exported: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="no directory"):
        rollback(str(tmp_path / "shop"))
    root = exports_with(exported, tmp_path / "shop", 5)
    with pytest.raises(InputError, match="which holds 1"):
        rollback(str(root), poll_seconds=0.0)
    assert names(root) == ["5"]


def test_one_command_at_a_time(exported: pathlib.Path, good: pathlib.Path, tmp_path: pathlib.Path) -> None:
    root = exports_with(exported, tmp_path / "shop", 5, 6)
    with (root / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="One command at a time"):
            export(str(good), str(root), Publishing())
        with pytest.raises(InputError, match="One command at a time"):
            rollback(str(root), poll_seconds=0.0)
    assert names(root) == ["5", "6"]


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
    gated = Publishing(data_dir=str(data_dir), max_regression=0.05)
    with pytest.raises(
        InputError, match=r"(0\.\d{4}) against (0\.\d{4}) of version 5, .*% less, over 150 users.*95% in"
    ):
        export(str(bad), str(root), gated)
    assert names(root) == ["5"]
    monkeypatch.setattr("bert4rec_tf.serving.export._write", copies(exported))
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
    shown = np.where(ranks.full <= 7, ranks.full, MISSED_RANK)  # K of the version
    found = compare(exported, exported, str(data_dir), drop_seen)
    assert found.served == found.candidate == pytest.approx(ranking_metrics(shown)["ndcg@10"])
    assert found.served > 0


def test_the_gate_needs_a_hit_and_users(
    exported: pathlib.Path, data_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def users(*_: object) -> Iterator[tuple[list[list[str]], list[str]]]:
        yield from found

    monkeypatch.setattr("bert4rec_tf.serving.quality_gate.iterate_raw_histories", users)
    found: list[tuple[list[list[str]], list[str]]] = [([["a"], ["b"]], ["unknown", "unknown"])]
    nothing = compare(exported, exported, str(data_dir))
    assert (nothing.users, nothing.candidate, nothing.served) == (2, 0, 0)
    with pytest.raises(InputError, match=r"cannot tell.*0\.0000 against 0\.0000 of version .*2 users.*Fix: name a"):
        nothing.check(0.5)
    found = []
    with pytest.raises(InputError, match=r"over validation users. Received: .*which has none. Fix: "):
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


@pytest.mark.parametrize(
    ("candidate", "served", "ci95", "refused"),
    [
        (0.1810, 0.1902, [-0.014, -0.004], True),  # too large a drop, and no chance
        (0.1810, 0.1902, [-0.019, 0.001], False),  # may be chance
        (0.1890, 0.1902, [-0.002, -0.001], False),  # no chance, and small enough
        (0.1950, 0.1902, [-0.001, 0.011], False),
        (0.1, 0.0, [0.02, 0.2], False),
        (0.0, 0.2, [-0.6, 0.0], True),  # no hit at all
    ],
)
def test_the_gate_refuses_large_drops_that_are_no_chance(
    candidate: float, served: float, ci95: list[float], refused: bool
) -> None:
    comparison = Comparison(6040, candidate, served, candidate - served, ci95, "7")
    if not refused:
        comparison.check(0.02)
        return
    with pytest.raises(InputError, match=r"^New model rejected: NDCG@10 .* of version 7, .*Fix: ") as error:
        comparison.check(0.02)
    if candidate:
        assert str(error.value) == (
            "New model rejected: NDCG@10 0.1810 against 0.1902 of version 7, 4.8% less, over 6,040 users of the "
            "validation split (95% interval of the difference -0.0140 to -0.0040). --max_regression=0.02 allows 2.0% "
            "less. Nothing was published. Fix: train a better model, or raise --max_regression"
        )


def test_the_gate_names_a_served_version_that_cannot_be_asked(
    good: pathlib.Path, data_dir: pathlib.Path, quick: None, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "shop" / "5").mkdir(parents=True)
    with pytest.raises(InputError, match="served version must answer"):
        export(str(good), str(tmp_path / "shop"), Publishing(data_dir=str(data_dir), max_regression=0.05))
    assert names(tmp_path / "shop") == ["5"]


@pytest.mark.slow
def test_an_inverted_file_probes_what_its_recall_needs(
    good: pathlib.Path, data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    settings = Publishing(index="ivf", min_recall=0.5, data_dir=str(data_dir))
    version = export(str(good), str(tmp_path / "shop"), settings)
    described = json.loads((version / "assets.extra" / "metadata.json").read_text())["index"]
    assert described["kind"] == "ivf"
    assert described["recall@60"] >= 0.5
    assert described["users"] == 150
    assert 1 <= described["probes"] < described["cells"]


@pytest.mark.parametrize(
    ("wrong", "says"),
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
def test_wrong_settings_are_named(wrong: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Publishing(**wrong)


def test_a_directory_without_a_model_changes_nothing(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="model_dir"):
        export(str(tmp_path), str(tmp_path / "exports"), Publishing())
    assert not (tmp_path / "exports").exists()
