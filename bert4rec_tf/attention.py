"""Multi-head self-attention (paper section 3.3, equations 1 and 2)."""

from typing import Any

import tensorflow as tf

from bert4rec_tf.config import ModelConfig
from bert4rec_tf.dropout import SeededDropout
from bert4rec_tf.embeddings import paper_initializer

# Added to the scores of padding: its weight after the softmax is 0 to the last bit, and a row of padding stays finite.
_PADDING_SCORE = -1e9


class MultiHeadSelfAttention(tf.keras.layers.Layer):
    """MH(H) = [head_1; ...; head_h] W^O over scaled dot products, from every item to every item of the window.

    Departures from the paper's equations: projections have biases and the attention probabilities have dropout, both
    as in the authors' code.

    Args:
        config: sizes, dropout and initialisation.
        salt: of the dropout.
    """

    def __init__(self, config: ModelConfig, salt: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.config = config
        size = config.hidden_size
        # W^Q, W^K and W^V side by side: one product instead of three.
        self.query_key_value = tf.keras.layers.Dense(
            3 * size, kernel_initializer=paper_initializer(config), name="query_key_value"
        )
        self.output_projection = tf.keras.layers.Dense(
            size, kernel_initializer=paper_initializer(config), name="output_projection"
        )
        self.dropout = SeededDropout(config.attention_dropout, salt, name="dropout")

    def call(self, hidden: tf.Tensor, valid_mask: tf.Tensor, dropout_seed: tf.Tensor | None = None) -> tf.Tensor:
        """`hidden`: float32 [B, L, D]; `valid_mask`: bool [B, L], True = a real item. Returns float32 [B, L, D]."""
        batch, length = tf.shape(hidden)[0], tf.shape(hidden)[1]
        heads, head_size = self.config.num_heads, self.config.hidden_size // self.config.num_heads
        projected = tf.reshape(self.query_key_value(hidden), [batch, length, 3, heads, head_size])
        query, key, value = tf.unstack(tf.transpose(projected, [2, 0, 3, 1, 4]))  # each [B, h, L, D / h]
        scores = tf.matmul(query * head_size**-0.5, key, transpose_b=True)  # [B, h, L, L]
        scores += tf.where(valid_mask, 0.0, _PADDING_SCORE)[:, None, None, :]
        weights = self.dropout(tf.nn.softmax(scores), dropout_seed)
        attended = tf.transpose(tf.matmul(weights, value), [0, 2, 1, 3])
        return self.output_projection(tf.reshape(attended, [batch, length, self.config.hidden_size]))
