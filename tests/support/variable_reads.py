"""Whether TensorFlow copies a variable when it is read."""

import numpy as np
import tensorflow as tf


def is_read_without_a_copy(variable: tf.Variable) -> bool:
    """Whether two reads of a float32 variable give the same memory."""
    reads = [tf.convert_to_tensor(variable) for _ in range(2)]  # both live, so two copies have two addresses
    first, second = (np.frombuffer(memoryview(read), np.float32).ctypes.data for read in reads)
    return first == second
