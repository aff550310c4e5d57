"""Small models with random weights, a batch for them, and the paper's logits and loss of both in NumPy."""

import dataclasses

import numpy as np
import tensorflow as tf

from bert4rec_tf.config import ModelConfig
from bert4rec_tf.model.bert4rec import Bert4Rec, build_model
from tests.support.numpy_bert4rec import Weights, log_softmax, masked_logits, times_of_slots
from tfrecords.vocabulary import MASK_ID, UNK_ID

VOCABULARY_SIZE, MAX_SEQ_LENGTH = 14, 8
SMALL = ModelConfig(hidden_size=8, num_heads=2, num_layers=1, feed_forward_size=12, dropout=0.0, attention_dropout=0.0)
TWO_LAYERS = ModelConfig(hidden_size=12, num_heads=3, num_layers=2, dropout=0.0, attention_dropout=0.0)
PRE = ModelConfig(
    hidden_size=8, num_heads=4, num_layers=3, feed_forward_size=20, dropout=0.0, attention_dropout=0.0, layer_norm="pre"
)
NEWEST = dataclasses.replace(PRE, positions="from_newest")
DISTANCES = dataclasses.replace(NEWEST, relative_distances=3)
CAUSAL = dataclasses.replace(TWO_LAYERS, attention="causal")
CAUSAL_NEWEST = dataclasses.replace(NEWEST, attention="causal")
CAUSAL_DISTANCES = dataclasses.replace(CAUSAL_NEWEST, relative_distances=20)
EMBEDDING_NORM = dataclasses.replace(CAUSAL_DISTANCES, positions="none", embedding_layer_norm=True)
PREFIX = dataclasses.replace(DISTANCES, attention="prefix", neighbours=0.3)
NEIGHBOURS = dataclasses.replace(DISTANCES, neighbours=0.5, embedding_layer_norm=True)
GATED = dataclasses.replace(PRE, block="gated", num_layers=2)
TIMES = dataclasses.replace(NEIGHBOURS, time_bias=True, request_time=0.5, time_dropout=0.0)
PREFIX_TIMES = dataclasses.replace(PREFIX, time_bias=True, request_time=0.5)
UNIT = dataclasses.replace(NEIGHBOURS, item_vectors="unit", head_projection=False)
DROPPING = ModelConfig(hidden_size=8, num_heads=2, num_layers=1, dropout=0.5, attention_dropout=0.5)


def random_model(config: ModelConfig, seed: int = 1) -> Bert4Rec:
    """A model of which no weight keeps its starting value."""
    return with_random_weights(build_model(config, VOCABULARY_SIZE, MAX_SEQ_LENGTH), seed)


def with_random_weights(model: Bert4Rec, seed: int) -> Bert4Rec:
    """The model, with every weight, in the order of `trainable_variables`, from one generator."""
    generator = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        centre = 1.0 if "gamma" in variable.name else 0.0
        variable.assign(centre + generator.uniform(-0.6, 0.6, variable.shape))
    return model


