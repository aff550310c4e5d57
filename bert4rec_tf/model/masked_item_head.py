"""From hidden states to scores over all items (paper section 3.5, equation 7)."""

from typing import Any

import tensorflow as tf

from bert4rec_tf.config import ModelConfig
from bert4rec_tf.model.layers import Projection, derived_seed
from bert4rec_tf.model.losses import masked_item_loss, masked_item_loss_in_blocks
from tfrecords.vocabulary import NUM_SPECIAL_IDS

# The softmax is over items: [PAD], [MASK] and [UNK] have no share in it.
_SPECIAL_SCORE = -1e9


class MaskedItemHead(tf.keras.layers.Layer):
    """P(v) = softmax(GELU(h W^P + b^P) E^T + b^O), with E the item embedding (equation 7). Returns the logits.

    Departures from the authors' code: no layer norm follows the GELU, as in the equation, and the special ids are not
    in the softmax. Without `config.head_projection` it is softmax(h E^T + b^O), which is not in the paper.

    Args:
        vocabulary_size: V.
        config: sizes, whether to project, and the initial b^O.
        seed: of the starting weights.
        log_popularity: float32 [V], the initial b^O if `config.output_bias` is "log_popularity".
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
        self.output_bias = self.add_weight(
            "output_bias", [self.vocabulary_size], initializer=self._bias_start, experimental_autocast=False
        )
        super().build(input_shape)

    def call(self, hidden: tf.Tensor, item_vectors: tf.Tensor, bias: tf.Tensor | None = None) -> tf.Tensor:
        """Logits of all items.

        Args:
            hidden: float32 [B, P, D].
            item_vectors: float32 [V, D], those of the input.
            bias: float32 [V], if it is another one than this layer's.

        Returns:
            float32 [B, P, V].
        """
        logits = _products(self.project(hidden), item_vectors) + hide_special_ids(
            self.output_bias if bias is None else bias
        )
        return tf.reshape(logits, [tf.shape(hidden)[0], tf.shape(hidden)[1], self.vocabulary_size])

    def loss(
        self,
        hidden: tf.Tensor,
        item_vectors: tf.Tensor,
        bias: tf.Tensor,
        masked_item_ids: tf.Tensor,
        masked_weights: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """`masked_item_loss` of the logits of `call`.

        Args:
            hidden: float32 [B, P, D].
            item_vectors: as for `call`.
            bias: as for `call`.
            masked_item_ids: int32 [B, P].
            masked_weights: float32 [B, P].
        """
        if self.compute_dtype != "float32" or _has_accelerator():
            return masked_item_loss(self(hidden, item_vectors, bias), masked_item_ids, masked_weights)
        masked = tf.reshape(masked_item_ids, [-1]), tf.reshape(masked_weights, [-1])
        return masked_item_loss_in_blocks(self.project(hidden), item_vectors, hide_special_ids(bias), *masked)

    def sampled_logits(
        self, hidden: tf.Tensor, positives: tuple[tf.Tensor, tf.Tensor], negatives: tuple[tf.Tensor, tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Logits of the given items; their gradient touches only the rows of these items.

        Args:
            hidden: float32 [B, P, D].
            positives: vectors float32 [B x P, D] and biases float32 [B x P] of the item of each slot.
            negatives: vectors float32 [S, D] and biases float32 [S] of items that all slots share.

        Returns:
            The logits of the positive items, float32 [B x P], and of the negative items, float32 [B x P, S].
        """
        projected = self.project(hidden)
        (positive_vectors, positive_bias), (negative_vectors, negative_bias) = positives, negatives
        positive = tf.reduce_sum(tf.cast(projected, tf.float32) * positive_vectors, axis=1)
        negative = _products(projected, negative_vectors)
        return positive + positive_bias, negative + negative_bias

    def project(self, hidden: tf.Tensor) -> tf.Tensor:
        """GELU(h W^P + b^P), or h without a projection.

        The inner product with an item's embedding, plus the item's bias, is the item's logit.

        Args:
            hidden: float32 [B, P, D].

        Returns:
            float32 [B x P, D], for one large matrix product with the item table instead of B small ones.
        """
        projected = hidden if self.projection is None else self.projection(hidden)
        return tf.reshape(projected, [-1, projected.shape[-1]])


def hide_special_ids(bias: tf.Tensor) -> tf.Tensor:
    """The biases of all items, float32 [V], with a score for the special ids that no item is below."""
    return tf.where(tf.range(tf.size(bias)) < NUM_SPECIAL_IDS, _SPECIAL_SCORE, bias)


def _has_accelerator() -> bool:
    return any(device.device_type != "CPU" for device in tf.config.list_logical_devices())


def _products(projected: tf.Tensor, item_vectors: tf.Tensor) -> tf.Tensor:
    """Inner products in the precision of `projected`, float32 [slots, items]."""
    return tf.cast(tf.matmul(projected, tf.cast(item_vectors, projected.dtype), transpose_b=True), tf.float32)
