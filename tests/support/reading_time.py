"""How long it takes to read a table once, which bounds the time of an exact search over it."""

import time

import numpy as np


def reading_milliseconds(floats: int) -> float:
    """Milliseconds to read this many float32 values once: BLAS's inner product of a vector with itself."""
    table = np.random.default_rng(1).random(floats, np.float32)
    seconds = []
    for _ in range(20):
        started = time.perf_counter()
        np.dot(table, table)
        seconds.append(time.perf_counter() - started)
    return 1000 * float(np.median(seconds))
