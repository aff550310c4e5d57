"""What the host's malloc does with the large temporaries of a training step."""

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Makes malloc keep what is freed and hand it out again, for the rest of the process.

    A step's temporaries are hundreds of MB. glibc maps each anew and unmaps it after the step, so the kernel clears all
    of their pages at every step: a quarter of the time on two cores (`benchmarks/README.md`). To be called before
    threads allocate, for what they hold of their own is given back all the same. Without glibc it does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        # One arena, since any other is made of heaps of 64 MB that are given back once empty.
        for parameter, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1)):  # -1: never
            mallopt(parameter, value)
