"""Item features in the model: what an item's category, numbers and vectors add to its embedding (not in the paper)."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from bert4rec_tf.config import ModelConfig
from bert4rec_tf.model.dropout import ITEM_ID_SALT, kept_elements
from bert4rec_tf.model.layers import derived_seed, paper_initializer
from tfrecords.item_features import CategoricalFeature, ItemFeatures, NumericFeature, VectorFeature
from tfrecords.vocabulary import NUM_SPECIAL_IDS

_NO_CATEGORY, _RARE_CATEGORY = 0, 1
OWN_CATEGORIES = 2  # the first row of a category's own embedding
_MIN_CATEGORY_ITEMS = 2  # a category of a single item teaches nothing about other items
_MAX_CATEGORIES = 32  # of one item; the most common ones count
_EXCLUDED_BIAS = -1e9


@dataclasses.dataclass(frozen=True)
class FeatureShapes:
    """The sizes of the arrays of `FeatureArrays`, as JSON values.

    Attributes:
        categories: [rows of the table, most categories of an item] of each categorical feature.
        numbers: how many numeric features there are.
        vectors: the size of each vector feature.
    """

    categories: Sequence[Sequence[int]]
    numbers: int
    vectors: Sequence[int]


@dataclasses.dataclass(frozen=True)
class FeatureArrays:
    """Item features as arrays over all ids; the special ids have none.

    Attributes:
        categories: for each categorical feature int32 [V, any], rows of its table; 0: none, 1: a category of one item.
        category_rows: the number of rows of each of these tables.
        numbers: float32 [V, numeric features], standardised, 0 if missing.
        numbers_present: float32 of the same shape, 1 if present.
        vectors: for each vector feature float32 [V, size], 0 if missing.
        cold: bool [V], items without a training event; their own embeddings are untrained.
    """

    categories: tuple[np.ndarray, ...]
    category_rows: tuple[int, ...]
    numbers: np.ndarray
    numbers_present: np.ndarray
    vectors: tuple[np.ndarray, ...]
    cold: np.ndarray

    @classmethod
    def of(cls, features: ItemFeatures, counts: np.ndarray, trained: ItemFeatures | None = None) -> "FeatureArrays":
        """The arrays of a vocabulary's features.

        Args:
            features: of the items.
            counts: int64 [items], the training events of each item.
            trained: the features that the model was trained with, if they are others; they tell which categories have
                a row of their own.
        """
        trained = trained or features
        categories, rows, numbers, vectors = [], [], [], []
        for feature, known in zip(features.features, trained.features, strict=True):
            if isinstance(feature, CategoricalFeature) and isinstance(known, CategoricalFeature):
                own = len(category_rows(known))
                categories.append(_rows_of_items(feature, own))
                rows.append(own + OWN_CATEGORIES)
            elif isinstance(feature, NumericFeature):
                numbers.append((feature.standardised(), feature.present()))
            elif isinstance(feature, VectorFeature):
                vectors.append(_with_special_ids(feature.normalised()))
        empty = np.zeros([len(features.item_ids), 0], np.float32)
        values = np.stack([number for number, _ in numbers], axis=1) if numbers else empty
        present = np.stack([present for _, present in numbers], axis=1).astype(np.float32) if numbers else empty
        return cls(
            categories=tuple(categories),
            category_rows=tuple(rows),
            numbers=_with_special_ids(values),
            numbers_present=_with_special_ids(present),
            vectors=tuple(vectors),
            cold=_with_special_ids(counts == 0),
        )

    def shapes(self) -> FeatureShapes:
        """The sizes, without the values."""
        widths = [array.shape[1] for array in self.categories]
        return FeatureShapes(
            categories=tuple(map(list, zip(self.category_rows, widths, strict=True))),
            numbers=self.numbers.shape[1],
            vectors=tuple(array.shape[1] for array in self.vectors),
        )


class ItemFeatureEmbedding(tf.keras.layers.Layer):
    """Combines an item's own embedding with a learned embedding of its features.

    The features' embedding f is the sum of: for each categorical feature the mean of its categories' embeddings, for
    each number a learned vector times the standardised number (another vector if it is missing), and for each vector
    feature its linear projection. With `config.item_features` "sum" an item's vector is v + f, with "gated" it is
    v + sigmoid([v; f] W + b) * f.

    Each training step draws a share of the items, `config.item_id_dropout`, and treats them as unknown: they share one
    learned vector v. Cold items, those without a training event, have it always, and no share in the training loss.
    Their output bias is the mean of the trained items' plus `config.cold_item_boost`. Special ids have no features.

    Args:
        vocabulary_size: V.
        shapes: of the features.
        config: sizes, initialisation, how features are combined, and the dropout of ids.
        seed: of the starting weights.
    """

    def __init__(self, vocabulary_size: int, shapes: FeatureShapes, config: ModelConfig, seed: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.vocabulary_size, self.shapes, self.config = vocabulary_size, shapes, config
        self._seed = derived_seed(seed, self.name)

    def build(self, input_shape: tf.TensorShape) -> None:
        size, rows = self.config.hidden_size, self.vocabulary_size
        self.categories = [
            self._add_values(f"categories_{index}", [rows, width], tf.int32)
            for index, (_, width) in enumerate(self.shapes.categories)
        ]
        self.numbers = self._add_values("numbers", [rows, self.shapes.numbers], tf.float32)
        self.numbers_present = self._add_values("numbers_present", [rows, self.shapes.numbers], tf.float32)
        self.vectors = [
            self._add_values(f"vectors_{index}", [rows, length], tf.float32)
            for index, length in enumerate(self.shapes.vectors)
        ]
        self.cold = self._add_values("cold", [rows], tf.bool)

        self.category_tables = [
            self._add_trained(f"category_table_{index}", [table_rows, size])
            for index, (table_rows, _) in enumerate(self.shapes.categories)
        ]
        if self.shapes.numbers:
            self.number_table = self._add_trained("number_table", [self.shapes.numbers, size])
            self.missing_number_table = self._add_trained("missing_number_table", [self.shapes.numbers, size])
        self.vector_projections = [
            # The features' embedding starts as large as an item's own: a vector has the length √size.
            self._add_trained(f"vector_projection_{index}", [length, size], length**-0.5)
            for index, length in enumerate(self.shapes.vectors)
        ]
        self.unknown_item = self._add_trained("unknown_item", [size])
        if self.config.item_features == "gated":
            glorot = tf.keras.initializers.GlorotUniform(derived_seed(self._seed, "gate"))
            self.gate = self.add_weight("gate", [2 * size, size], initializer=glorot)
            self.gate_bias = self.add_weight("gate_bias", [size], initializer="zeros")
        super().build(input_shape)

    def assign(self, arrays: FeatureArrays) -> None:
        """Sets the features of all items."""
        for weight, values in zip(self.categories, arrays.categories, strict=True):
            weight.assign(values)
        for weight, values in zip(self.vectors, arrays.vectors, strict=True):
            weight.assign(values)
        self.numbers.assign(arrays.numbers)
        self.numbers_present.assign(arrays.numbers_present)
        self.cold.assign(arrays.cold)

    def call(self, own: tf.Tensor, item_ids: tf.Tensor, dropout_seed: tf.Tensor | None = None) -> tf.Tensor:
        """The vectors of items.

        Args:
            own: float32 [..., D], the items' own embeddings.
            item_ids: int32 [...].
            dropout_seed: see `SeededDropout`; an item is dropped or kept at all of its places in a step.

        Returns:
            float32 [..., D].
        """
        own = tf.where(self._is_known(item_ids, dropout_seed)[..., None], own, self.unknown_item)
        added = self.embed_features(item_ids)
        if self.config.item_features == "gated":
            size = self.config.hidden_size
            mixed = tf.reshape(tf.concat([own, added], axis=-1), [-1, 2 * size])
            gate = tf.sigmoid(tf.matmul(mixed, self.gate) + self.gate_bias)
            added *= tf.reshape(gate, tf.shape(added))
        return own + added

    def embed_features(self, item_ids: tf.Tensor) -> tf.Tensor:
        """The sum f of the class's description, float32 [..., D]; 0 for special ids."""
        added = tf.zeros(tf.concat([tf.shape(item_ids), [self.config.hidden_size]], axis=0))
        for rows, table in zip(self.categories, self.category_tables, strict=True):
            index = tf.gather(rows, item_ids)
            weights = tf.cast(index != _NO_CATEGORY, tf.float32)
            weights /= tf.maximum(tf.reduce_sum(weights, axis=-1, keepdims=True), 1.0)
            added += tf.reduce_sum(tf.gather(table, index) * weights[..., None], axis=-2)
        if self.shapes.numbers:
            present = tf.gather(self.numbers_present, item_ids)
            added += _product(tf.gather(self.numbers, item_ids), self.number_table)
            added += _product(1.0 - present, self.missing_number_table)
        for values, projection in zip(self.vectors, self.vector_projections, strict=True):
            added += _product(tf.gather(values, item_ids), projection)
        return tf.where((item_ids >= NUM_SPECIAL_IDS)[..., None], added, 0.0)

    def biases_of(self, output_bias: tf.Tensor, item_ids: tf.Tensor, dropout_seed: tf.Tensor | None) -> tf.Tensor:
        """The output biases of items, float32 [...], of `output_bias`, [V]; in training cold items are left out."""
        of_cold_items = _EXCLUDED_BIAS if dropout_seed is not None else self._bias_of_cold_items(output_bias)
        return tf.where(tf.gather(self.cold, item_ids), of_cold_items, tf.gather(output_bias, item_ids))

    def _bias_of_cold_items(self, output_bias: tf.Tensor) -> tf.Tensor:
        """The mean over the trained items plus the boost, a scalar."""
        trained = tf.boolean_mask(output_bias[NUM_SPECIAL_IDS:], ~self.cold[NUM_SPECIAL_IDS:])
        return tf.reduce_mean(trained) + self.config.cold_item_boost

    def _is_known(self, item_ids: tf.Tensor, dropout_seed: tf.Tensor | None) -> tf.Tensor:
        known = ~tf.gather(self.cold, item_ids)
        if dropout_seed is None or not self.config.item_id_dropout:
            return known
        kept = kept_elements(item_ids, self.config.item_id_dropout, ITEM_ID_SALT, dropout_seed)
        return known & (kept | (item_ids < NUM_SPECIAL_IDS))

    def _add_values(self, name: str, shape: list[int], dtype: tf.DType) -> tf.Variable:
        return self.add_weight(name, shape, dtype=dtype, initializer="zeros", trainable=False)

    def _add_trained(self, name: str, shape: list[int], scale: float = 1.0) -> tf.Variable:
        config = dataclasses.replace(self.config, initializer_range=self.config.initializer_range * scale)
        return self.add_weight(name, shape, initializer=paper_initializer(config, derived_seed(self._seed, name)))


