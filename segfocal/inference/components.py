"""Predicted components out of a class map: the small ones, or all but one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from segfocal.labels import ClassMap
from segfocal.metrics.voxel_size import HEADER_ROUNDING


def remove_small_components(
    classes: ClassMap, *, min_volume_mm3: float, voxel_mm3: float
) -> ClassMap:
    """Sets foreground components (all classes together) below a volume to 0.

    Voxels that touch at a corner are connected: 26 neighbours in 3-d, 8 in 2-d.

    Args:
        classes: Predicted class indices `(*S)`.
        min_volume_mm3: Components smaller than this go, but for the rounding of headers (a turned
            grid of 1 mm has voxels of 0.9999999 mm3); 0 keeps all.
        voxel_mm3: Volume of a voxel.

    Returns:
        A new map of the same shape, or `classes` itself where nothing goes.
    """
    if min_volume_mm3 <= 0:
        return classes
    components, _ = _components(classes)
    sizes_mm3 = np.bincount(components.ravel()) * voxel_mm3
    small = sizes_mm3 < min_volume_mm3 * (1 - HEADER_ROUNDING)
    small[0] = False
    if not small.any():
        return classes
    return np.where(small[components], np.uint8(0), classes)


def keep_largest_component(classes: ClassMap) -> ClassMap:
    """Sets all foreground but its largest component (all classes together) to 0.

    Voxels that touch at a corner are connected: 26 neighbours in 3-d, 8 in 2-d.

    Args:
        classes: Predicted class indices `(*S)`.

    Returns:
        A new map of the same shape, or `classes` itself where nothing goes. Of components of one
        size the first in memory order stays.
    """
    components, count = _components(classes)
    if count <= 1:
        return classes
    sizes = np.bincount(components.ravel())
    largest = 1 + int(sizes[1:].argmax())
    return np.where(components == largest, classes, np.uint8(0))


def _components(classes: ClassMap) -> tuple[npt.NDArray[np.int32], int]:
    components, count = ndimage.label(classes > 0, np.ones((3,) * classes.ndim, dtype=bool))
    return components, count
