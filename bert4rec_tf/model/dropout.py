"""Dropout as a pure function of a seed: each element's index is hashed."""

from typing import Any, NamedTuple

import tensorflow as tf

import bert4rec_tf.legacy_keras  # noqa: F401, a check

# Every dropout layer of a model has a salt of its own.
ITEM_ID_SALT, EMBEDDING_SALT = 0, 1
_FIRST_BLOCK_SALT, _SALTS_PER_BLOCK = 2, 10
ROW_TIMES_SALT, REQUEST_TIMES_SALT = 10, 11  # salts of the first block that it does not use


class BlockSalts(NamedTuple):
    """The dropout salts of one encoder block."""

    attention_weights: int
    attention_output: int
    feed_forward: int


def block_salts(index: int) -> BlockSalts:
    """The salts of the `index`-th block, from 0."""
    first = _FIRST_BLOCK_SALT + index * _SALTS_PER_BLOCK
    return BlockSalts(first, first + 1, first + 2)


class SeededDropout(tf.keras.layers.Layer):
    """Inverted dropout (Srivastava et al., 2014) that is applied if and only if a seed is given.

    The draws depend only on the seed, this layer's `salt` and the element's index in the whole batch. So a step can be
    repeated to the bit, and replicas that share a batch draw what one device would draw. A draw is a keyed 32-bit hash
    of the index: a dozen integer operations, which XLA fuses into the multiplication. A counter-based generator
    (Philox, ThreeFry) took a fifth of the training step on a CPU.

    Args:
        rate: chance of an element to be dropped, from 0 to below 1.
        salt: a small number from 0, another one for each layer of a model.
    """

    def __init__(self, rate: float, salt: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.rate = rate
        self.salt = salt

    def call(
        self, inputs: tf.Tensor, dropout_seed: tf.Tensor | None = None, slot_index: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Drops elements.

        Args:
            inputs: float32, of any shape whose first axis is the batch.
            dropout_seed: int32 [3], two numbers and the index of the first row in the whole batch; None returns
                `inputs` unchanged.
            slot_index: int32 [M], for `inputs` float32 [1, M, D]: the index of each slot among the slots of the whole
                batch. None: `inputs` holds whole rows.
        """
        factors = self.factors(inputs, dropout_seed, slot_index)
        return inputs if factors is None else inputs * factors

    def factors(
        self, inputs: tf.Tensor, dropout_seed: tf.Tensor | None, slot_index: tf.Tensor | None = None
    ) -> tf.Tensor | None:
        """What `call` multiplies `inputs` with, of their shape and dtype; None: it returns them unchanged."""
        if dropout_seed is None or self.rate == 0:
            return None
        size = tf.size(inputs)
        if slot_index is None:
            element_index = dropout_seed[2] * (size // tf.maximum(tf.shape(inputs)[0], 1)) + tf.range(size)
        else:
            element_index = slot_index[:, None] * tf.shape(inputs)[-1] + tf.range(tf.shape(inputs)[-1])
        kept = kept_elements(element_index, self.rate, self.salt, dropout_seed)
        return tf.cast(tf.reshape(kept, tf.shape(inputs)), inputs.dtype) * (1 / (1 - self.rate))

    def get_config(self) -> dict:
        return super().get_config() | {"rate": self.rate, "salt": self.salt}


def kept_elements(element_index: tf.Tensor, rate: float, salt: int, dropout_seed: tf.Tensor) -> tf.Tensor:
    """Which elements are not dropped: bool of the shape of `element_index`, int32; other arguments as above."""
    # Each layer takes its own two numbers of one stream: no layer shares its keys with a layer under another seed.
    keys = tf.random.stateless_uniform([salt + 1, 2], dropout_seed[:2], minval=None, maxval=None, dtype=tf.uint32)[-1]
    draws = _hashed(tf.cast(element_index, tf.uint32), keys[0], keys[1])
    return draws >= tf.constant(round(rate * 2**32), tf.uint32)


def _hashed(element_index: tf.Tensor, first_key: tf.Tensor, second_key: tf.Tensor) -> tf.Tensor:
    """A bijection of 32-bit words for each pair of keys; the constants are those of C. Wellons' lowbias32."""
    words = _shift_xor(tf.bitwise.bitwise_xor(element_index, first_key), 16) * tf.constant(0x7FEB352D, tf.uint32)
    words = (_shift_xor(words, 15) + second_key) * tf.constant(0x846CA68B, tf.uint32)
    return _shift_xor(words, 16)


def _shift_xor(words: tf.Tensor, by: int) -> tf.Tensor:
    return tf.bitwise.bitwise_xor(words, tf.bitwise.right_shift(words, tf.constant(by, tf.uint32)))
