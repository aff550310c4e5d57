"""Input embeddings: of the item and of its position (paper section 3.4)."""

from typing import Any

import tensorflow as tf

from bert4rec_tf.config import ModelConfig
from bert4rec_tf.model.dropout import EMBEDDING_SALT, SeededDropout
from bert4rec_tf.model.event_times import GAP_BUCKETS, SlotTimes, gap_buckets
from bert4rec_tf.model.item_features import FeatureShapes, ItemFeatureEmbedding
from bert4rec_tf.model.layers import derived_seed, layer_norm, paper_initializer


class ItemAndPositionEmbedding(tf.keras.layers.Layer):
    """h_i = v_i + p_i: a learned item embedding and a learned position embedding (paper section 3.4).

    Departures from the paper's text: dropout follows the sum, as in the authors' code. With
    `config.embedding_layer_norm` a layer norm comes between the two. Positions may count from the newest item, and
    `config.neighbours` mixes in the items beside a slot. `config.request_time` adds an embedding of the time
    until the item that a slot predicts. With `config.item_features` v_i also holds the item's
    features, and with `config.item_vectors` "unit" it has the length 1.

    Args:
        vocabulary_size: V.
        max_seq_length: N; positions count from 0 to N - 1, starting at the item that `config.positions` names.
        config: sizes, dropout and initialisation.
        seed: of the starting weights.
        feature_shapes: of the items' features; None: they have none.
        draw_items: whether the item vectors start at random; False: at 0.
    """

    def __init__(
        self,
        vocabulary_size: int,
        max_seq_length: int,
        config: ModelConfig,
        seed: int,
        feature_shapes: FeatureShapes | None = None,
        draw_items: bool = True,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.max_seq_length = max_seq_length
        self.config = config
        self._seed, self._draw_items = derived_seed(seed, self.name), draw_items
        self.item_features = None
        if feature_shapes is not None:
            self.item_features = ItemFeatureEmbedding(
                vocabulary_size, feature_shapes, config, self._seed, name="item_features", dtype=tf.float32
            )
        self.norm = layer_norm(config, "layer_norm") if config.embedding_layer_norm else None
        self.dropout = SeededDropout(config.dropout, EMBEDDING_SALT, name="dropout")

    def build(self, input_shape: tf.TensorShape) -> None:
        size = self.config.hidden_size
        shape = [self.vocabulary_size, size]
        if self._draw_items:
            self.item_table = self._add_table("item_table", shape)
        else:
            self.item_table = self.add_weight("item_table", shape, initializer="zeros")
        if self.config.positions != "none":
            self.position_table = self._add_table("position_table", [self.max_seq_length, size])
        if self.config.neighbours:
            start = tf.keras.initializers.Constant(self.config.neighbours)
            self.weight_before = self.add_weight("neighbour_before", [size], initializer=start)
            if not self.config.predicts_next_items:
                self.weight_after = self.add_weight("neighbour_after", [size], initializer=start)
        if self.config.request_time:
            self.request_gap_table = self.add_weight("request_gap_table", [GAP_BUCKETS + 1, size], initializer="zeros")
        super().build(input_shape)

    def call(
        self,
        item_ids: tf.Tensor,
        valid_mask: tf.Tensor,
        dropout_seed: tf.Tensor | None = None,
        item_vectors: tf.Tensor | None = None,
        times: SlotTimes | None = None,
    ) -> tf.Tensor:
        """Embeds windows.

        Args:
            item_ids: int32 [B, L], L <= N.
            valid_mask: bool [B, L], True = a real item or [MASK]; these come first.
            dropout_seed: see `SeededDropout`.
            item_vectors: float32 [V, D], all of them, if they were computed already.
            times: of the windows' slots; only with `config.request_time`.

        Returns:
            float32 [B, L, D].
        """
        if item_vectors is None:
            embedded = self.vectors_of(item_ids, dropout_seed)
        else:
            embedded = tf.gather(item_vectors, item_ids)
        embedded = tf.cast(embedded, self.compute_dtype)
        if self.config.neighbours:
            embedded = self._with_neighbours(embedded, valid_mask)
        slot_index = tf.range(tf.shape(item_ids)[1])
        if self.config.positions == "from_oldest":
            embedded += tf.gather(self.position_table, slot_index)
        elif self.config.positions == "from_newest":
            newest = tf.reduce_sum(tf.cast(valid_mask, tf.int32), axis=1, keepdims=True) - 1
            embedded += tf.gather(self.position_table, tf.maximum(newest - slot_index, 0))
        if self.config.request_time and times is not None:
            embedded += tf.gather(self.request_gap_table, gap_buckets(times.request_gaps))
        return self.dropout(embedded if self.norm is None else self.norm(embedded), dropout_seed)

    def vectors_of(self, item_ids: tf.Tensor, dropout_seed: tf.Tensor | None = None) -> tf.Tensor:
        """v_i of the given items, float32 [..., D]; `item_ids`: int32 [...]."""
        # Once a gather took rows from the variable itself, TensorFlow copies the whole table at each read. Training
        # needs this, since its sparse updates would copy the table instead.
        table = self.item_table if dropout_seed is not None else tf.convert_to_tensor(self.item_table)
        vectors = tf.gather(table, item_ids)
        if self.item_features is not None:
            vectors = self.item_features(vectors, item_ids, dropout_seed)
        return self._scaled(vectors)

    def all_vectors(self, dropout_seed: tf.Tensor | None = None) -> tf.Tensor:
        """v_i of all items, float32 [V, D], at the input and at the output."""
        vectors = self.item_table
        if self.item_features is not None:
            vectors = self.item_features(vectors, tf.range(self.vocabulary_size), dropout_seed)
        return self._scaled(vectors)

    def _scaled(self, vectors: tf.Tensor) -> tf.Tensor:
        return tf.math.l2_normalize(vectors, axis=-1) if self.config.item_vectors == "unit" else vectors

    def _with_neighbours(self, embedded: tf.Tensor, valid_mask: tf.Tensor) -> tf.Tensor:
        """Adds what `config.neighbours` describes. Padding shows nothing to its neighbours."""
        items = tf.where(valid_mask[:, :, None], embedded, 0.0)
        mixed = embedded + self.weight_before * tf.pad(items, [[0, 0], [1, 0], [0, 0]])[:, :-1]
        if not self.config.predicts_next_items:
            mixed += self.weight_after * tf.pad(items, [[0, 0], [0, 1], [0, 0]])[:, 1:]
        return mixed

    def _add_table(self, name: str, shape: list[int]) -> tf.Variable:
        return self.add_weight(name, shape, initializer=paper_initializer(self.config, derived_seed(self._seed, name)))
