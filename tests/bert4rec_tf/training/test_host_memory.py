"""Freed memory is reused: tested in a separate process, with buffers that malloc would map and unmap."""

import subprocess
import sys

import pytest

_FAULTS = """
import ctypes, resource, threading
from bert4rec_tf.training.host_memory import keep_freed_memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
if {keep}:
    keep_freed_memory()

def touch():
    for size in (100 << 20, 40 << 20, 100 << 20):
        buffer = libc.malloc(size)
        ctypes.memset(buffer, 1, size)
        libc.free(buffer)

def on_a_thread():
    thread = threading.Thread(target=touch)
    thread.start()
    thread.join()

on_a_thread()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
on_a_thread()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.parametrize("keep", [True, False])
def test_buffers_of_freed_sizes_cause_no_page_faults(keep: bool) -> None:
    done = subprocess.run([sys.executable, "-c", _FAULTS.format(keep=keep)], capture_output=True, text=True, check=True)
    faults = int(done.stdout)  # pages of 4 KiB, or of 2 MiB where the kernel gives these to all
    assert faults < 100 if keep else faults >= 120, faults
