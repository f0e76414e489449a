"""HD95 over surface elements weighed by their area, as challenges compute it.

Between eight voxel centres lies a cell; where they are not all on one side, a piece of surface
passes through it (marching cubes). `segfocal.metrics.surface` counts surface voxels instead: the
two differ by parts of a voxel. MONAI brings the triangles; it is imported with the first call.
"""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import numpy.typing as npt
from scipy.spatial import KDTree

from segfocal.metrics.bounding_box import bounding_box
from segfocal.metrics.overlap import Mask, as_masks
from segfocal.metrics.voxel_size import Millimetres, VoxelSize, positions_mm, voxel_edges

Areas = npt.NDArray[np.float64]


def hd95_of_elements(pred: Mask, ref: Mask, spacing_mm: VoxelSize) -> float:
    """The greater of the two directed 95th percentiles, each element weighed by its area.

    Args:
        pred: Predicted mask `(X, Y, Z)`, bool.
        ref: Reference mask of the same shape, bool.
        spacing_mm: Edge length of a voxel along each axis; where axes are sheared, its edges as the
            columns of `(3, 3)`.

    Returns:
        Millimetres: the smallest distance within which 95 % of the area lies, for the side where it
        is greater. Infinite where one mask is empty, NaN where both are.

    Raises:
        ValueError: If the shapes differ or an array is not boolean.

    Reference:
        Nikolov S et al. arXiv:1809.04430, and google-deepmind/surface-distance.
    """
    pred, ref, _ = as_masks(pred, ref, None)
    if not pred.any() or not ref.any():
        return math.inf if pred.any() or ref.any() else math.nan
    box = bounding_box(pred | ref)
    assert box is not None
    edges = voxel_edges(spacing_mm, 3)
    table = _area_table(tuple(map(tuple, edges.tolist())))
    (one, one_areas), (other, other_areas) = (
        _elements(mask[box], table, edges) for mask in (pred, ref)
    )
    there = _percentile(KDTree(other).query(one)[0], one_areas, 0.95)
    back = _percentile(KDTree(one).query(other)[0], other_areas, 0.95)
    return max(there, back)


def _elements(mask: Mask, table: Areas, edges: Millimetres) -> tuple[Areas, Areas]:
    """Places `(N, 3)` in mm and areas `(N,)` in mm2 of the cells that hold a piece of surface."""
    padded = np.pad(mask, 1)
    codes = np.zeros([length - 1 for length in padded.shape], dtype=np.uint8)
    for bit, corner in enumerate(itertools.product((0, 1), repeat=3)):
        at = tuple(
            slice(begin, begin + length) for begin, length in zip(corner, codes.shape, strict=True)
        )
        codes |= padded[at].astype(np.uint8) << np.uint8(7 - bit)
    places = np.argwhere((codes != 0) & (codes != 255))
    return positions_mm(places, edges), table[codes[tuple(places.T)]]


def _percentile(distances: Areas, areas: Areas, share: float) -> float:
    """The smallest distance within which this share of the area lies.

    Added up in the order of the challenges' code, so that a place of exactly this share rounds as
    it does there.
    """
    order = np.lexsort((areas, distances))
    in_order = areas[order]
    within = np.cumsum(in_order) / in_order.sum()
    place = min(int(np.searchsorted(within, share)), len(order) - 1)
    return float(distances[order][place])


@functools.lru_cache(maxsize=8)
def _area_table(rows: tuple[tuple[float, ...], ...]) -> Areas:
    """Area of surface, in mm2, for each of the 256 ways in which a cell's corners can be inside.

    In float64, as the challenges' code has it: MONAI's own areas are float32, whose rounding turns
    a place where the area within is 95 % exactly, which small lesions have, to the next distance.
    """
    from monai.metrics.utils import _get_neighbour_code_to_normals_table

    # (256, 4, 3): the normals of up to four triangles; multiples of 1/8, exact in float32
    normals = np.asarray(_get_neighbour_code_to_normals_table().numpy(), dtype=np.float64)
    x, y, z = np.array(rows).T
    # the faces of a voxel as vectors; products of two lengths where edges are at right angles
    faces = np.cross(y, z), np.cross(z, x), np.cross(x, y)
    turned = sum(normals[..., axis, None] * face for axis, face in enumerate(faces))
    return np.asarray(np.linalg.norm(turned, axis=-1).sum(-1))
