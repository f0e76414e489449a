"""Lesions as connected components: how many were found, missed, made up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from segfocal.metrics.overlap import Mask, as_masks


@dataclass(frozen=True)
class LesionCounts:
    """Detection counts; add the counts of several cases to pool them.

    Attributes:
        lesions: Components of the reference.
        found: Those of them that the prediction overlaps.
        false_positives: Components of the prediction that overlap no lesion.

    Example:
        >>> LesionCounts(3, 2, 1) + LesionCounts(1, 1, 0)
        LesionCounts(lesions=4, found=3, false_positives=1)
    """

    lesions: int
    found: int
    false_positives: int

    def __add__(self, other: LesionCounts) -> LesionCounts:
        return LesionCounts(
            self.lesions + other.lesions,
            self.found + other.found,
            self.false_positives + other.false_positives,
        )

    @property
    def missed(self) -> int:
        """Lesions that the prediction does not overlap."""
        return self.lesions - self.found

    @property
    def f1(self) -> float:
        """2 found / (2 found + missed + false positives); NaN with neither lesion nor island.

        Example:
            >>> LesionCounts(lesions=3, found=2, false_positives=1).f1
            0.6666666666666666
        """
        total = self.found + self.lesions + self.false_positives
        return 2 * self.found / total if total else float("nan")


def count_lesions(
    pred: npt.ArrayLike,
    ref: npt.ArrayLike,
    valid: npt.ArrayLike | None = None,
    *,
    min_overlap_voxels: int = 1,
) -> LesionCounts:
    """Count the lesions of a reference that a prediction finds, and its false islands.

    Lesions are 26-connected components (8-connected in 2-d) of the valid voxels: what lies under
    the ignore label neither joins, makes nor spoils a lesion. A lesion counts as found when the
    prediction covers at least `min_overlap_voxels` of it (all of it, where it is smaller); a
    predicted component that touches no lesion voxel is a false positive. Size is not filtered.

    Args:
        pred: Predicted mask `(*S)`, bool; an array or a tensor in memory, as the others.
        ref: Reference mask of the same shape, bool.
        valid: True where the reference is known, same shape; None for everywhere.
        min_overlap_voxels: Voxels of a lesion that must be covered, at least 1.

    Raises:
        ValueError: If the shapes differ, an array is not boolean, or `min_overlap_voxels` < 1.

    Example:
        >>> ref = np.array([[1, 1, 0, 0, 0, 1]], bool)
        >>> pred = np.array([[0, 1, 0, 1, 0, 0]], bool)
        >>> count_lesions(pred, ref)
        LesionCounts(lesions=2, found=1, false_positives=1)
    """
    pred, ref, valid = as_masks(pred, ref, valid)
    if min_overlap_voxels < 1:
        raise ValueError(f"min_overlap_voxels must be at least 1, got {min_overlap_voxels}.")
    if valid is not None:
        pred, ref = pred & valid, ref & valid
    box = _bounding_box(pred | ref)
    if box is None:
        return LesionCounts(0, 0, 0)
    pred, ref = pred[box], ref[box]
    touching = np.ones((3,) * ref.ndim, dtype=np.bool_)
    lesions, num_lesions = ndimage.label(ref, touching)
    islands, num_islands = ndimage.label(pred, touching)
    covered = np.bincount(lesions[pred & ref], minlength=num_lesions + 1)[1:]
    sizes = np.bincount(lesions.ravel(), minlength=num_lesions + 1)[1:]
    found = int(np.count_nonzero(covered >= np.minimum(min_overlap_voxels, sizes)))
    num_true_islands = len(np.unique(islands[pred & ref]))
    return LesionCounts(int(num_lesions), found, int(num_islands) - num_true_islands)


def _bounding_box(mask: Mask) -> tuple[slice, ...] | None:
    """The smallest slices that hold every True voxel, None where there is none."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        present: npt.NDArray[np.intp] = np.flatnonzero(mask.any(axis=others))
        if not len(present):
            return None
        box.append(slice(int(present[0]), int(present[-1]) + 1))
    return tuple(box)
