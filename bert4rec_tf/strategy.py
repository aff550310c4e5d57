"""tf.distribute strategies by name."""

import tensorflow as tf

STRATEGIES = ("default", "mirrored")
CPU_REPLICAS = 2  # logical devices of a machine without a GPU: shows that a run distributes, not that it is faster


def make_strategy(name: str) -> tf.distribute.Strategy:
    """The strategy of a `--strategy` value; "mirrored" takes every GPU, or, without one, two logical CPU devices.

    Must be called before TensorFlow has used its devices.
    """
    if name == "default":
        return tf.distribute.get_strategy()
    if tf.config.list_physical_devices("GPU"):
        return tf.distribute.MirroredStrategy()
    (cpu,) = tf.config.list_physical_devices("CPU")
    if not tf.config.get_logical_device_configuration(cpu):
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * CPU_REPLICAS)
    return tf.distribute.MirroredStrategy([device.name for device in tf.config.list_logical_devices("CPU")])
