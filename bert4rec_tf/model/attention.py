"""Multi-head self-attention (paper section 3.3, equations 1 and 2), to both sides or to the left."""

from typing import Any

import tensorflow as tf

from bert4rec_tf.config import ModelConfig
from bert4rec_tf.model.dropout import SeededDropout
from bert4rec_tf.model.layers import Projection, derived_seed

# Added to the scores of what a slot must not see: padding, and with causal attention what comes later. Its weight after
# the softmax is 0 to the last bit, and a row of padding stays finite.
_HIDDEN_SCORE = -1e9


class MultiHeadAttention(tf.keras.layers.Layer):
    """MH(H) = [head_1; ...; head_h] W^O over scaled dot products, from items of the window to every item of it.

    Departures from the paper's equations: projections have biases and the attention probabilities have dropout, both
    as in the authors' code. With `config.attention` "causal" a slot sees itself and the slots before it alone, as in
    SASRec (Kang & McAuley, ICDM 2018). With `config.relative_distances` a score also has a term, learned for each head,
    for how far the slot seen lies before or after the one that asks (as in T5: Raffel et al., JMLR 2020).

    Args:
        config: sizes, dropout, initialisation, and what a slot sees.
        salt: of the dropout.
        seed: of the starting weights.
    """

    def __init__(self, config: ModelConfig, salt: int, seed: int, **kwargs: Any):
        super().__init__(**kwargs)
        seed = derived_seed(seed, self.name)
        self.config = config
        size = config.hidden_size
        self.query = Projection(size, config, seed, name="query")
        # W^K and W^V side by side: one product instead of two.
        self.key_value = Projection(2 * size, config, seed, name="key_value")
        self.output_projection = Projection(size, config, seed, name="output_projection")
        self.dropout = SeededDropout(config.attention_dropout, salt, name="dropout")

    def build(self, input_shape: tf.TensorShape) -> None:
        if self.config.relative_distances:
            distances = 2 * self.config.relative_distances + 1
            self.distance_bias = self.add_weight(
                "distance_bias", [distances, self.config.num_heads], initializer="zeros"
            )
        super().build(input_shape)

    def call(
        self,
        asking: tf.Tensor,
        hidden: tf.Tensor,
        valid_mask: tf.Tensor,
        positions: tf.Tensor | None = None,
        dropout_seed: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Attends from the slots `asking` to the whole window, or to the part of it that they see.

        Args:
            asking: float32 [B, P, D], rows of `hidden`, or all of it.
            hidden: float32 [B, L, D].
            valid_mask: bool [B, L], True = a real item.
            positions: int32 [B, P], the slots that `asking` holds; None: all.
            dropout_seed: see `SeededDropout`.

        Returns:
            float32 [B, P, D].
        """
        heads, head_size = self.config.num_heads, self.config.hidden_size // self.config.num_heads

        def split(projected: tf.Tensor, parts: int) -> list[tf.Tensor]:
            shape = [tf.shape(projected)[0], tf.shape(projected)[1], parts, heads, head_size]
            return tf.unstack(tf.transpose(tf.reshape(projected, shape), [2, 0, 3, 1, 4]), num=parts)

        (query,) = split(self.query(asking), 1)  # [B, h, P, D / h]
        key, value = split(self.key_value(hidden), 2)  # each [B, h, L, D / h]
        scores = tf.matmul(query * head_size**-0.5, key, transpose_b=True)  # [B, h, P, L]
        hiding = tf.where(valid_mask, 0.0, _HIDDEN_SCORE)[:, None, None, :]
        places = tf.range(tf.shape(hidden)[1])
        asking_places = places[None, :] if positions is None else positions
        distances = places - asking_places[:, :, None]  # [B, P, L]; above 0: the slot seen comes later
        if self.config.attention == "causal":
            hiding += tf.where(distances <= 0, 0.0, _HIDDEN_SCORE)[:, None]
        scores += hiding
        if furthest := self.config.relative_distances:
            terms = tf.gather(self.distance_bias, tf.clip_by_value(distances, -furthest, furthest) + furthest)
            scores += tf.transpose(terms, [0, 3, 1, 2])
        weights = self.dropout(tf.nn.softmax(scores), dropout_seed)
        attended = tf.transpose(tf.matmul(weights, value), [0, 2, 1, 3])
        return self.output_projection(tf.reshape(attended, tf.shape(asking)))
