"""Lesions of a label: connected components of each class or region, and how large they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from segfocal.labels import ClassMap, LabelScheme
from segfocal.statistics.class_histogram import Counts


def lesion_groups(scheme: LabelScheme) -> tuple[tuple[int, ...], ...]:
    """What lesions are counted of: every class but the background, then every region.

    Example:
        >>> lesion_groups(LabelScheme.preset("brats23"))
        ((1,), (2,), (3,), (1, 2, 3), (1, 3), (3,))
    """
    single = tuple((index,) for index in range(1, scheme.num_classes))
    return single + tuple(region.classes for region in scheme.regions)


def lesion_counts(classes: npt.ArrayLike, scheme: LabelScheme) -> Counts:
    """Lesions of every class but the background, then of every region.

    A lesion is a connected component as in `lesion_sizes`: 26 neighbours in 3-d.

    Args:
        classes: Class indices of one whole case, uint8, `IGNORE_CLASS` where ignored: `(*S)`, two
            or three spatial axes, behind leading axes of length 1. An array or a tensor in memory.
        scheme: What the classes mean.

    Returns:
        int64, in the order of `lesion_groups`.

    Raises:
        ValueError: If the axes are not those of one case, or `classes` is not uint8.

    Example:
        >>> scheme = LabelScheme(("background", "lesion"), (0, 1))
        >>> lesion_counts(np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0]], np.uint8), scheme)
        array([2])
    """
    volume = np.asarray(classes)
    if volume.dtype != np.uint8:
        raise ValueError(f"classes must be uint8 class indices, got {volume.dtype}.")
    shape = volume.shape
    while volume.ndim > 3 and len(volume) == 1:
        volume = volume[0]
    if volume.ndim not in (2, 3):
        raise ValueError(
            f"lesions are counted in one case of two or three spatial axes, got shape {shape}. "
            f"Pass one volume at a time, not a batch and not a list of voxels."
        )
    sizes = lesion_sizes(volume, lesion_groups(scheme))
    return np.array([len(of) for of in sizes], dtype=np.int64)


def lesion_sizes(classes: ClassMap, groups: Sequence[Sequence[int]]) -> list[Counts]:
    """Voxels of every connected component of each group of classes.

    Voxels that touch at a corner are connected: 26 neighbours in 3-d, 8 in 2-d.
    Components are sought in the box that holds the group, so many small structures cost no more
    than their boxes. Ignored voxels join nothing.

    Args:
        classes: Class indices `(*S)`, `IGNORE_CLASS` where ignored.
        groups: The classes of each group, none the background: one class, or those of a region.

    Returns:
        For each group its components' sizes in voxels, ascending, int64.

    Example:
        >>> classes = np.zeros((3, 3, 5), np.uint8)
        >>> classes[0, 0, 0] = classes[1, 1, 1] = classes[2, 2, 4] = 1
        >>> [sizes.tolist() for sizes in lesion_sizes(classes, [(1,), (2,)])]
        [[1, 2], []]
    """
    highest = max((index for group in groups for index in group), default=0)
    boxes = ndimage.find_objects(classes, max_label=highest) if highest else []
    touching = np.ones((3,) * classes.ndim, dtype=np.bool_)
    found = []
    for group in groups:
        held = [boxes[index - 1] for index in group if boxes[index - 1] is not None]
        if not held:
            found.append(np.zeros(0, dtype=np.int64))
            continue
        inside = classes[_union(held)]
        mask = _members(inside, group)
        components, _ = ndimage.label(mask, touching)
        sizes = np.bincount(components.ravel())[1:]
        found.append(np.sort(sizes).astype(np.int64))
    return found


def _members(classes: ClassMap, group: Sequence[int]) -> npt.NDArray[np.bool_]:
    if len(group) == 1:
        return np.asarray(classes == group[0])
    belongs = np.zeros(256, dtype=np.bool_)
    belongs[list(group)] = True
    return np.asarray(belongs[classes])


def _union(boxes: Sequence[tuple[slice, ...]]) -> tuple[slice, ...]:
    """The smallest box that holds them all."""
    return tuple(
        slice(min(box[axis].start for box in boxes), max(box[axis].stop for box in boxes))
        for axis in range(len(boxes[0]))
    )
