"""One prepared case in a piece of memory of its own."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from typing import Any

import numpy as np

from segfocal.training.case_tree import Array, decode, encode, starts


def packed(case: Mapping[str, Any]) -> dict[str, Any]:
    """The case with its tensors and arrays copied behind one another into one anonymous map.

    The same values as a case file gives back. Were the arrays kept where they were made, they would
    lie scattered over the heap between what the preparation took and gave back, and the process
    would hold on to both: half as much again as the cases.

    Raises:
        TypeError: If the case holds anything but tensors, arrays and plain values.
    """
    arrays: list[Array] = []
    tree = encode(case, arrays)
    *places, size = starts(arrays)
    # Private as the heap is: a loader process that is forked shares the pages until it writes.
    memory = np.frombuffer(mmap.mmap(-1, max(size, 1), access=mmap.ACCESS_COPY), dtype=np.uint8)
    held = []
    for array, start in zip(arrays, places, strict=True):
        part = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        part[...] = array
        held.append(part)
    kept: dict[str, Any] = decode(tree, held)
    return kept
