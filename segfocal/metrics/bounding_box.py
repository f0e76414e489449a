"""The part of a volume that holds something: metrics cost what is in it, not what is round it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from segfocal.metrics.overlap import Mask


def bounding_box(mask: Mask, margin: int = 0) -> tuple[slice, ...] | None:
    """The smallest slices that hold every True voxel, None where there is none.

    Args:
        mask: `(*S)`, bool.
        margin: Voxels to add on every side, as far as the volume reaches.

    Example:
        >>> bounding_box(np.array([False, True, False, True, False]), margin=1)
        (slice(0, 5, None),)
    """
    box = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        present: npt.NDArray[np.intp] = np.flatnonzero(mask.any(axis=others))
        if not len(present):
            return None
        first, last = int(present[0]) - margin, int(present[-1]) + 1 + margin
        box.append(slice(max(first, 0), min(last, mask.shape[axis])))
    return tuple(box)
