"""Checks that `tf.keras` is Keras 2 (tf_keras), which the layers, the optimizer and the model are written for.

TensorFlow chooses between Keras 2 and 3 when a process first uses `tf.keras`. `bert4rec_tf` sets TF_USE_LEGACY_KERAS=1
when it is imported, and every module that defines a Keras class imports this module.
"""

import tensorflow as tf


def check_keras_2(layer: type) -> None:
    """Refuses any other Keras than tf_keras, with which the model would fail at its first weight.

    Args:
        layer: `tf.keras.layers.Layer`.

    Raises:
        ImportError: `layer` is not from tf_keras.
    """
    if not layer.__module__.startswith("tf_keras."):
        raise ImportError(
            "bert4rec_tf needs `tf.keras` to be Keras 2 (the package tf_keras). Received: Keras 3, which this process "
            "loaded when something used `tf.keras` before bert4rec_tf was imported. Fix: import bert4rec_tf first, or "
            "set TF_USE_LEGACY_KERAS=1 before Python starts. Both hold for the whole process; code for Keras 3 can "
            "`import keras` instead"
        )


check_keras_2(tf.keras.layers.Layer)
