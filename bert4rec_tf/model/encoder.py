"""The Transformer: blocks of self-attention and feed-forward (paper section 3.3)."""

from typing import Any

import tensorflow as tf

from bert4rec_tf.config import ModelConfig
from bert4rec_tf.model.attention import MultiHeadAttention
from bert4rec_tf.model.dropout import SeededDropout, block_salts
from bert4rec_tf.model.event_times import SlotTimes
from bert4rec_tf.model.layers import Projection, derived_seed, layer_norm


class EncoderBlock(tf.keras.layers.Layer):
    """Trm: a self-attention and a feed-forward sublayer, each with dropout, residual and layer norm.

    Post-layer-norm is the paper's: LN(x + Dropout(sublayer(x))) (equations 3 to 6). Pre-layer-norm,
    x + Dropout(sublayer(LN(x))) (Xiong et al., ICML 2020), is a departure that allows a larger learning rate. For the
    paper's ablations (Table 5), `config` leaves out the norms, the residuals, or the feed-forward sublayer.
    Gated blocks compute x + Dropout(sublayer(LN(x)) * sigmoid(LN(x) W + b)): LiGR (Borisyuk et al., 2025, arXiv
    2502.03417), whose feed-forward has another activation.

    Args:
        config: sizes, dropout, order of the norms.
        index: of the block, from 0; each block has dropout salts of its own.
        seed: of the starting weights.
    """

    def __init__(self, config: ModelConfig, index: int, seed: int, **kwargs: Any):
        super().__init__(**kwargs)
        seed = derived_seed(seed, self.name)
        self.config = config
        salts = block_salts(index)
        self.attention = MultiHeadAttention(config, salts.attention_weights, seed, name="attention")
        self.attention_dropout = SeededDropout(config.dropout, salts.attention_output, name="attention_output_dropout")
        self.attention_norm = layer_norm(config, "attention_layer_norm")
        self.attention_gate = self.feed_forward_gate = None
        if config.block == "gated":
            self.attention_gate = _gate(config, seed, "attention_gate")
        if not config.feed_forward:
            return
        inner = config.feed_forward_size or 4 * config.hidden_size
        self.feed_forward_in = Projection(inner, config, seed, name="feed_forward_in", activation=tf.nn.gelu)
        self.feed_forward_out = Projection(config.hidden_size, config, seed, name="feed_forward_out")
        self.feed_forward_dropout = SeededDropout(config.dropout, salts.feed_forward, name="feed_forward_dropout")
        self.feed_forward_norm = layer_norm(config, "feed_forward_layer_norm")
        if config.block == "gated":
            self.feed_forward_gate = _gate(config, seed, "feed_forward_gate")

    def call(
        self,
        hidden: tf.Tensor,
        valid_mask: tf.Tensor,
        query_positions: tf.Tensor | None = None,
        dropout_seed: tf.Tensor | None = None,
        packed_index: tf.Tensor | None = None,
        prefix_lengths: tf.Tensor | None = None,
        times: SlotTimes | None = None,
    ) -> tf.Tensor:
        """Hidden states after the block.

        Args:
            hidden: float32 [B, L, D].
            valid_mask: bool [B, L], True = a real item.
            query_positions: int32 [B, P], the slots to compute; None: all, P is L.
            dropout_seed: see `SeededDropout`.
            packed_index: int32 [M], which of the B x P computed slots are no padding; None: all.
            prefix_lengths: see `MultiHeadAttention.call`.
            times: see `MultiHeadAttention.call`.

        Returns:
            float32 [B, P, D]; [1, M, D] if `packed_index` is given.
        """
        slot_index = None  # of the packed slots in the whole batch, for dropout
        if packed_index is not None and dropout_seed is not None:
            row_slots = tf.shape(hidden if query_positions is None else query_positions)[1]
            slot_index = dropout_seed[2] * row_slots + packed_index
        attended = self._attend(hidden, valid_mask, query_positions, dropout_seed, prefix_lengths, times)
        hidden = _gather_slots(self._residual(_gather_slots(hidden, query_positions), attended), None, packed_index)
        if self.config.layer_norm != "pre":
            hidden = self.attention_norm(hidden)
        if not self.config.feed_forward:
            return hidden
        hidden = self._residual(hidden, self._feed_forward(hidden, dropout_seed, slot_index))
        return hidden if self.config.layer_norm == "pre" else self.feed_forward_norm(hidden)

    def attention_weights(
        self,
        hidden: tf.Tensor,
        valid_mask: tf.Tensor,
        query_positions: tf.Tensor | None = None,
        times: SlotTimes | None = None,
    ) -> tf.Tensor:
        """The attention weights of this block, float32 [B, h, P, L]; see `MultiHeadAttention.attention_weights`."""
        states = self._attention_input(hidden)
        queries = _gather_slots(states, query_positions)
        return self.attention.attention_weights(queries, states, valid_mask, query_positions, times)

    def _attention_input(self, hidden: tf.Tensor) -> tf.Tensor:
        return self.attention_norm(hidden) if self.config.layer_norm == "pre" else hidden

    def _attend(
        self,
        hidden: tf.Tensor,
        valid_mask: tf.Tensor,
        query_positions: tf.Tensor | None,
        dropout_seed: tf.Tensor | None,
        prefix_lengths: tf.Tensor | None,
        times: SlotTimes | None,
    ) -> tf.Tensor:
        states = self._attention_input(hidden)
        queries = _gather_slots(states, query_positions)
        attended = self.attention(queries, states, valid_mask, query_positions, dropout_seed, prefix_lengths, times)
        if self.attention_gate is not None:
            attended *= self.attention_gate(queries)
        return self.attention_dropout(attended, dropout_seed)

    def _feed_forward(
        self, hidden: tf.Tensor, dropout_seed: tf.Tensor | None, slot_index: tf.Tensor | None
    ) -> tf.Tensor:
        states = self.feed_forward_norm(hidden) if self.config.layer_norm == "pre" else hidden
        output = self.feed_forward_out(self.feed_forward_in(states))
        if self.feed_forward_gate is not None:
            output *= self.feed_forward_gate(states)
        return self.feed_forward_dropout(output, dropout_seed, slot_index)

    def _residual(self, hidden: tf.Tensor, change: tf.Tensor) -> tf.Tensor:
        return hidden + change if self.config.residual else change


