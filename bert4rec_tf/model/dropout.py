"""Dropout as a pure function of a seed, by a hash of each element's place."""

from typing import Any

import tensorflow as tf

import bert4rec_tf.legacy_keras  # noqa: F401, a check


class SeededDropout(tf.keras.layers.Layer):
    """Inverted dropout (Srivastava et al., 2014) that is applied if and only if a seed is given.

    The draws depend on the seed, this layer's `salt` and the element's place in the whole batch alone: a step can be
    computed again to the bit, and replicas that share a batch draw what one device would. A draw is a keyed 32-bit hash
    of the place, a dozen integer operations that XLA fuses into the multiplication; a counter-based generator
    (Philox, ThreeFry) took a fifth of the training step on a CPU.

    Args:
        rate: chance of an element to be dropped, from 0 to below 1.
        salt: sets layers of one model apart; 0 or above, and small.
    """

    def __init__(self, rate: float, salt: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.rate = rate
        self.salt = salt

    def call(
        self, inputs: tf.Tensor, dropout_seed: tf.Tensor | None = None, slots: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Drops elements.

        Args:
            inputs: float32, of any shape whose first axis is the batch.
            dropout_seed: int32 [3], two numbers and the place of the first row in the whole batch; None passes `inputs`
                through.
            slots: int32 [M], where in the whole batch each slot of `inputs`, float32 [1, M, D], stands; None: one after
                the other.
        """
        if dropout_seed is None or self.rate == 0:
            return inputs
        # All layers draw from one stream, each its own numbers of it: no layer of one seed has those of another seed.
        keys = tf.random.stateless_uniform(
            [self.salt + 1, 2], dropout_seed[:2], minval=None, maxval=None, dtype=tf.uint32
        )[-1]
        size = tf.size(inputs)
        if slots is None:
            places = dropout_seed[2] * (size // tf.maximum(tf.shape(inputs)[0], 1)) + tf.range(size)
        else:
            places = slots[:, None] * tf.shape(inputs)[-1] + tf.range(tf.shape(inputs)[-1])
        kept = _hashed(tf.cast(places, tf.uint32), keys[0], keys[1]) >= tf.constant(round(self.rate * 2**32), tf.uint32)
        return inputs * tf.cast(tf.reshape(kept, tf.shape(inputs)), inputs.dtype) * (1 / (1 - self.rate))

    def get_config(self) -> dict:
        return super().get_config() | {"rate": self.rate, "salt": self.salt}


def _hashed(places: tf.Tensor, first_key: tf.Tensor, second_key: tf.Tensor) -> tf.Tensor:
    """A bijection of 32-bit words for each pair of keys; the constants are those of C. Wellons' lowbias32."""
    words = _shift_xor(tf.bitwise.bitwise_xor(places, first_key), 16) * tf.constant(0x7FEB352D, tf.uint32)
    words = (_shift_xor(words, 15) + second_key) * tf.constant(0x846CA68B, tf.uint32)
    return _shift_xor(words, 16)


def _shift_xor(words: tf.Tensor, by: int) -> tf.Tensor:
    return tf.bitwise.bitwise_xor(words, tf.bitwise.right_shift(words, tf.constant(by, tf.uint32)))
