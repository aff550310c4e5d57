"""Multi-head self-attention (paper section 3.3, equations 1 and 2): bidirectional, causal, or up to a prefix."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from bert4rec_tf.config import ModelConfig
from bert4rec_tf.model.dropout import SeededDropout
from bert4rec_tf.model.event_times import GAP_BUCKETS, SlotTimes
from bert4rec_tf.model.layers import Projection, derived_seed

# Added to the scores of slots that must not be attended to: padding, and later slots where they are hidden. Their
# weight after the softmax is exactly 0, and a row with only padding stays finite.
_HIDDEN_SCORE = -1e9


class MultiHeadAttention(tf.keras.layers.Layer):
    """MH(H) = [head_1; ...; head_h] W^O over scaled dot products, from slots of the window to all its slots.

    Departures from the paper's equations: projections have biases and the attention probabilities have dropout, both
    as in the authors' code. With `config.attention` "causal" a slot attends only to itself and the slots before it, as
    in SASRec (Kang & McAuley, ICDM 2018). A row with a prefix length is left to right too, except that all its slots
    attend to the prefix (Raffel et al., JMLR 2020, section 3.2). With `config.relative_distances` each head adds a
    learned bias to a score, for the distance from the query's slot to the attended one (as in T5: the same paper,
    section 2.1). With `config.time_bias` it adds another one, for the time between the two events (HSTU: Zhai et al.,
    ICML 2024; there all heads of a block share it).

    Args:
        config: sizes, dropout, initialisation, and which slots are attended to.
        salt: of the dropout, see `SeededDropout`.
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
        if self.config.time_bias:
            self.time_bias = self.add_weight("time_bias", [GAP_BUCKETS + 1, self.config.num_heads], initializer="zeros")
        super().build(input_shape)

    def call(
        self,
        queries: tf.Tensor,
        hidden: tf.Tensor,
        valid_mask: tf.Tensor,
        query_positions: tf.Tensor | None = None,
        dropout_seed: tf.Tensor | None = None,
        prefix_lengths: tf.Tensor | None = None,
        times: SlotTimes | None = None,
    ) -> tf.Tensor:
        """Attends from the slots of `queries` to those of the window.

        Args:
            queries: float32 [B, P, D], rows of `hidden`, or all of it.
            hidden: float32 [B, L, D].
            valid_mask: bool [B, L], True = a real item.
            query_positions: int32 [B, P], the slots that `queries` holds; None: all.
            dropout_seed: see `SeededDropout`.
            prefix_lengths: int32 [B, 1], the first slots of a row that all its slots attend to; None: all slots, or
                with causal attention none. Of the others a slot attends to itself and those before it.
            times: of the window's slots; only with `config.time_bias`.

        Returns:
            float32 [B, P, D].
        """
        query, key, value = self._project(queries, hidden)
        scores = self._scores(query, key, valid_mask, query_positions, prefix_lengths, times)
        if dropout_seed is None:
            attended = tf.matmul(tf.cast(tf.nn.softmax(scores), value.dtype), value)
        else:
            attended = attend(scores, value, self.dropout.factors(tf.cast(scores, value.dtype), dropout_seed))
        attended = tf.transpose(attended, [0, 2, 1, 3])
        return self.output_projection(tf.reshape(attended, tf.shape(queries)))

    def attention_weights(
        self,
        queries: tf.Tensor,
        hidden: tf.Tensor,
        valid_mask: tf.Tensor,
        query_positions: tf.Tensor | None = None,
        times: SlotTimes | None = None,
    ) -> tf.Tensor:
        """The weights after the softmax, without dropout.

        Args:
            queries: see `call`.
            hidden: see `call`.
            valid_mask: see `call`.
            query_positions: see `call`.
            times: see `call`.

        Returns:
            float32 [B, h, P, L], from the query's slot to the attended one; each row sums to 1.
        """
        query, key, _ = self._project(queries, hidden)
        return tf.nn.softmax(self._scores(query, key, valid_mask, query_positions, None, times))

    def _project(self, queries: tf.Tensor, hidden: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The queries [B, h, P, D / h], keys and values [B, h, L, D / h] of all heads."""
        (query,) = self._split_heads(self.query(queries), 1)
        key, value = self._split_heads(self.key_value(hidden), 2)
        return query, key, value

    def _split_heads(self, projected: tf.Tensor, parts: int) -> list[tf.Tensor]:
        heads, head_size = self.config.num_heads, self.config.hidden_size // self.config.num_heads
        shape = [tf.shape(projected)[0], tf.shape(projected)[1], parts, heads, head_size]
        return tf.unstack(tf.transpose(tf.reshape(projected, shape), [2, 0, 3, 1, 4]), num=parts)

    def _scores(
        self,
        query: tf.Tensor,
        key: tf.Tensor,
        valid_mask: tf.Tensor,
        query_positions: tf.Tensor | None,
        prefix_lengths: tf.Tensor | None,
        times: SlotTimes | None,
    ) -> tf.Tensor:
        head_size = self.config.hidden_size // self.config.num_heads
        # [B, h, P, L]. Also with mixed precision the softmax is in single precision, which holds `_HIDDEN_SCORE`.
        scores = tf.cast(tf.matmul(query * head_size**-0.5, key, transpose_b=True), tf.float32)
        hiding = tf.where(valid_mask, 0.0, _HIDDEN_SCORE)[:, None, None, :]
        if self.config.time_bias and times is not None:
            biases = tf.gather(self.time_bias, times.between(query_positions))
            scores += tf.transpose(tf.cast(biases, tf.float32), [0, 3, 1, 2])
        key_positions = tf.range(tf.shape(key)[2])
        if query_positions is None:
            query_positions = key_positions[None, :]
        distances = key_positions - query_positions[:, :, None]  # [B, P, L]; above 0: the attended slot comes later
        if prefix_lengths is not None:
            shown = (distances <= 0) | (key_positions < prefix_lengths)[:, None, :]
            hiding += tf.where(shown, 0.0, _HIDDEN_SCORE)[:, None]
        elif self.config.attention == "causal":
            hiding += tf.where(distances <= 0, 0.0, _HIDDEN_SCORE)[:, None]
        scores += hiding
        if max_distance := self.config.relative_distances:
            clipped = tf.clip_by_value(distances, -max_distance, max_distance)
            biases = tf.gather(self.distance_bias, clipped + max_distance)
            scores += tf.transpose(tf.cast(biases, tf.float32), [0, 3, 1, 2])
        return scores


def attend(scores: tf.Tensor, value: tf.Tensor, factors: tf.Tensor | None) -> tf.Tensor:
    """(softmax(scores) * factors) value, with a gradient that takes fewer passes over the scores.

    The softmax's gradient needs the sum of weight x gradient over each row of the scores. That sum is also the inner
    product of the row's result with its gradient (Dao et al., FlashAttention, NeurIPS 2022, appendix B.2), of D / h
    instead of L numbers. Training only: a SavedModel would store the gradient, too.

    Args:
        scores: float32 [B, h, P, L].
        value: float32 [B, h, L, D / h], or of half the precision.
        factors: of dropout, [B, h, P, L], of the dtype of `value`; None: no dropout.

    Returns:
        [B, h, P, D / h], of the dtype of `value`.
    """

    @tf.custom_gradient
    def attended(scores: tf.Tensor, value: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple]]:
        weights = tf.cast(tf.nn.softmax(scores), value.dtype)
        dropped = weights if factors is None else weights * factors
        result = tf.matmul(dropped, value)

        def gradient(of_result: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            of_dropped = tf.matmul(of_result, value, transpose_b=True)
            of_weights = of_dropped if factors is None else of_dropped * factors
            mean = tf.reduce_sum(of_result * result, axis=-1, keepdims=True)
            of_scores = tf.cast(weights * (of_weights - mean), tf.float32)
            return of_scores, tf.matmul(dropped, of_result, transpose_a=True)

        return result, gradient

    return attended(scores, value)
