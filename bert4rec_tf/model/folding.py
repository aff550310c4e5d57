"""Turns a model whose item vectors are computed into an equal one that keeps them in its item table."""

import dataclasses

import numpy as np

from bert4rec_tf.model.bert4rec import Bert4Rec
from bert4rec_tf.model.item_features import FeatureArrays


def fold_item_vectors(model: Bert4Rec, new_items: FeatureArrays | None = None) -> Bert4Rec:
    """A model with item_features=none and item_vectors=free that scores every history as `model` does.

    Its item table holds the vectors that `model` computes, so it is as fast as a model that never had features.

    Args:
        model: any; if its item table holds its vectors already, it is returned as it is.
        new_items: features of the same kinds for all of the model's items and further ones after them. The further
            items are cold: they are known by their features alone.
    """
    config = dataclasses.replace(model.config, item_features="none", item_vectors="free")
    if config == model.config:
        return model
    if new_items is not None:
        model = _extended(model, new_items)
    plain = Bert4Rec(config, model.vocabulary_size, model.max_seq_length, draw_items=False)
    _copy_weights_without_features(model, plain)
    plain.embedding.item_table.assign(model.embedding.all_vectors())
    plain.head.output_bias.assign(model.all_biases())
    return plain


def _extended(model: Bert4Rec, new_items: FeatureArrays) -> Bert4Rec:
    """The same model over more items; own embeddings of the further ones are not used, since they are cold."""
    extended = Bert4Rec(
        model.config, len(new_items.cold), model.max_seq_length, item_features=new_items, draw_items=False
    )
    one_row_an_item = {id(model.embedding.item_table), id(model.head.output_bias)}
    for old, new in zip(model.trainable_weights, extended.trainable_weights, strict=True):
        values = old.numpy()
        if id(old) in one_row_an_item:
            values = np.concatenate([values, np.zeros([new.shape[0] - old.shape[0], *values.shape[1:]], values.dtype)])
        new.assign(values)
    return extended


def _copy_weights_without_features(model: Bert4Rec, plain: Bert4Rec) -> None:
    features = model.embedding.item_features
    of_features = set() if features is None else {id(weight) for weight in features.weights}
    kept = [weight for weight in model.weights if id(weight) not in of_features]
    for new, old in zip(plain.weights, kept, strict=True):
        new.assign(old)
