"""What a warm start carries over, and which models it refuses."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from bert4rec_tf.config import Config, ModelConfig
from bert4rec_tf.model.bert4rec import build_model
from bert4rec_tf.model_dir import TrainedModel
from bert4rec_tf.training.warm_start import WarmStart, check_compatible, warm_start
from tfrecords.config import DataConfig
from tfrecords.errors import InputError
from tfrecords.manifest import Manifest
from tfrecords.vocabulary import MASK_ID, NUM_SPECIAL_IDS, Vocabulary

CONFIG = Config(data=DataConfig(max_seq_length=6), model=ModelConfig(hidden_size=8, num_heads=2, initializer_range=0.5))


def vocabulary(*item_ids: str) -> Vocabulary:
    return Vocabulary(item_ids, np.arange(len(item_ids), 0, -1), (None,) * len(item_ids))


OLD = vocabulary("a", "b", "c", "gone")
NEW = vocabulary("new", "c", "a", "newer", "b")


def trained(config: Config) -> TrainedModel:
    model = build_model(config.model, OLD.size, config.data.max_seq_length)
    random = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(random.normal(scale=0.5, size=weight.shape))
    manifest = Manifest(config, {}, {}, (), "", {})
    return TrainedModel(model, OLD, config, manifest, {})


@pytest.fixture(scope="module")
def old() -> TrainedModel:
    return trained(CONFIG)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"embedding_layer_norm": True, "head_projection": False},
        {"positions": "none", "relative_distances": 4, "attention": "causal", "layer_norm": "pre"},
        {"attention": "prefix", "neighbours": 0.3, "layer_norm": "pre", "block": "gated", "item_vectors": "unit"},
    ],
)
def test_shared_items_score_as_before(changes: dict[str, Any]) -> None:
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, **changes))
    old = trained(config)
    model = build_model(config.model, NEW.size, config.data.max_seq_length)
    assert warm_start(model, NEW, old) == WarmStart(shared_items=3, new_items=2, forgotten_items=1)
    shared = ["a", "b", "c"]
    for history in (["a"], ["c", "b"], ["b", "a", "c", "b", "a", "c", "b"]):
        scores = [
            scored.score_next_item(tf.constant([names.ids_of(history)])).numpy()[0, names.ids_of(shared)]
            for scored, names in ((old.model, OLD), (model, NEW))
        ]
        # The order in which a vector's squares are summed depends on the size of the table.
        rounding = 1e-6 if config.model.item_vectors == "unit" else 0
        np.testing.assert_allclose(scores[1], scores[0], rtol=1e-6, atol=rounding)
    np.testing.assert_array_equal(
        model.embedding.item_table[:NUM_SPECIAL_IDS], old.model.embedding.item_table[:NUM_SPECIAL_IDS]
    )
    assert MASK_ID < NUM_SPECIAL_IDS


def test_new_items_start_at_the_mean_of_the_shared_ones(old: TrainedModel) -> None:
    popularity = np.linspace(-1, 1, NEW.size).astype(np.float32)
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, output_bias="log_popularity"))
    model = build_model(config.model, NEW.size, 6, popularity)
    fresh = model.embedding.item_table.numpy()
    warm_start(model, NEW, old)
    table, bias = model.embedding.item_table.numpy(), model.head.output_bias.numpy()
    new_ids, shared_ids = NEW.ids_of(["new", "newer"]), NEW.ids_of(["a", "b", "c"])
    np.testing.assert_allclose(table[new_ids], fresh[new_ids] + table[shared_ids].mean(axis=0), rtol=1e-5)
    moved = (bias[shared_ids] - popularity[shared_ids]).mean()
    np.testing.assert_allclose(bias[new_ids], popularity[new_ids] + moved, rtol=1e-5)
    assert not np.allclose(table[new_ids[0]], table[new_ids[1]])


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, hidden_size=4)), "`model.hidden_size`"),
        (dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, num_layers=1)), "`model.num_layers`"),
        (
            dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, attention="causal")),
            "`model.attention`.*set model.attention='bidirectional'",
        ),
        (dataclasses.replace(CONFIG, data=DataConfig(max_seq_length=7)), "`data.max_seq_length`"),
    ],
)
def test_a_different_architecture_is_refused(old: TrainedModel, changed: Config, named: str) -> None:
    with pytest.raises(InputError, match=named):
        check_compatible(changed, old.config)


def test_no_shared_item_is_refused(old: TrainedModel) -> None:
    strangers = vocabulary("x", "y")
    with pytest.raises(InputError, match="none of the records' items"):
        warm_start(build_model(CONFIG.model, strangers.size, 6), strangers, old)
