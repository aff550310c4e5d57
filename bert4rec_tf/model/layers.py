"""Parts that the layers share: initial values, a dense projection, layer normalisation."""

import hashlib
from typing import Any

import tensorflow as tf

import bert4rec_tf.legacy_keras  # noqa: F401, a check
from bert4rec_tf.config import ModelConfig


def paper_initializer(config: ModelConfig, seed: int) -> tf.keras.initializers.Initializer:
    """The truncated normal within +-`initializer_range` (paper section 4.3): Keras cuts at two standard deviations.

    Departure from the authors' code: there the range is the standard deviation, and the cut is at twice the range.
    """
    return tf.keras.initializers.TruncatedNormal(stddev=config.initializer_range / 2, seed=seed)


def derived_seed(seed: int, name: str) -> int:
    """The seed of one part of the model: it differs by name, and is the same in every process."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1


class Projection(tf.keras.layers.Dense):
    """A dense layer that flattens all axes before the last one, so that it is one product of two matrices.

    For three axes Keras's own layer adds a dozen small operations on shapes. Without XLA, as at serving, these keep
    TensorFlow from fusing the product with bias and activation.

    Args:
        units: size of the last axis of the result.
        config: the initialisation.
        seed: of the starting weights.
        name: of the layer; the starting weights depend on it.
    """

    def __init__(self, units: int, config: ModelConfig, seed: int, name: str, **kwargs: Any):
        seed, glorot = derived_seed(seed, name), config.dense_initializer == "glorot"
        start = tf.keras.initializers.GlorotUniform(seed) if glorot else paper_initializer(config, seed)
        super().__init__(units, kernel_initializer=start, name=name, **kwargs)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """float32 [..., D] -> float32 [..., units]."""
        flat = super().call(tf.reshape(inputs, [-1, inputs.shape[-1]]))
        return tf.reshape(flat, tf.concat([tf.shape(inputs)[:-1], [self.units]], axis=0))


def layer_norm(config: ModelConfig, name: str) -> tf.keras.layers.Layer:
    """Layer norm over D with BERT's epsilon, or the identity if `config.layer_norm` is "none"."""
    if config.layer_norm == "none":
        return tf.keras.layers.Activation("linear", name=name)
    return tf.keras.layers.LayerNormalization(epsilon=1e-12, name=name)
