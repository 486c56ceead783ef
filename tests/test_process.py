"""What a process does where it leaves the processor to others."""

import ctypes
import gc
import os
import subprocess
import sys
import threading

import psutil
import pytest

from fedsim.process import ARENAS, give_back, loading, yielding


def test_work_stands_back_and_the_process_does_not():
    seen = {}

    def work():
        seen.update(thread=threading.get_ident(), nice=os.getpriority(os.PRIO_PROCESS, 0))

    mine = os.getpriority(os.PRIO_PROCESS, 0)
    yielding(work)
    assert seen["thread"] != threading.get_ident()
    if sys.platform == "linux":
        assert seen["nice"] == 19
    assert os.getpriority(os.PRIO_PROCESS, 0) == mine


def test_an_error_comes_out():
    with pytest.raises(ZeroDivisionError):
        yielding(lambda: 1 / 0)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not GNU's")
def test_memory_that_was_freed_goes_back():
    """Small pieces between others that stay, which the C library would keep."""
    process = psutil.Process()
    pieces = [bytes(1000) for _ in range(200_000)]
    kept, held = pieces[::50], process.memory_info().rss
    del pieces
    give_back()
    assert len(kept) == 4000
    assert process.memory_info().rss < held - 100 * 2**20


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not GNU's")
def test_memory_that_is_kept_needs_not_be_cleared_again():
    """In a process of its own, as nothing else does this; a megabyte lies beyond what is kept by default."""
    code = """
import resource
from fedsim.process import keep_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        bytearray(b"x" * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_memory()
faults()
print(faults())
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(printed.stdout) < 1000


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not GNU's")
def test_threads_share_few_pools_of_memory():
    """In a process of its own, without what a private Ray may have set; the C library lists them."""
    code = """
import ctypes, threading
from fedsim.process import limit_arenas

limit_arenas()
wait = threading.Barrier(7)

def work():
    held = bytearray(10_000)
    wait.wait()
    wait.wait()

threads = [threading.Thread(target=work) for _ in range(6)]
for thread in threads:
    thread.start()
wait.wait()
ctypes.CDLL(None).malloc_stats()
wait.wait()
"""
    clean = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=clean
    )
    assert 1 <= printed.stderr.count("Arena ") <= ARENAS


def test_the_collector_is_left_out_and_comes_back():
    with pytest.raises(ZeroDivisionError), loading():
        assert not gc.isenabled()
        raise ZeroDivisionError
    assert gc.isenabled()
    gc.disable()
    try:
        with loading():
            pass
        assert not gc.isenabled(), "who had switched it off wants it so"
    finally:
        gc.enable()
