"""Checks that `tf.keras` is Keras 2 (tf_keras), for which the layers, the optimizer and the model are written.

TensorFlow decides once for a process which Keras `tf.keras` is: where it is first used. `bert4rec_tf` sets
TF_USE_LEGACY_KERAS=1 when it is imported, and every module that defines something of Keras imports this one.
"""

import tensorflow as tf


def check_keras_2(layer: type) -> None:
    """Refuses another Keras than tf_keras, under which the model would fail where it adds its first weight.

    Args:
        layer: `tf.keras.layers.Layer`.

    Raises:
        ImportError: it is not that of tf_keras.
    """
    if not layer.__module__.startswith("tf_keras."):
        raise ImportError(
            "bert4rec_tf needs `tf.keras` to be Keras 2 (the package tf_keras). Received: Keras 3, which this process "
            "loaded when something used `tf.keras` before bert4rec_tf was imported. Fix: import bert4rec_tf first, or "
            "set TF_USE_LEGACY_KERAS=1 before Python starts. Both hold for the whole process; code for Keras 3 can "
            "`import keras` instead"
        )


check_keras_2(tf.keras.layers.Layer)
