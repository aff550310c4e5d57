"""Starts a model from the weights of another one, which may have another vocabulary."""

import dataclasses

import numpy as np
import tensorflow as tf

from bert4rec_tf.config import Config, ModelConfig, fields_with
from bert4rec_tf.model.bert4rec import Bert4Rec
from bert4rec_tf.model.item_features import OWN_CATEGORIES, category_rows
from bert4rec_tf.model_dir import TrainedModel
from tfrecords.errors import InputError
from tfrecords.item_features import ItemFeatures
from tfrecords.vocabulary import NUM_SPECIAL_IDS, Vocabulary


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """How many items a warm start carried over.

    Attributes:
        shared_items: items in both vocabularies.
        new_items: items only in the new one.
        forgotten_items: items only in the old one.
    """

    shared_items: int
    new_items: int
    forgotten_items: int


def warm_start(
    model: Bert4Rec, vocabulary: Vocabulary, old: TrainedModel, features: ItemFeatures | None = None
) -> WarmStart:
    """Gives a new model the weights of an old one (not in the paper).

    All weights that do not belong to an item are copied. So are the embeddings and biases of special ids and shared
    items: both models give shared items the same scores. A new item's embedding is its initial value plus the mean of
    the shared items' embeddings. Its bias is its initial value plus the mean change of the shared items' biases, from
    their initial values to the old model's. The optimizer starts without history.

    Args:
        model: newly built for `vocabulary`.
        vocabulary: the vocabulary of the new records.
        old: the model to start from, with its features not folded; `check_compatible` must have passed.
        features: the items' features, if the model uses any. Shared categories keep their embeddings too.

    Raises:
        InputError: no item is shared.
    """
    old_ids = np.array(old.vocabulary.ids_of(list(vocabulary.item_ids)))
    shared = np.concatenate([np.ones(NUM_SPECIAL_IDS, bool), old_ids >= NUM_SPECIAL_IDS])
    old_ids = np.concatenate([np.arange(NUM_SPECIAL_IDS), old_ids])[shared]
    items = int(shared.sum()) - NUM_SPECIAL_IDS
    if items == 0:
        raise InputError(
            "A warm start needs items that both vocabularies have. Received: a model with none of the records' items. "
            "Fix: start from another model, or without --warm_start_from"
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
    by_row = {id(weight) for weight in (model.embedding.item_table, model.head.output_bias)}
    if features is not None and old.item_features is not None:
        by_row |= {id(weight) for weight in _carry_categories(model, features, old.model, old.item_features)}
    for new_weight, old_weight in zip(model.trainable_weights, old.model.trainable_weights, strict=True):
        if id(new_weight) not in by_row:
            new_weight.assign(old_weight)
    return WarmStart(items, len(vocabulary.item_ids) - items, len(old.vocabulary.item_ids) - items)


def _carry_categories(
    model: Bert4Rec, features: ItemFeatures, old_model: Bert4Rec, old_features: ItemFeatures
) -> list[tf.Variable]:
    """Copies the embeddings of shared categories, and returns the tables, of which no row is left to copy."""
    layer, old_layer = model.embedding.item_features, old_model.embedding.item_features
    tables = [] if layer is None else layer.category_tables
    old_tables = [] if old_layer is None else old_layer.category_tables
    pairs = zip(features.categorical(), old_features.categorical(), strict=True)
    for table, old_table, (feature, old_feature) in zip(tables, old_tables, pairs, strict=True):
        rows, old_rows = category_rows(feature), category_rows(old_feature)
        shared = [category for category in rows if category in old_rows]
        values, old_values = table.numpy(), old_table.numpy()
        values[:OWN_CATEGORIES] = old_values[:OWN_CATEGORIES]
        values[[rows[category] for category in shared]] = old_values[[old_rows[category] for category in shared]]
        table.assign(values)
    return tables


def check_compatible(new: Config, old: Config) -> None:
    """Checks that a model can start from another one.

    Raises:
        InputError: a setting that shapes the weights, or the longest sequence, differs.
    """
    names = fields_with(ModelConfig, "shapes_weights")
    settings = [(f"model.{name}", getattr(new.model, name), getattr(old.model, name)) for name in names]
    settings.append(("data.max_seq_length", new.data.max_seq_length, old.data.max_seq_length))
    for name, received, old_value in settings:
        if received != old_value:
            raise InputError(
                f"`{name}` must equal that of the model to start from. Received: {received!r}, that model's value is "
                f"{old_value!r}. Fix: set {name}={old_value!r}, or start without --warm_start_from"
            )


def check_same_features(new: ItemFeatures | None, old: ItemFeatures | None) -> None:
    """Checks that the items' features have the names, kinds and sizes of those of the model to start from.

    Raises:
        InputError: they differ.
    """
    if new is not None and old is not None and new.description() != old.description():
        raise InputError(
            f"The records' item features must be those of the model to start from. Received: {new.description()}; "
            f"that model has {old.description()}. Fix: build the records with the same columns, or start without "
            "--warm_start_from"
        )
