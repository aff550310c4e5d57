"""Starts a model from another one: yesterday's weights over today's vocabulary."""

import dataclasses

import numpy as np
import tensorflow as tf

from bert4rec_tf.config import Config, ModelConfig, fields_with
from bert4rec_tf.model.bert4rec import Bert4Rec
from bert4rec_tf.model_dir import TrainedModel
from tfrecords.errors import InputError
from tfrecords.vocabulary import NUM_SPECIAL_IDS, Vocabulary


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """What was carried over.

    Attributes:
        shared_items: items of both vocabularies.
        new_items: items of the new one alone.
        forgotten_items: items of the old one alone.
    """

    shared_items: int
    new_items: int
    forgotten_items: int


def warm_start(model: Bert4Rec, vocabulary: Vocabulary, old: TrainedModel) -> WarmStart:
    """Gives a new model the weights of an old one.

    Positions, layer norms, encoder and head are copied, and so are the special ids' and the shared items' embeddings
    and biases: both models give shared items the same scores. A new item's embedding is its fresh start plus the mean
    of the shared items' embeddings, and its bias the fresh one plus the mean by which the old model moved the shared
    items' biases from theirs. The optimizer starts afresh. (No part of the paper.)

    Args:
        model: freshly built, with `vocabulary`.
        vocabulary: of the new records.
        old: the model to start from; `check_compatible` must have passed.

    Raises:
        InputError: no item is shared.
    """
    old_ids = np.array(old.vocabulary.ids_of(list(vocabulary.item_ids)))
    shared = np.concatenate([np.ones(NUM_SPECIAL_IDS, bool), old_ids >= NUM_SPECIAL_IDS])
    old_ids = np.concatenate([np.arange(NUM_SPECIAL_IDS), old_ids])[shared]
    items = int(shared.sum()) - NUM_SPECIAL_IDS
    if items == 0:
        raise InputError(
            "A warm start needs items that both vocabularies have. Received: a model with none of the records' items"
        )
    for new_weight, old_weight in (
        (model.embedding.item_table, old.model.embedding.item_table),
        (model.head.output_bias, old.model.head.output_bias),
    ):
        fresh, carried = new_weight.numpy(), old_weight.numpy()[old_ids]
        moved = carried[NUM_SPECIAL_IDS:] - (fresh[shared][NUM_SPECIAL_IDS:] if fresh.ndim == 1 else 0)
        values = fresh + moved.mean(axis=0, dtype=np.float64).astype(fresh.dtype)
        values[shared] = carried
        new_weight.assign(values)
    if model.config.positions != "none":
        model.embedding.position_table.assign(old.model.embedding.position_table)
    if model.config.embedding_layer_norm:
        _copy(model.embedding.norm, old.model.embedding.norm)
    _copy(model.encoder, old.model.encoder)
    _copy(model.head, old.model.head)
    return WarmStart(items, len(vocabulary.item_ids) - items, len(old.vocabulary.item_ids) - items)


def check_compatible(new: Config, old: Config) -> None:
    """Whether a model may start from another one.

    Raises:
        InputError: sizes, what a slot sees, or the longest sequence differ.
    """
    names = fields_with(ModelConfig, "shapes_weights")
    settings = [(f"model.{name}", getattr(new.model, name), getattr(old.model, name)) for name in names]
    settings.append(("data.max_seq_length", new.data.max_seq_length, old.data.max_seq_length))
    for name, received, carried in settings:
        if received != carried:
            raise InputError(
                f"`{name}` must be that of the model to start from. Received: {received!r}, there {carried!r}. "
                f"Fix: set {name}={carried!r}, or start anew"
            )


def _copy(new: tf.keras.layers.Layer, old: tf.keras.layers.Layer) -> None:
    """All of a layer's weights but the output bias, which is the items'."""
    for new_weight, old_weight in zip(new.weights, old.weights, strict=True):
        if "output_bias" not in new_weight.name:
            new_weight.assign(old_weight)
