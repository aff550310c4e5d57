"""Freed memory is reused: tested in a separate process, with buffers that malloc would map and unmap."""

import subprocess
import sys

import pytest

_FAULTS = """
import ctypes, os, resource, threading
from bert4rec_tf.training.host_memory import keep_freed_memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
os.sched_getaffinity = lambda process: range({cores})
if {called}:
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


@pytest.mark.parametrize(("called", "cores", "keep"), [(True, 8, True), (True, 9, False), (False, 8, False)])
def test_buffers_of_freed_sizes_cause_no_page_faults(called: bool, cores: int, keep: bool) -> None:
    script = _FAULTS.format(called=called, cores=cores)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    faults = int(done.stdout)  # pages of 4 KiB, or of 2 MiB where the kernel gives these to all
    assert faults < 100 if keep else faults >= 120, faults
