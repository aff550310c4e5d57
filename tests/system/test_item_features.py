"""Item features from the table to the served model: what they teach, what the commands do, and cold items."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from bert4rec_tf.api.recommender import Recommender
from bert4rec_tf.config import Config
from bert4rec_tf.model_dir import load_model
from bert4rec_tf.serving.export import ExportOptions, export
from bert4rec_tf.training.trainer import train
from pipelines.build import build_records
from pipelines.sources.item_features import read_feature_table
from pipelines.sources.log_source import LogSource
from tests.support.command_line import run
from tests.support.short_run import train_here
from tfrecords.errors import InputError
from tfrecords.item_features import ItemFeatures
from tfrecords.manifest import Manifest
from tfrecords.vocabulary import NUM_SPECIAL_IDS, Vocabulary

CATEGORIES, ITEMS, USERS, EVENTS = 8, 1600, 250, 14
NEW_ITEMS = 80  # in no event
SETTINGS = {
    "data": {"max_seq_length": 14, "num_shards": 2, "num_negatives": 20},
    "masking": {"duplicate_factor": 0, "last_item_instances": 1},
    "model": {
        "attention": "prefix",
        "hidden_size": 16,
        "num_layers": 1,
        "dropout": 0.1,
        "layer_norm": "pre",
        "embedding_layer_norm": True,
        "dense_initializer": "glorot",
        "head_projection": False,
    },
    "training": {
        "num_steps": 300,
        "batch_size": 64,
        "num_length_buckets": 1,
        "learning_rate": 0.01,
        "warmup_steps": 20,
        "steps_per_epoch": 300,
        "jit_compile": False,
    },
}


def category_of(item: int) -> int:
    return item % CATEGORIES


def write_log(path: pathlib.Path) -> None:
    """After an item of category c follows any item of category c + 1: three events an item, so ids teach little."""
    draw = np.random.default_rng(1)
    rows = ["user_id,item_id,timestamp"]
    for user in range(USERS):
        category = draw.integers(CATEGORIES)
        for time in range(EVENTS):
            item = draw.integers(ITEMS // CATEGORIES) * CATEGORIES + category
            rows.append(f"user-{user},{item},{time}")
            category = (category + 1) % CATEGORIES
    path.write_text("\n".join(rows) + "\n")


def write_items(path: pathlib.Path, numbers: range) -> None:
    rows = [f"{item},{'abcdefgh'[category_of(item)]},{item * 0.5}" for item in numbers]
    path.write_text("\n".join(["item_id,kind,price", *rows]) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("features")
    write_log(path / "log.csv")
    write_items(path / "items.csv", range(ITEMS))
    write_items(path / "new.csv", range(ITEMS - 5, ITEMS + NEW_ITEMS))
    source = LogSource([str(path / "log.csv")], timestamp_unit="s")
    table = read_feature_table(str(path / "items.csv"))
    build_records(source, {}, Config.from_dict(SETTINGS), str(path / "data"), item_features=table)
    return path


def right_categories(folder: pathlib.Path, name: str, item_features: str) -> tuple[float, float]:
    """After training: the share of the ten best items, and of the cold items ranked first, in the right category."""
    settings = SETTINGS | {"model": SETTINGS["model"] | {"item_features": item_features, "item_id_dropout": 0.2}}
    trained = train(str(folder / "data"), str(folder / name), settings, tf.distribute.get_strategy())
    vocabulary = Vocabulary.load(folder / "data")
    categories = np.array([category_of(int(item_id)) for item_id in vocabulary.item_ids])
    cold = np.flatnonzero(vocabulary.counts == 0)
    assert len(cold) > 40
    histories = np.array([vocabulary.ids_of([str(user * 5 + step) for step in range(6)]) for user in range(40)])
    histories = histories[(histories >= NUM_SPECIAL_IDS).all(axis=1)]
    scores = trained.model.score_next_item(tf.constant(histories, tf.int32)).numpy()[:, NUM_SPECIAL_IDS:]
    wanted = (categories[histories[:, -1] - NUM_SPECIAL_IDS] + 1) % CATEGORIES
    best = np.argsort(-scores, axis=1)[:, :10]
    best_cold = cold[np.argsort(-scores[:, cold], axis=1)[:, :5]]
    return tuple(float((categories[found] == wanted[:, None]).mean()) for found in (best, best_cold))  # type: ignore[return-value]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sum", "gated"])
def test_features_teach_what_ids_cannot(folder: pathlib.Path, kind: str) -> None:
    best, best_cold = right_categories(folder, kind, kind)
    assert best > 0.95
    assert best_cold > 0.95, "items without training events are known by their features"


@pytest.mark.slow
def test_without_features_the_category_stays_hidden(folder: pathlib.Path) -> None:
    best, best_cold = right_categories(folder, "none", "none")
    assert best < 0.5
    assert best_cold < 0.3, "an eighth is chance"


@pytest.mark.slow
def test_new_items_are_recommended_after_an_export(folder: pathlib.Path) -> None:
    train_here(folder / "data", folder / "short", model={"item_features": "sum"})
    plain = export(folder / "short", folder / "plain", ExportOptions(top_k=5))
    table = read_feature_table(str(folder / "new.csv"))
    version = export(folder / "short", folder / "with new", ExportOptions(top_k=5), table)
    metadata = [json.loads((path / "assets.extra/metadata.json").read_text()) for path in (plain, version)]
    vocabulary = Vocabulary.load(folder / "data")
    known, cold = len(vocabulary.item_ids), int((vocabulary.counts == 0).sum())
    unseen = [str(item) for item in range(ITEMS - 5, ITEMS + NEW_ITEMS) if str(item) not in vocabulary.item_ids]
    assert len(unseen) >= NEW_ITEMS
    assert [(found["items"], found["cold_items"]) for found in metadata] == [
        (known, cold),
        (known + len(unseen), cold + len(unseen)),
    ]
    served = [Recommender.load(path) for path in (folder / "plain", folder / "with new")]
    histories = [[*vocabulary.item_ids[:3]], [unseen[0]], [vocabulary.item_ids[9], unseen[-1]]]
    ranked = [recommender.recommend(histories, k=20, allow=vocabulary.item_ids[:50]) for recommender in served]
    assert ranked[0].item_ids[0] == ranked[1].item_ids[0], "scores of known items stay"
    np.testing.assert_allclose(ranked[0].scores[0], ranked[1].scores[0], atol=1e-5)
    new_only = served[1].recommend(histories, k=5, allow=unseen)
    assert all(set(row) <= set(unseen) and len(row) == 5 for row in new_only.item_ids)
    assert unseen[0] not in new_only.item_ids[1], "a new item of the history counts as seen"


def test_the_commands_take_features(tmp_path: pathlib.Path, folder: pathlib.Path) -> None:
    build = (
        "pipelines/make_tfrecords.py", f"--input={folder}/log.csv", f"--item_features={folder}/new.csv",
        "--item_feature_kinds=price:categorical", f"--output_dir={tmp_path}/data", "--set=data.num_negatives=5",
        "--set=data.max_seq_length=14",
    )  # fmt: skip
    printed = run(*build)
    assert "of them with features: kind (categorical), price (categorical)" in printed
    assert " items of new.csv in no event, such as '1600' (line 7), '1601' (line 8), '1602' (line 9)" in printed
    manifest, features = Manifest.load(tmp_path / "data"), ItemFeatures.load(tmp_path / "data")
    assert manifest.source["item_features"]["kinds"] == {"kind": "categorical", "price": "categorical"}
    assert features is not None
    assert features.item_ids == Vocabulary.load(tmp_path / "data").item_ids
    assert manifest.counts["items_with_features"] == int(features.has_value().sum()) <= 5
    again = run(*build)
    assert "Nothing to do" in again
    (tmp_path / "data/item_features.parquet").write_bytes(b"damaged")
    refused = run("evaluate.py", "--baseline=popularity", f"--data_dir={tmp_path}/data", code=2)
    assert "item_features.parquet is damaged or not the one that was written" in refused


def test_a_model_with_features_needs_records_with_features(tmp_path: pathlib.Path, folder: pathlib.Path) -> None:
    source = LogSource([str(folder / "log.csv")], timestamp_unit="s")
    build_records(source, {}, Config.from_dict(SETTINGS), str(tmp_path / "data"))
    with pytest.raises(InputError, match=r"model\.item_features=sum needs items with features. Received: .*data"):
        train_here(tmp_path / "data", tmp_path / "model", model={"item_features": "sum"})
    train_here(tmp_path / "data", tmp_path / "model")
    with pytest.raises(InputError, match="--item_features needs a model that was trained with item features"):
        export(tmp_path / "model", tmp_path / "exports", None, read_feature_table(str(folder / "new.csv")))


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: pathlib.Path, folder: pathlib.Path
) -> None:
    sampled = {"loss": "sampled_softmax", "sampled_items": 30}
    for name, steps in (("whole", [6]), ("resumed", [4, 6])):
        for number in steps:
            train_here(
                folder / "data", tmp_path / name, model={"item_features": "gated"},
                training={"num_steps": number, "schedule": "constant", **sampled},
            )  # fmt: skip
    whole, resumed = (load_model(tmp_path / name, fold=False).model for name in ("whole", "resumed"))
    for one, other in zip(whole.weights, resumed.weights, strict=True):
        np.testing.assert_array_equal(one, other)