class Encoder(tf.keras.layers.Layer):
    """L blocks, one on the other; with pre-layer-norm, a last layer norm on top.

    Args:
        config: sizes, dropout, order of the norms.
        seed: of the starting weights.
    """

    def __init__(self, config: ModelConfig, seed: int, **kwargs: Any):
        super().__init__(**kwargs)
        seed = derived_seed(seed, self.name)
        self.blocks = [EncoderBlock(config, index, seed, name=f"block_{index}") for index in range(config.num_layers)]
        self.final_norm = layer_norm(config, "final_layer_norm") if config.layer_norm == "pre" else None

    def call(
        self,
        hidden: tf.Tensor,
        valid_mask: tf.Tensor,
        query_positions: tf.Tensor | None,
        dropout_seed: tf.Tensor | None = None,
        packed_index: tf.Tensor | None = None,
        prefix_lengths: tf.Tensor | None = None,
        times: SlotTimes | None = None,
    ) -> tf.Tensor:
        """Hidden states of the last block, which computes only the slots that are needed.

        Arguments and shapes as in `EncoderBlock.call`.
        """
        for block in self.blocks[:-1]:
            hidden = block(hidden, valid_mask, None, dropout_seed, None, prefix_lengths, times)
        hidden = self.blocks[-1](hidden, valid_mask, query_positions, dropout_seed, packed_index, prefix_lengths, times)
        return hidden if self.final_norm is None else self.final_norm(hidden)

    def attention_weights(
        self,
        hidden: tf.Tensor,
        valid_mask: tf.Tensor,
        query_positions: tf.Tensor | None = None,
        times: SlotTimes | None = None,
    ) -> list[tf.Tensor]:
        """The attention weights of each block, float32 [B, h, P, L]; arguments as in `call`."""
        weights = []
        for block in self.blocks:
            weights.append(block.attention_weights(hidden, valid_mask, query_positions, times))
            hidden = block(hidden, valid_mask, times=times)
        return weights


def _gate(config: ModelConfig, seed: int, name: str) -> Projection:
    return Projection(config.hidden_size, config, seed, name, activation=tf.nn.sigmoid)


def _gather_slots(
    states: tf.Tensor, query_positions: tf.Tensor | None = None, packed_index: tf.Tensor | None = None
) -> tf.Tensor:
    """States [B, P, D] at `query_positions`, and of these [1, M, D] at `packed_index`; None: all of them."""
    if query_positions is not None:
        states = tf.gather(states, query_positions, batch_dims=1)
    if packed_index is not None:
        states = tf.gather(tf.reshape(states, [1, -1, states.shape[-1]]), packed_index, axis=1)
    return states
