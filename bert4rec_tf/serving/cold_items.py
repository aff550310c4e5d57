"""Adds items that came after the training: a model knows them by their features alone."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from bert4rec_tf.model.folding import fold_item_vectors
from bert4rec_tf.model.item_features import FeatureArrays
from bert4rec_tf.model_dir import TrainedModel
from tfrecords.errors import InputError
from tfrecords.item_features import ItemFeatures
from tfrecords.vocabulary import Vocabulary


class ItemTable(Protocol):
    """Items with their features, such as `pipelines.sources.item_features.FeatureTable`."""

    @property
    def path(self) -> str:
        """Of the file."""

    @property
    def item_ids(self) -> Sequence[str]:
        """Raw ids."""

    @property
    def titles(self) -> Mapping[str, str]:
        """By raw id."""

    def features_of(self, item_ids: Sequence[str], known: ItemFeatures | None = None) -> ItemFeatures:
        """The features of the given items, numbered as the known ones."""


def with_new_items(trained: TrainedModel, table: ItemTable) -> TrainedModel:
    """A model that also recommends the items of a table that its vocabulary does not have.

    Items of the vocabulary keep the features that they were trained with, and their scores. New items follow them in
    the order of the table, with a count of 0. An item of the table without a value of any trained feature is left out.

    Args:
        trained: loaded with `fold=False`.
        table: of items; it may hold others too.

    Returns:
        A model with the features folded into its item table, and its larger vocabulary.

    Raises:
        InputError: the model has no item features, or the table has other ones.
    """
    features, vocabulary = trained.item_features, trained.vocabulary
    if features is None:
        raise InputError(
            f"--item_features needs a model that was trained with item features. Received: {table.path}, and a model "
            "with model.item_features=none. Fix: train one with model.item_features=sum on records with --item_features"
        )
    known = set(vocabulary.item_ids)
    new_ids = [item_id for item_id in table.item_ids if item_id not in known]
    if not new_ids:
        return dataclasses.replace(trained, model=fold_item_vectors(trained.model))
    new = table.features_of(new_ids, features)
    new = new.rows(np.flatnonzero(new.has_value()))
    counts = np.concatenate([vocabulary.counts, np.zeros(len(new.item_ids), np.int64)])
    titles = (*vocabulary.titles, *(table.titles.get(item_id) for item_id in new.item_ids))
    extended = features.followed_by(new)
    return dataclasses.replace(
        trained,
        model=fold_item_vectors(trained.model, FeatureArrays.of(extended, counts, features)),
        vocabulary=Vocabulary(vocabulary.item_ids + new.item_ids, counts, titles),
        item_features=extended,
    )
