"""What every process that computes sets up first, so that equal seeds give equal bits."""

from __future__ import annotations

import os
import warnings


def memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def set_up(threads: int, gpu: bool = True) -> None:
    """Fix the number of threads and ask torch for its deterministic kernels.

    gpu: whether this process may use one; a process that reserved none must not see any.
    """
    if not gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # Read by cuBLAS at its first use; without it some products on a GPU differ from run to run.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # That also fills new memory with NaN before it is written, which only costs time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation.*")
