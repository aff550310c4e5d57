"""A dense layer, x W + b, over the last axis."""

from typing import Any

import tensorflow as tf

from bert4rec_tf.config import ModelConfig
from bert4rec_tf.embeddings import paper_initializer


class Projection(tf.keras.layers.Dense):
    """Keras's dense layer as one product of two matrices, whatever the axes before the last.

    Keras's own takes a dozen small operations on shapes for three axes, which keep TensorFlow from fusing the product
    with bias and activation where XLA is not at work: at serving.

    Args:
        units: size of the last axis of the result.
        config: the initialisation.
    """

    def __init__(self, units: int, config: ModelConfig, **kwargs: Any):
        glorot = config.dense_initializer == "glorot"
        start = tf.keras.initializers.GlorotUniform() if glorot else paper_initializer(config)
        super().__init__(units, kernel_initializer=start, **kwargs)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """float32 [..., D] -> float32 [..., units]."""
        flat = super().call(tf.reshape(inputs, [-1, inputs.shape[-1]]))
        return tf.reshape(flat, tf.concat([tf.shape(inputs)[:-1], [self.units]], axis=0))
