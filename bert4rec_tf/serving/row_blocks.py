"""Bounds the memory of a request: its rows are computed in blocks, one block after the other."""

from collections.abc import Callable

import tensorflow as tf

BLOCK_FLOATS = 2**25  # 128 MiB of float32


def compute_in_blocks(
    function: Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, ...]],
    num_rows: tf.Tensor,
    floats_per_row: tf.Tensor | int,
    specs: tuple[tf.TensorSpec, ...],
) -> tuple[tf.Tensor, ...]:
    """Calls a function for one block of rows at a time, and joins the results.

    Args:
        function: takes the first row and the row after the last, int32, and returns the results of these rows in order.
        num_rows: int32.
        floats_per_row: int64, the size of the temporary tensors of a row, as a number of float32. A block has as many
            rows as fit `BLOCK_FLOATS`, but at least one.
        specs: the specs of the results, with None rows.

    Returns:
        The results of all rows.
    """
    step = tf.cast(tf.maximum(BLOCK_FLOATS // floats_per_row, 1), tf.int32)
    num_blocks = tf.maximum((num_rows + step - 1) // step, 1)  # without rows, one block still gives the columns
    arrays = [tf.TensorArray(spec.dtype, num_blocks, infer_shape=False, element_shape=spec.shape) for spec in specs]

    def compute(block: tf.Tensor, *arrays: tf.TensorArray) -> tuple:
        results = function(block * step, tf.minimum((block + 1) * step, num_rows))
        return block + 1, *(array.write(block, result) for array, result in zip(arrays, results, strict=True))

    # A single block runs in the loop too: a branch without the loop would hold the graph a second time, and double the
    # time to save and to load a version.
    _, *arrays = tf.while_loop(
        lambda block, *_: block < num_blocks, compute, (tf.constant(0), *arrays), parallel_iterations=1
    )
    return tuple(array.concat() for array in arrays)
