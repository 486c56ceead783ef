"""What every process that computes sets up first, so that equal seeds give equal bits."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Parameters of `mallopt`, of glibc's malloc.h."""
ARENAS = 2
"""Pools of memory (malloc's arenas) of a process, see `limit_arenas`."""


def memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def peak_mib() -> float:
    """Largest resident memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def loading() -> Iterator[None]:
    """Load libraries without the garbage collector, which would look for what is left of a million objects
    that all stay: a tenth to a fifth of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def stand_back() -> None:
    """Give this thread the lowest priority, so that it leaves the processor to the other processes of this
    machine; only Linux has it."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def yielding(work: Callable[[], object]) -> None:
    """Do something in a thread that stands back, and wait for it."""
    with ThreadPoolExecutor(1, initializer=stand_back) as beside:
        beside.submit(work).result()


def give_back() -> None:
    """Return memory that was freed to the system. The C library keeps what lies between pieces in use, and of
    tables that are made anew again and again that is a little more each time; only GNU's can be asked."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def keep_memory() -> None:
    """Keep freed memory in this process, for its next step. The C library returns what happens to lie last,
    again and again, and the system must clear it anew: up to a tenth of a step."""
    _allocate(_M_MMAP_THRESHOLD, 32 * 2**20)  # the most that it takes; what is larger goes back when freed
    _allocate(_M_TRIM_THRESHOLD, 2**30)


def limit_arenas() -> None:
    """Let the threads that this process starts from now on share two pools of memory. Each would fill one of
    its own, and what large messages leave behind in many pools grows for hundreds of rounds."""
    _allocate(_M_ARENA_MAX, ARENAS)


def _allocate(parameter: int, value: int) -> None:
    """Tell the C library how to deal with memory; only GNU's can be told."""
    choose = getattr(ctypes.CDLL(None), "mallopt", None)
    if choose is not None:
        choose(parameter, value)


def set_up(threads: int, gpu: bool = True) -> None:
    """Fix the number of threads and ask torch for its deterministic kernels.

    gpu: whether this process may use one; a process that reserved none must not see any.
    """
    if not gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # Read by cuBLAS at its first use; without it some products on a GPU differ from run to run.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Read by torch at its first tensor: pages of 2 MB for those that fill one, where the system has them.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(threads)
    threadpool_limits(threads, user_api="blas")  # numpy's factorisations give other bits on other numbers
    # As use_deterministic_algorithms(True, warn_only=True), which imports the compiler besides.
    torch.set_deterministic_debug_mode("warn")
    # That also fills new memory with NaN before it is written, which only costs time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation.*")
    _leave_out_the_compiler()


def _leave_out_the_compiler() -> None:
    """Optimisers, operator counters and transformers' caches ask to be left out of compilation, for which
    torch imports its whole compiler: two seconds and 70 MB in every process. Nothing is compiled here, so
    all of them are left as they are."""
    import torch
    from torch.optim import Optimizer

    def as_it_is(function: Any = None, *_: Any, **__: Any) -> Any:
        return as_it_is if function is None else function

    vars(torch)["_disable_dynamo"] = as_it_is
    vars(torch.compiler)["disable"] = as_it_is
    for method in vars(Optimizer).values():  # they asked when torch was imported
        plain = getattr(method, "__wrapped__", None)
        if plain is not None:
            setattr(plain, "__dynamo_disable", plain)
