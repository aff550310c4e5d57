"""Layer norm as all parts of the model use it."""

import tensorflow as tf

import bert4rec_tf.legacy_keras  # noqa: F401, a check
from bert4rec_tf.config import ModelConfig


def layer_norm(config: ModelConfig, name: str) -> tf.keras.layers.Layer:
    """Layer norm over D with BERT's epsilon; what it is given where `config.layer_norm` is "none"."""
    if config.layer_norm == "none":
        return tf.keras.layers.Activation("linear", name=name)
    return tf.keras.layers.LayerNormalization(epsilon=1e-12, name=name)
