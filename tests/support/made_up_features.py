"""Features of a few items, with missing values, and the vectors that a model makes of them, in NumPy."""

import dataclasses

import numpy as np

from bert4rec_tf.config import ModelConfig
from bert4rec_tf.model.bert4rec import Bert4Rec, build_model
from bert4rec_tf.model.item_features import FeatureArrays
from tests.support.small_models import MAX_SEQ_LENGTH, with_random_weights
from tfrecords.item_features import CategoricalFeature, ItemFeatures, NumericFeature, VectorFeature
from tfrecords.vocabulary import NUM_SPECIAL_IDS

ITEMS = 11
COUNTS = np.array([9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0])  # the last two items are cold
BRANDS = [["x"], ["y"], ["x"], ["once"], [], ["y"], ["x"], ["y"], [], ["x"], ["y"]]
TAGS = [["r", "g"], ["r"], [], ["g", "b", "r"], ["b"], ["g"], [], ["r", "b"], [], ["g", "r"], ["b"]]
PRICES = np.array([1.0, 2.0, np.nan, 4.0, 5.0, np.nan, 7.0, 8.0, 9.0, 10.0, np.nan])


def made_up_features(items: int = ITEMS) -> ItemFeatures:
    vectors = np.random.default_rng(3).normal(size=[ITEMS, 5]).astype(np.float32)
    vectors[[1, 9]] = np.nan
    return ItemFeatures(
        tuple(f"item-{index}" for index in range(items)),
        (
            CategoricalFeature.from_cells("brand", BRANDS[:items]),
            CategoricalFeature.from_cells("tags", TAGS[:items]),
            NumericFeature.from_values("price", PRICES[:items]),
            VectorFeature("text", vectors[:items]),
        ),
    )


def model_with_features(config: ModelConfig, kind: str = "sum", seed: int = 1, **changes: float) -> Bert4Rec:
    """A model of these items with random weights."""
    config = dataclasses.replace(config, item_features=kind, **changes)
    arrays = FeatureArrays.of(made_up_features(), COUNTS)
    model = build_model(config, ITEMS + NUM_SPECIAL_IDS, MAX_SEQ_LENGTH, item_features=arrays)
    return with_random_weights(model, seed)


def vectors_by_hand(model: Bert4Rec, unknown: np.ndarray) -> np.ndarray:
    """v_i of every id, float64 [V, D], item by item; `unknown`, bool [V]: stands for an item that is not known."""
    layer, features = model.embedding.item_features, made_up_features()
    brands, tags = (np.float64(table) for table in layer.category_tables)
    number, missing = np.float64(layer.number_table), np.float64(layer.missing_number_table)
    text, price = features.features[3].values, features.features[2]
    # By falling number of items, then by text; row 1 is that of a category of one item.
    rows_of_brand, rows_of_tag = {"x": 2, "y": 3}, {"r": 2, "b": 3, "g": 4}
    found = np.float64(model.embedding.item_table)
    found[unknown] = np.float64(layer.unknown_item)
    for index in range(ITEMS):
        added = np.zeros(model.config.hidden_size)
        if BRANDS[index]:
            added += np.mean([brands[rows_of_brand.get(brand, 1)] for brand in BRANDS[index]], axis=0)
        if TAGS[index]:
            added += np.mean([tags[rows_of_tag[tag]] for tag in TAGS[index]], axis=0)
        if np.isnan(PRICES[index]):
            added += missing[0]
        else:
            added += (PRICES[index] - price.mean) / price.deviation * number[0]
        if not np.isnan(text[index]).any():
            scaled = np.float64(text[index]) / np.linalg.norm(np.float64(text[index])) * np.sqrt(5)
            added += scaled @ np.float64(layer.vector_projections[0])
        own = found[index + NUM_SPECIAL_IDS]
        if model.config.item_features == "gated":
            mixed = np.concatenate([own, added]) @ np.float64(layer.gate) + np.float64(layer.gate_bias)
            added = added / (1 + np.exp(-mixed))
        found[index + NUM_SPECIAL_IDS] = own + added
    return found
