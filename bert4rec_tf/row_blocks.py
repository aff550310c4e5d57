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
    of_rows = tf.function(function, input_signature=[tf.TensorSpec([], tf.int32)] * 2)  # in the graph once

    @tf.function(experimental_attributes={"_noinline": True})
    def joined_blocks() -> tuple[tf.Tensor, ...]:
        def block(first: tf.Tensor, *arrays: tf.TensorArray) -> tuple:
            results = of_rows(first, tf.minimum(first + step, num_rows))
            written = (array.write(first // step, result) for array, result in zip(arrays, results, strict=True))
            return first + step, *written

        num_blocks = (num_rows - 1) // step + 1
        arrays = [tf.TensorArray(spec.dtype, num_blocks, infer_shape=False, element_shape=spec.shape) for spec in specs]
        _, *arrays = tf.while_loop(
            lambda first, *_: first < num_rows, block, (tf.constant(0), *arrays), parallel_iterations=1
        )
        return tuple(array.concat() for array in arrays)

    return tf.cond(num_rows <= step, lambda: of_rows(tf.constant(0), num_rows), joined_blocks)