def _product(values: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    """float32 [..., n] times [n, D]: float32 [..., D]."""
    flat = tf.matmul(tf.reshape(values, [-1, matrix.shape[0]]), matrix)
    return tf.reshape(flat, tf.concat([tf.shape(values)[:-1], [matrix.shape[1]]], axis=0))


def category_rows(feature: CategoricalFeature) -> dict[str, int]:
    """The row of each category that has an embedding of its own: of those that several items have."""
    own = int((feature.item_counts() >= _MIN_CATEGORY_ITEMS).sum())  # the first ones, by falling number
    return {category: OWN_CATEGORIES + index for index, category in enumerate(feature.categories[:own])}


def _rows_of_items(feature: CategoricalFeature, own: int) -> np.ndarray:
    """The rows of a feature's table for each id, int32 [V, most categories of an item]."""
    lengths = np.minimum(feature.values.lengths, _MAX_CATEGORIES)
    width = int(lengths.max(initial=1))
    columns = np.arange(width)
    places = np.minimum(feature.values.offsets[:-1, None] + columns, max(len(feature.values.values) - 1, 0))
    values = feature.values.values[places] if len(feature.values.values) else np.zeros([len(lengths), width], np.int64)
    rows = np.where(values < own, values + OWN_CATEGORIES, _RARE_CATEGORY)
    return _with_special_ids(np.where(columns < lengths[:, None], rows, _NO_CATEGORY).astype(np.int32))


def _with_special_ids(rows: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros([NUM_SPECIAL_IDS, *rows.shape[1:]], rows.dtype), rows])
