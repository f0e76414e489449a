"""How often each class index occurs in a map."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]

_CHUNK = 1 << 16


def class_histogram(classes: npt.ArrayLike) -> Counts:
    """How often each uint8 occurs: `np.bincount(classes.ravel(), minlength=256)`.

    `bincount` converts its input to 64-bit integers; in chunks that stays in the cache instead of
    taking eight times the volume. Most of a label is background: eight zeros at a time are counted
    by one comparison, and only the rest is counted one by one.

    Args:
        classes: uint8 array, or tensor in memory, of any shape and memory order.

    Returns:
        int64 `(256,)`.

    Raises:
        ValueError: If `classes` is not uint8.
    """
    array = np.asarray(classes)
    if array.dtype != np.uint8:
        raise ValueError(f"classes must be uint8 class indices, got {array.dtype}.")
    flat = array.ravel(order="K")
    total = np.zeros(256, dtype=np.int64)
    whole = flat.size - flat.size % _CHUNK
    for start in range(0, whole, _CHUNK):
        words = flat[start : start + _CHUNK].view(np.uint64)
        busy = words[words != 0]
        total[0] += 8 * (words.size - busy.size)
        if busy.size:
            total += np.bincount(busy.view(np.uint8), minlength=256)
    return total + np.bincount(flat[whole:], minlength=256)
