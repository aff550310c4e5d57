"""From hidden states to scores over all items (paper section 3.5, equation 7)."""

from typing import Any

import tensorflow as tf

from bert4rec_tf.config import ModelConfig
from bert4rec_tf.model.layers import Projection, derived_seed
from tfrecords.vocabulary import NUM_SPECIAL_IDS

# The softmax is over items: [PAD], [MASK] and [UNK] never take part.
_SPECIAL_SCORE = -1e9


class MaskedItemHead(tf.keras.layers.Layer):
    """P(v) = softmax(GELU(h W^P + b^P) E^T + b^O), with E the item embedding (equation 7); this gives the logits.

    Departures from the authors' code: no layer norm follows the GELU, as in the equation, and the special ids take no
    part in the softmax. Without `config.head_projection` it is softmax(h E^T + b^O), no part of the paper.

    Args:
        vocabulary_size: V.
        config: sizes, whether to project, and where b^O starts.
        seed: of the starting weights.
        log_popularity: float32 [V], the start of b^O where `config.output_bias` is "log_popularity".
    """

    def __init__(
        self,
        vocabulary_size: int,
        config: ModelConfig,
        seed: int,
        log_popularity: tf.Tensor | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.projection = None
        if config.head_projection:
            seed = derived_seed(seed, self.name)
            self.projection = Projection(config.hidden_size, config, seed, name="projection", activation=tf.nn.gelu)
        from_popularity = config.output_bias == "log_popularity" and log_popularity is not None
        self._bias_start = tf.keras.initializers.Constant(log_popularity) if from_popularity else "zeros"

    def build(self, input_shape: tf.TensorShape) -> None:
        self.output_bias = self.add_weight("output_bias", [self.vocabulary_size], initializer=self._bias_start)
        super().build(input_shape)

    def call(self, hidden: tf.Tensor, item_table: tf.Tensor) -> tf.Tensor:
        """`hidden`: float32 [B, P, D]; `item_table`: float32 [V, D], the input embedding. Returns logits [B, P, V]."""
        special = tf.range(self.vocabulary_size) < NUM_SPECIAL_IDS
        bias = tf.where(special, _SPECIAL_SCORE, self.output_bias)
        logits = tf.matmul(self.project(hidden), item_table, transpose_b=True) + bias
        return tf.reshape(logits, [tf.shape(hidden)[0], tf.shape(hidden)[1], self.vocabulary_size])

    def sampled_logits(
        self, hidden: tf.Tensor, item_table: tf.Tensor, own_item_ids: tf.Tensor, item_ids: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Logits of some items alone; their gradient touches the rows of these items alone.

        Args:
            hidden: float32 [B, P, D].
            item_table: float32 [V, D], the input embedding.
            own_item_ids: int32 [B, P], an item for each slot.
            item_ids: int32 [S], items for all slots.

        Returns:
            float32 [B x P] and [B x P, S].
        """
        projected, own_item_ids = self.project(hidden), tf.reshape(own_item_ids, [-1])
        own = tf.reduce_sum(projected * tf.gather(item_table, own_item_ids), axis=1)
        others = tf.matmul(projected, tf.gather(item_table, item_ids), transpose_b=True)
        return own + tf.gather(self.output_bias, own_item_ids), others + tf.gather(self.output_bias, item_ids)

    def project(self, hidden: tf.Tensor) -> tf.Tensor:
        """GELU(h W^P + b^P), or h: its inner product with an item's embedding, plus the item's bias, is the logit.

        Args:
            hidden: float32 [B, P, D].

        Returns:
            float32 [B x P, D]: one large product with the table then does instead of B small ones.
        """
        projected = hidden if self.projection is None else self.projection(hidden)
        return tf.reshape(projected, [-1, projected.shape[-1]])
