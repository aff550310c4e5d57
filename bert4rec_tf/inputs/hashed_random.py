"""Random numbers in TensorFlow: hashes of a seed and of what is drawn."""

import numpy as np
import tensorflow as tf

from tfrecords.hashed_random import FIRST_MULTIPLIER, INCREMENT, SECOND_MULTIPLIER


def hashed_bits(*parts: tf.Tensor | int) -> tf.Tensor:
    """`tfrecords.hashed_random.hashed_bits` in the graph: uint64, of the parts' broadcast shape."""
    bits = tf.zeros([1], tf.uint64)
    for part in parts:
        value = tf.constant(part, tf.uint64) if isinstance(part, int) else tf.cast(part, tf.uint64)
        bits = tf.bitwise.bitwise_xor(*_broadcast(bits, value)) + _constant(INCREMENT)
        bits = _shift_xor(bits, 30) * _constant(FIRST_MULTIPLIER)
        bits = _shift_xor(bits, 27) * _constant(SECOND_MULTIPLIER)
        bits = _shift_xor(bits, 31)
    return bits


def hashed_uniform(*parts: tf.Tensor | int) -> tf.Tensor:
    """`tfrecords.hashed_random.hashed_uniform` in the graph: float64 in [0, 1)."""
    bits = hashed_bits(*parts)
    return tf.cast(tf.bitwise.right_shift(bits, tf.fill(tf.shape(bits), _constant(11))), tf.float64) * 2.0**-53


def draw_below(number: tf.Tensor | int, *parts: tf.Tensor | int) -> tf.Tensor:
    """Integers from 0 to below `number`, int32, a hash of the parts."""
    return tf.cast(tf.math.floormod(hashed_bits(*parts), tf.cast(number, tf.uint64)), tf.int32)


def smallest_bits(bits: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
    """The `number` smallest of each row, or more, in ascending order: uint64 [B, L] -> uint64 [B, number or L]."""
    width = tf.shape(bits)[1]
    # Sorting the whole row is faster than looking for more than a third of it.
    number = tf.where(3 * number > width, width, number)
    # As int64 with all bits but the highest flipped, the order is reversed.
    flip = _constant((1 << 63) - 1)
    signed = tf.bitcast(tf.bitwise.bitwise_xor(bits, tf.fill(tf.shape(bits), flip)), tf.int64)
    found = tf.bitcast(tf.math.top_k(signed, number).values, tf.uint64)
    return tf.bitwise.bitwise_xor(found, tf.fill(tf.shape(found), flip))


def _shift_xor(bits: tf.Tensor, shift: int) -> tf.Tensor:
    return tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, tf.fill(tf.shape(bits), _constant(shift))))


def _broadcast(first: tf.Tensor, second: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    # Bitwise ops are not documented to broadcast.
    shape = tf.broadcast_dynamic_shape(tf.shape(first), tf.shape(second))
    return tf.broadcast_to(first, shape), tf.broadcast_to(second, shape)


def _constant(value: int | np.uint64) -> tf.Tensor:
    return tf.constant(np.uint64(value))
