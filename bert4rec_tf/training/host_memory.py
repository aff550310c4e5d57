"""Makes malloc reuse the large temporary buffers of a training step."""

import ctypes
import os

_MAX_CORES = 8  # measured on two; all threads share one arena and its lock, which may cost more than it gives on many
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Makes malloc keep freed memory and reuse it, for the rest of the process.

    A step's temporary buffers take hundreds of MB. By default, glibc maps each buffer when it is allocated and unmaps
    it when it is freed, so the kernel clears all of its pages at every step: a quarter of the time on two cores
    (`docs/performance.md`). Call this before other threads allocate: memory in a thread's own arena is still returned
    to the kernel. Without glibc, or with more than eight cores, this does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and len(os.sched_getaffinity(0)) <= _MAX_CORES:
        # One arena: all others consist of heaps of 64 MB, which are returned to the kernel once empty.
        for parameter, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1)):  # -1: never
            mallopt(parameter, value)
