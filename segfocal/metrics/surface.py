"""Distances between the surfaces of two masks, in millimetres."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from segfocal.metrics.bounding_box import bounding_box
from segfocal.metrics.overlap import Mask, as_masks
from segfocal.metrics.voxel_size import (
    HEADER_ROUNDING,
    Millimetres,
    VoxelSize,
    positions_mm,
    voxel_edges,
)


@dataclass(frozen=True)
class SurfaceScore:
    """How far two surfaces lie apart.

    Attributes:
        hd95_mm: The greater of the two directed 95th percentiles of the surface distances.
        assd_mm: Average symmetric surface distance: the mean over the voxels of both surfaces.
        nsd: Normalised surface Dice: the share of the voxels of both surfaces that lie within the
            tolerance of the other one.
        is_penalty: Whether one side alone was empty: both distances are then the diagonal of the
            volume, the longest there can be, and `nsd` is 0.
    """

    hd95_mm: float
    assd_mm: float
    nsd: float
    is_penalty: bool = False


UNDEFINED = SurfaceScore(math.nan, math.nan, math.nan)
"""The score of two empty masks: there is no surface to be far from or near to."""


def surface_score(
    pred: Mask,
    ref: Mask,
    spacing_mm: VoxelSize,
    valid: Mask | None = None,
    *,
    tolerance_mm: float,
) -> SurfaceScore:
    """HD95, average symmetric surface distance and normalised surface Dice of two masks.

    The surface of a mask is its voxels with a face that looks at a voxel outside of it, or out of
    the volume; distances are between voxel centres. A reference that was missed altogether costs
    the longest distance there can be, so that missing it makes every mean worse.

    Args:
        pred: Predicted mask `(*S)`, bool.
        ref: Reference mask of the same shape, bool.
        spacing_mm: Edge length of a voxel along each axis; where axes are sheared, its edges as the
            columns of `(D, D)`.
        valid: True where the reference is known, same shape; None for everywhere. What is not
            valid leaves both masks, and the cut is surface of both.
        tolerance_mm: Distance up to which a surface voxel counts as right in `nsd`, >= 0.

    Returns:
        The score; `UNDEFINED` where both masks are empty.

    Raises:
        ValueError: If the shapes differ, an array is not boolean, there is not one positive
            spacing for each axis, or the tolerance is negative.

    Reference:
        Maier-Hein L, Reinke A et al. Metrics reloaded. Nature Methods 2024, doi
        10.1038/s41592-023-02151-z (definitions, and the worst value for an empty side).
        Nikolov S et al. Clinically applicable segmentation of head and neck anatomy.
        arXiv:1809.04430 (surface Dice at a tolerance).

    Example:
        >>> ref = np.zeros((4, 4, 4), bool)
        >>> ref[1, 1, 1] = True
        >>> surface_score(np.roll(ref, 1, 2), ref, (1.0, 1.0, 3.0), tolerance_mm=2.0)
        SurfaceScore(hd95_mm=3.0, assd_mm=3.0, nsd=0.0, is_penalty=False)
    """
    pred, ref, valid = as_masks(pred, ref, valid)
    edges = voxel_edges(spacing_mm, ref.ndim)
    if not tolerance_mm >= 0:
        raise ValueError(f"tolerance_mm must be at least 0, got {tolerance_mm}.")
    if valid is not None:
        pred, ref = pred & valid, ref & valid
    if not pred.any() or not ref.any():
        if not pred.any() and not ref.any():
            return UNDEFINED
        farthest = diagonal_mm(ref.shape, edges)
        return SurfaceScore(farthest, farthest, 0.0, is_penalty=True)
    there, back = surface_distances(pred, ref, edges)
    both = np.concatenate([there, back])
    reach_mm = tolerance_mm * (1 + HEADER_ROUNDING)
    return SurfaceScore(
        hd95_mm=float(max(np.percentile(there, 95), np.percentile(back, 95))),
        assd_mm=float(both.mean()),
        nsd=float(np.count_nonzero(both <= reach_mm) / len(both)),
    )


def surface_distances(
    pred: Mask, ref: Mask, spacing_mm: VoxelSize
) -> tuple[Millimetres, Millimetres]:
    """From every surface voxel of one mask to the nearest of the other, in mm.

    Args:
        pred: Predicted mask `(*S)`, bool, not empty.
        ref: Reference mask of the same shape, bool, not empty.
        spacing_mm: Edge length of a voxel along each axis; where axes are sheared, its edges as the
            columns of `(D, D)`.

    Returns:
        From the prediction's surface to the reference's, and back.
    """
    box = bounding_box(pred | ref)
    assert box is not None
    edges = voxel_edges(spacing_mm, ref.ndim)
    one, other = (positions_mm(np.argwhere(surface(mask[box])), edges) for mask in (pred, ref))
    return KDTree(other).query(one)[0], KDTree(one).query(other)[0]


def surface(mask: Mask) -> Mask:
    """The voxels of a mask with a face that looks out of it, or out of the array.

    Example:
        >>> surface(np.ones((3, 3), bool)).astype(int).tolist()
        [[1, 1, 1], [1, 0, 1], [1, 1, 1]]
    """
    return np.asarray(mask & ~ndimage.binary_erosion(mask))


def diagonal_mm(shape: Sequence[int], spacing_mm: VoxelSize) -> float:
    """Length of a volume's longest diagonal: no two of its voxels lie further apart.

    Example:
        >>> diagonal_mm((3, 4), (1.0, 1.0))
        5.0
        >>> diagonal_mm((3, 4), np.array([[1.0, 0.5], [0.0, 1.0]]))  # sheared
        6.4031242374328485
    """
    sides = voxel_edges(spacing_mm, len(shape)) * np.asarray(shape)
    ways = itertools.product((1, -1), repeat=len(shape))
    return float(max(np.linalg.norm(sides @ way) for way in ways))
