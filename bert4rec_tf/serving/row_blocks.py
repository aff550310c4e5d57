"""A bound on the memory of a request: what is computed for each row is computed for blocks of rows, one by one."""

from collections.abc import Callable

import tensorflow as tf

BLOCK_FLOATS = 2**25  # 128 MiB of float32


def in_blocks(
    function: Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, ...]],
    num_rows: tf.Tensor,
    floats_per_row: tf.Tensor | int,
    specs: tuple[tf.TensorSpec, ...],
) -> tuple[tf.Tensor, ...]:
    """Calls a function for as many rows at once as its temporary tensors allow, and joins the results.

    Args:
        function: of the first row and the one after the last, int32; its results have these rows, in this order.
        num_rows: int32.
        floats_per_row: int64, the size of the temporary tensors of a row, as a number of float32. A block of rows has
            `BLOCK_FLOATS` of them at most, but a row at least.
        specs: of the results, the number of rows None.

    Returns:
        The results of all rows.
    """
    step = tf.cast(tf.maximum(BLOCK_FLOATS // floats_per_row, 1), tf.int32)
    num_blocks = tf.maximum((num_rows + step - 1) // step, 1)  # one for no row, whose results have columns all the same
    arrays = [tf.TensorArray(spec.dtype, num_blocks, infer_shape=False, element_shape=spec.shape) for spec in specs]

    def compute(block: tf.Tensor, *arrays: tf.TensorArray) -> tuple:
        results = function(block * step, tf.minimum((block + 1) * step, num_rows))
        return block + 1, *(array.write(block, result) for array, result in zip(arrays, results, strict=True))

    # A loop even where there is one block: a branch without it would hold everything a second time, and double what it
    # takes to save and to load a version.
    _, *arrays = tf.while_loop(
        lambda block, *_: block < num_blocks, compute, (tf.constant(0), *arrays), parallel_iterations=1
    )
    return tuple(array.concat() for array in arrays)