def paper_weights(model: Bert4Rec, values: list[np.ndarray] | None = None) -> Weights:
    """The model's weights (or `values`, in the order of `trainable_variables`) under the paper's names."""
    values = [variable.numpy() for variable in model.trainable_variables] if values is None else values
    named = {
        variable.name.removeprefix("bert4rec/").removesuffix(":0"): np.float64(value)
        for variable, value in zip(model.trainable_variables, values, strict=True)
    }
    heads, size = model.config.num_heads, model.config.hidden_size
    weights = {
        "E": _vectors(named["embedding/item_table"], model.config),
        "b_O": named["masked_item_head/output_bias"],
    }
    if model.config.head_projection:
        weights["W_P"] = named["masked_item_head/projection/kernel"]
        weights["b_P"] = named["masked_item_head/projection/bias"]
    if model.config.positions != "none":
        name = "P" if model.config.positions == "from_oldest" else "P_from_newest"
        weights[name] = named["embedding/position_table"]
    if model.config.embedding_layer_norm and model.config.layer_norm != "none":
        weights["norm_0"] = _scale_and_shift(named, "embedding/layer_norm")
    if model.config.request_time:
        weights["request_gap"] = named["embedding/request_gap_table"]
    for beside in ("before", "after"):
        if f"embedding/neighbour_{beside}" in named:
            weights[beside] = named[f"embedding/neighbour_{beside}"]
    for block in range(model.config.num_layers):
        inside = f"encoder/block_{block}"
        for layer, letters in (("query", "Q"), ("key_value", "KV")):
            kernel = named[f"{inside}/attention/{layer}/kernel"].reshape(size, len(letters), heads, size // heads)
            bias = named[f"{inside}/attention/{layer}/bias"].reshape(len(letters), heads, size // heads)
            for index, letter in enumerate(letters):
                weights[f"{block}.W_{letter}"] = kernel[:, index].transpose(1, 0, 2)
                weights[f"{block}.b_{letter}"] = bias[index]
        if model.config.relative_distances:
            weights[f"{block}.b_distance"] = named[f"{inside}/attention/distance_bias"]
        if model.config.time_bias:
            weights[f"{block}.b_time"] = named[f"{inside}/attention/time_bias"]
        layers = {"O": "attention/output_projection", "1": "feed_forward_in", "2": "feed_forward_out"}
        for name, layer in layers.items():
            if name != "O" and not model.config.feed_forward:
                continue
            weights[f"{block}.W_{name}"] = named[f"{inside}/{layer}/kernel"]
            weights[f"{block}.b_{name}"] = named[f"{inside}/{layer}/bias"]
        for name, layer in (("1", "attention"), ("2", "feed_forward")):
            if f"{inside}/{layer}_gate/kernel" in named:
                weights[f"{block}.W_gate_{name}"] = named[f"{inside}/{layer}_gate/kernel"]
                weights[f"{block}.b_gate_{name}"] = named[f"{inside}/{layer}_gate/bias"]
            if f"{inside}/{layer}_layer_norm/gamma" in named:
                weights[f"{block}.norm_{name}"] = _scale_and_shift(named, f"{inside}/{layer}_layer_norm")
    if model.config.layer_norm == "pre":
        weights["final_norm"] = _scale_and_shift(named, "encoder/final_layer_norm")
    return weights


def _vectors(table: np.ndarray, config: ModelConfig) -> np.ndarray:
    return table / np.linalg.norm(table, axis=1, keepdims=True) if config.item_vectors == "unit" else table


def _scale_and_shift(named: Weights, layer: str) -> np.ndarray:
    return np.stack([named[f"{layer}/gamma"], named[f"{layer}/beta"]])


def example_batch() -> dict[str, np.ndarray]:
    """Rows of 7, 4, 1 and 0 items, L = 7, P = 2; unused slots have weight 0."""
    return {
        "item_ids": np.array(
            [[5, MASK_ID, 13, 3, MASK_ID, UNK_ID, 5], [9, 4, 4, MASK_ID, 0, 0, 0], [MASK_ID] + [0] * 6, [0] * 7],
            np.int32,
        ),
        "valid_mask": np.arange(7) < np.array([[7], [4], [1], [0]]),
        "masked_positions": np.array([[1, 4], [3, 0], [0, 0], [0, 0]], np.int32),
        "masked_item_ids": np.array([[7, 12], [3, 6], [8, 0], [0, 0]], np.int32),
        "masked_weights": np.array([[1, 1], [1, 1], [1, 0], [0, 0]], np.float32),
    }


def prefix_batch() -> dict[str, np.ndarray]:
    """The rows of `example_batch` with prefixes of several lengths: some, all and none of the slots."""
    return example_batch() | {"prefix_lengths": np.array([[3], [4], [0], [0]], np.int32)}


def with_times(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The batch with times [B, L + 1]: some are unknown, some equal, and one is earlier than the one before."""
    times = [
        [0, 5, 65, 3600, 90_000, 90_000, 10**9, 10**9 + 7],
        [3, -1, 40, 2**31 - 2, 0, 0, 0, 0],
        [0, 9, 0, 0, 0, 0, 0, 0],
        [0] * 8,
    ]
    times[0][2], times[0][3] = times[0][3], times[0][2]
    return batch | {"times": np.array(times, np.int32)}


def inputs_of(batch: dict[str, np.ndarray]) -> dict[str, tf.Tensor]:
    names = ("item_ids", "valid_mask", "masked_positions", "prefix_lengths", "times")
    return {name: tf.constant(batch[name]) for name in names if name in batch}


def oracle_logits(weights: Weights, batch: dict[str, np.ndarray], config: ModelConfig) -> np.ndarray:
    """Logits [rows, P, V] of the rows that hold an item, by the NumPy oracle."""
    prefixes = [0 if config.attention == "causal" else None] * len(batch["item_ids"])
    if "prefix_lengths" in batch:
        prefixes = batch["prefix_lengths"][:, 0].tolist()
    times = [None] * len(prefixes)
    if "times" in batch:
        times = [
            times_of_slots(items[valid].tolist(), row[: valid.sum() + 1].tolist(), config.predicts_next_items)
            for items, valid, row in zip(batch["item_ids"], batch["valid_mask"], batch["times"], strict=True)
        ]
    rows = zip(batch["item_ids"], batch["valid_mask"], batch["masked_positions"], prefixes, times, strict=True)
    return np.stack(
        [
            masked_logits(weights, items, valid, positions, config.layer_norm, prefix, config.residual, slot_times)
            for items, valid, positions, prefix, slot_times in rows
            if valid.any()
        ]
    )


def oracle_loss(weights: Weights, batch: dict[str, np.ndarray], config: ModelConfig) -> float:
    """Mean negative log-likelihood of the masked items."""
    full = batch["valid_mask"].any(axis=1)
    chosen = np.take_along_axis(
        log_softmax(oracle_logits(weights, batch, config)), batch["masked_item_ids"][full, :, None], axis=2
    )
    return -float(np.sum(chosen[..., 0] * batch["masked_weights"][full]) / np.sum(batch["masked_weights"]))
