"""Filters by category: only items of a brand, no items of a genre."""

import numpy as np
import tensorflow as tf

from bert4rec_tf.serving.id_table import NumbersInVariable
from bert4rec_tf.serving.item_scores import MISSING_SCORE
from tfrecords.item_features import ItemFeatures
from tfrecords.ragged import Ragged
from tfrecords.vocabulary import NUM_SPECIAL_IDS, PAD_ID

_PADDING, _UNKNOWN = 0, -1


class CategoryFilters(tf.Module):
    """Which items have given categories of the categorical features.

    A request writes a category as "feature=category", such as "genres=Drama". For each category the module keeps the
    list of its items, so a filter costs as much as the items that it names.

    Args:
        features: of all items.
    """

    def __init__(self, features: ItemFeatures):
        super().__init__(name="category_filters")
        categorical = features.categorical()
        self._size = len(features.item_ids) + NUM_SPECIAL_IDS
        self._features = len(categorical)
        values = [f"{feature.name}={category}" for feature in categorical for category in feature.categories]
        items = [_items_of_categories(feature.values, len(feature.categories)) for feature in categorical]
        lengths = np.concatenate([np.zeros(2, np.int64), *(each.lengths for each in items)])  # number 0: padding
        self._values = tf.Variable(tf.constant(["", *values]), trainable=False, name="values")
        self._numbers = tf.lookup.StaticHashTable(NumbersInVariable(self._values, 1), _UNKNOWN)
        self._names = tf.Variable(tf.constant([f.name for f in categorical], tf.string), trainable=False, name="names")
        self._features_by_name = tf.lookup.StaticHashTable(NumbersInVariable(self._names, 0), _UNKNOWN)
        self._starts = tf.Variable(np.cumsum(lengths).astype(np.int32), trainable=False, name="starts")
        ids = np.concatenate([np.zeros(0, np.int64), *(each.values for each in items)]) + NUM_SPECIAL_IDS
        self._items = tf.Variable(ids.astype(np.int32), trainable=False, name="items")

    @property
    def floats_per_row(self) -> int:
        """The approximate memory of a row's masks, in float32."""
        return (self._features + 3) * self._size

    def hidden(self, allowed: tf.Tensor, excluded: tf.Tensor) -> tf.Tensor:
        """The items that the filters leave out.

        Args:
            allowed: string [B, F], "" is padding: of each feature that a row names, an item must have one of the named
                categories.
            excluded: string [B, E]: an item must have none of them.

        Returns:
            bool [B, V]. A category that no item has matches nothing.

        Raises:
            tf.errors.InvalidArgumentError: a value that does not begin with the name of a categorical feature and "=".
        """
        owners = self._owners_of(allowed)
        with tf.control_dependencies([self._owners_of(excluded)]):  # checks the values
            hidden = self._have(tf.identity(excluded))
        for feature in range(self._features):
            of_feature = owners == feature
            named = tf.reduce_any(of_feature, axis=1)
            hidden |= named[:, None] & ~self._have(tf.where(of_feature, allowed, ""))
        return hidden

    def _have(self, values: tf.Tensor) -> tf.Tensor:
        """Which items have one of the categories of a row: string [B, F] -> bool [B, V]."""
        numbers = tf.reshape(tf.maximum(self._numbers.lookup(values), _PADDING), [-1])
        rows = tf.repeat(tf.range(tf.shape(values)[0]), tf.shape(values)[1])
        starts, ends = tf.gather(self._starts, numbers), tf.gather(self._starts, numbers + 1)
        places = tf.ragged.range(starts, ends)
        items = tf.gather(self._items, places.values)
        indices = tf.stack([tf.gather(rows, tf.cast(places.value_rowids(), tf.int32)), items], axis=1)
        counts = tf.scatter_nd(indices, tf.ones_like(items), tf.stack([tf.shape(values)[0], self._size]))
        return counts > 0

    def _owners_of(self, values: tf.Tensor) -> tf.Tensor:
        """The feature that each value names, int32 of the same shape; -1 for padding."""
        names = tf.strings.regex_replace(values, "(?s)=.*$", "", replace_global=False)
        owners = self._features_by_name.lookup(names)
        valid = (values == "") | ((owners != _UNKNOWN) & (names != values))
        rule = "A filter must be written feature=category, with one of these features:"
        faulty = tf.boolean_mask(values, ~valid)
        check = tf.debugging.Assert(tf.reduce_all(valid), [rule, self._names, ". Received:", faulty])
        with tf.control_dependencies([check]):
            return tf.where(values == "", -1, tf.identity(owners))


def top_unhidden(
    scores: tf.Tensor, hidden: tf.Tensor, dropped: tf.Tensor, allowed: tf.Tensor | None, k: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The best items that no filter and no list leaves out.

    Args:
        scores: float32 [B, V].
        hidden: bool [B, V].
        dropped: int32 [B, S], ids to leave out; special ids are always left out.
        allowed: int32 [B, A], the only ids that a row may have; a row of PAD_ID may have all. None: all rows may.
        k: int32.

    Returns:
        As `ExactIndex.top`.
    """
    hidden |= _mask(dropped, scores) | (tf.range(tf.shape(scores)[1]) < NUM_SPECIAL_IDS)[None, :]
    if allowed is not None:
        restricted = tf.reduce_any(allowed != PAD_ID, axis=1, keepdims=True)
        hidden |= restricted & ~_mask(allowed, scores)
    best, ids = tf.math.top_k(tf.where(hidden, MISSING_SCORE, scores), k)
    return best, ids


def _mask(ids: tf.Tensor, scores: tf.Tensor) -> tf.Tensor:
    """Which items are among the ids of a row: int32 [B, S] -> bool of the shape of `scores`."""
    rows = tf.repeat(tf.range(tf.shape(ids)[0]), tf.shape(ids)[1])
    indices = tf.stack([rows, tf.reshape(ids, [-1])], axis=1)
    return tf.scatter_nd(indices, tf.ones([tf.size(ids)], tf.int32), tf.shape(scores)) > 0


def _items_of_categories(categories: Ragged, number: int) -> Ragged:
    """The items of each category, rising, given the categories of each item."""
    items = np.repeat(np.arange(len(categories)), categories.lengths)
    order = np.argsort(categories.values, kind="stable")
    return Ragged.from_lengths(items[order], np.bincount(categories.values, minlength=number))
