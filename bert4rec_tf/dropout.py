"""Dropout as a pure function of a seed, four draws to a random word."""

from typing import Any

import tensorflow as tf

# Runs with neighbouring seeds share no stream of draws.
_SALT_STRIDE = 100_003


class SeededDropout(tf.keras.layers.Layer):
    """Inverted dropout (Srivastava et al., 2014) that is applied if and only if a seed is given.

    The draws depend on the seed and on this layer's `salt` alone, so a step can be computed again to the bit. Each
    32-bit random word serves four elements, since on a CPU drawing costs more than multiplying: the rate is rounded to
    the nearest 1/256 (0.2 becomes 51/256), and what is kept is scaled by exactly that.

    Args:
        rate: chance of an element to be dropped, from 0 to below 1.
        salt: sets layers of one model apart.
    """

    def __init__(self, rate: float, salt: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.rate = rate
        self.salt = salt
        self._dropped_of_256 = round(rate * 256)

    def call(self, inputs: tf.Tensor, dropout_seed: tf.Tensor | None = None) -> tf.Tensor:
        """Drops elements of `inputs`, float32 of any shape; `dropout_seed`: int32 [2], or None to pass it through."""
        if dropout_seed is None or self._dropped_of_256 == 0:
            return inputs
        seed = dropout_seed + tf.constant([self.salt * _SALT_STRIDE, 0])
        size = tf.size(inputs)
        words = tf.random.stateless_uniform([(size + 3) // 4], seed, minval=None, maxval=None, dtype=tf.int32)
        draws = tf.reshape(tf.reshape(tf.bitcast(words, tf.uint8), [-1])[:size], tf.shape(inputs))
        kept = tf.cast(draws >= self._dropped_of_256, inputs.dtype)
        return inputs * kept * (256 / (256 - self._dropped_of_256))

    def get_config(self) -> dict:
        return super().get_config() | {"rate": self.rate, "salt": self.salt}
