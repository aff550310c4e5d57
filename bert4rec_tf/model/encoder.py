"""The Transformer: blocks of self-attention and feed-forward (paper section 3.3)."""

from typing import Any

import tensorflow as tf

from bert4rec_tf.config import ModelConfig
from bert4rec_tf.model.attention import MultiHeadAttention
from bert4rec_tf.model.dropout import SeededDropout
from bert4rec_tf.model.layers import Projection, derived_seed, layer_norm

_SALTS_OF_A_BLOCK = 10


class EncoderBlock(tf.keras.layers.Layer):
    """Trm: a self-attention and a feed-forward sublayer, each with dropout, residual and layer norm.

    Post-layer-norm is the paper's, LN(x + Dropout(sublayer(x))) (equations 3 to 6). Pre-layer-norm,
    x + Dropout(sublayer(LN(x))) (Xiong et al., ICML 2020), is a departure that bears a larger learning rate. For the
    paper's ablations (Table 5), `config` leaves out the norms, the residuals, or the feed-forward sublayer.

    Args:
        config: sizes, dropout, order of the norms.
        index: of the block, from 0; sets its dropout apart.
        seed: of the starting weights.
    """

    def __init__(self, config: ModelConfig, index: int, seed: int, **kwargs: Any):
        super().__init__(**kwargs)
        seed = derived_seed(seed, self.name)
        self.config = config
        salt = 2 + index * _SALTS_OF_A_BLOCK
        self.attention = MultiHeadAttention(config, salt, seed, name="attention")
        self.attention_dropout = SeededDropout(config.dropout, salt + 1, name="attention_output_dropout")
        self.attention_norm = layer_norm(config, "attention_layer_norm")
        if not config.feed_forward:
            return
        inner = config.feed_forward_size or 4 * config.hidden_size
        self.feed_forward_in = Projection(inner, config, seed, name="feed_forward_in", activation=tf.nn.gelu)
        self.feed_forward_out = Projection(config.hidden_size, config, seed, name="feed_forward_out")
        self.feed_forward_dropout = SeededDropout(config.dropout, salt + 2, name="feed_forward_dropout")
        self.feed_forward_norm = layer_norm(config, "feed_forward_layer_norm")

    def call(
        self,
        hidden: tf.Tensor,
        valid_mask: tf.Tensor,
        positions: tf.Tensor | None = None,
        dropout_seed: tf.Tensor | None = None,
        slots: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Hidden states after the block.

        Args:
            hidden: float32 [B, L, D].
            valid_mask: bool [B, L], True = a real item.
            positions: int32 [B, P], the slots to compute; None: all.
            dropout_seed: see `SeededDropout`.
            slots: int32 [M], which of the B x P `positions` (of the B x L slots where that is None) count, where
                others are padding; None: all.

        Returns:
            float32 [B, P, D]; [B, L, D] where `positions` is None; [1, M, D] where `slots` are given.
        """
        places = None
        if slots is not None and dropout_seed is not None:
            places = dropout_seed[2] * tf.shape(hidden if positions is None else positions)[1] + slots

        def at_positions(states: tf.Tensor) -> tf.Tensor:
            return states if positions is None else tf.gather(states, positions, batch_dims=1)

        def attend(states: tf.Tensor) -> tf.Tensor:
            attended = self.attention(at_positions(states), states, valid_mask, positions, dropout_seed)
            return self.attention_dropout(attended, dropout_seed)

        def feed_forward(states: tf.Tensor) -> tf.Tensor:
            fed = self.feed_forward_out(self.feed_forward_in(states))
            return self.feed_forward_dropout(fed, dropout_seed, places)

        def at_slots(states: tf.Tensor) -> tf.Tensor:
            return states if slots is None else tf.gather(tf.reshape(states, [1, -1, states.shape[-1]]), slots, axis=1)

        def add(states: tf.Tensor, change: tf.Tensor) -> tf.Tensor:
            return states + change if self.config.residual else change

        if self.config.layer_norm == "pre":
            hidden = at_slots(add(at_positions(hidden), attend(self.attention_norm(hidden))))
            return add(hidden, feed_forward(self.feed_forward_norm(hidden))) if self.config.feed_forward else hidden
        hidden = self.attention_norm(at_slots(add(at_positions(hidden), attend(hidden))))
        return self.feed_forward_norm(add(hidden, feed_forward(hidden))) if self.config.feed_forward else hidden


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
        positions: tf.Tensor | None,
        dropout_seed: tf.Tensor | None = None,
        slots: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Hidden states of the last block at some slots; the others are not computed there, for nothing needs them.

        Args:
            hidden: float32 [B, L, D].
            valid_mask: bool [B, L], True = a real item.
            positions: int32 [B, P]; None: all slots, P is L.
            dropout_seed: see `SeededDropout`.
            slots: int32 [M], which of the B x P `positions` count; None: all.

        Returns:
            float32 [B, P, D], or [1, M, D] where `slots` are given.
        """
        for block in self.blocks[:-1]:
            hidden = block(hidden, valid_mask, dropout_seed=dropout_seed)
        hidden = self.blocks[-1](hidden, valid_mask, positions, dropout_seed, slots)
        return hidden if self.final_norm is None else self.final_norm(hidden)
