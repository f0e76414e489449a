"""Memory of a gradient on the CPU.

Above 32 MiB glibc mostly maps an allocation anew and gives it back when it is freed, so each step
writes its gradient into pages that the kernel hands out and clears one by one: at 110 MB some 27000
page faults. Linux gives out 2 MiB at a time where a program asks for that and the system lets it
(`/sys/kernel/mm/transparent_hugepage/enabled` says `madvise`).
"""

from __future__ import annotations

import ctypes
import mmap
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

FEWEST_BYTES = 32 * 2**20
"""glibc's largest threshold: what is smaller comes from memory that stays, and is left alone."""


class Calls(NamedTuple):
    """What the C library has to offer: `madvise(2)` and `mincore(2)`."""

    madvise: Any
    mincore: Any


def empty_gradient(logits: Tensor) -> Tensor:
    """`torch.empty_like(logits)`; a large new one on a CPU in huge pages where there are such."""
    gradient = torch.empty_like(logits)
    if gradient.device.type == "cpu" and gradient.nbytes >= FEWEST_BYTES:
        ask_for_huge_pages(gradient.data_ptr(), gradient.nbytes)
    return gradient


def ask_for_huge_pages(address: int, num_bytes: int) -> bool:
    """Ask for memory that was never touched to be made of huge pages. Returns whether it was asked.

    Of memory that is in use already nothing would be gained.
    """
    calls = c_library()
    if calls is None:
        return False
    start = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    size = (address + num_bytes) // mmap.PAGESIZE * mmap.PAGESIZE - start
    middle = start + size // 2 // mmap.PAGESIZE * mmap.PAGESIZE
    is_there = ctypes.c_ubyte(1)
    calls.mincore(middle, mmap.PAGESIZE, ctypes.byref(is_there))
    return not is_there.value & 1 and calls.madvise(start, size, mmap.MADV_HUGEPAGE) == 0


@cache
def c_library() -> Calls | None:
    """The calls; None where there are none, or no huge pages."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    try:
        library = ctypes.CDLL(None)
        calls = Calls(library.madvise, library.mincore)
    except (AttributeError, OSError, TypeError):  # no such symbol; no such way on this platform
        return None
    calls.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    calls.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    return calls
