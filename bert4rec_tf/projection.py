"""A dense layer, x W + b, over the last axis."""

from typing import Any

import tensorflow as tf

from bert4rec_tf.config import ModelConfig
from bert4rec_tf.embeddings import derived_seed, paper_initializer


class Projection(tf.keras.layers.Dense):
    """Keras's dense layer as one product of two matrices, whatever the axes before the last.

    Keras's own takes a dozen small operations on shapes for three axes, which keep TensorFlow from fusing the product
    with bias and activation where XLA is not at work: at serving.

    Args:
        units: size of the last axis of the result.
        config: the initialisation.
        seed: of the starting weights.
        name: sets their draws apart from those of the other projections.
    """

    def __init__(self, units: int, config: ModelConfig, seed: int, name: str, **kwargs: Any):
        seed, glorot = derived_seed(seed, name), config.dense_initializer == "glorot"
        start = tf.keras.initializers.GlorotUniform(seed) if glorot else paper_initializer(config, seed)
        super().__init__(units, kernel_initializer=start, name=name, **kwargs)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """float32 [..., D] -> float32 [..., units]."""
        flat = super().call(tf.reshape(inputs, [-1, inputs.shape[-1]]))
        return tf.reshape(flat, tf.concat([tf.shape(inputs)[:-1], [self.units]], axis=0))
