"""Memory of a gradient on the CPU.

glibc maps an allocation above 32 MiB anew and gives it back when it is freed, so each step writes
its gradient into pages that the kernel hands out and clears one by one: at 110 MB some 27000 page
faults. Linux gives out 2 MiB at a time where a program asks for that and the system lets it
(`/sys/kernel/mm/transparent_hugepage/enabled` is `madvise` on most).
"""

from __future__ import annotations

import ctypes
import mmap
from functools import cache
from typing import Any

import torch
from torch import Tensor

MAPPED_BYTES = 32 * 2**20
"""glibc's largest threshold: what is not smaller has a mapping of its own. Only that is touched."""


def empty_gradient(logits: Tensor) -> Tensor:
    """`torch.empty_like(logits)`; a large one on a CPU in huge pages where the system has them."""
    gradient = torch.empty_like(logits)
    advise = madvise() if gradient.device.type == "cpu" else None
    if advise is not None and gradient.nbytes >= MAPPED_BYTES:
        start = -(-gradient.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (gradient.data_ptr() + gradient.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        advise(start, end - start, mmap.MADV_HUGEPAGE)  # advice: what comes of it does not matter
    return gradient


@cache
def madvise() -> Any:
    """The C library's `madvise`; None where there is none, or no huge pages."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    try:
        advise = ctypes.CDLL(None).madvise
    except (AttributeError, OSError, TypeError):  # no such symbol; no such way on this platform
        return None
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    advise.restype = ctypes.c_int
    return advise
