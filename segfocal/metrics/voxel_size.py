"""How large a voxel is, and where voxels lie: edge lengths, or edges where axes are sheared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Millimetres = npt.NDArray[np.float64]
VoxelSize = Sequence[float] | npt.NDArray[np.floating]
"""Edge length of a voxel along each axis, in mm; or `(D, D)`, its edges as columns.

The second is the upper left of an affine. The axes of a CT whose gantry was tilted are not at
right angles: there edge lengths tell neither distances nor volumes.
"""

HEADER_ROUNDING = 1e-4
"""Headers round voxel sizes: 2.0000001 mm lie within a tolerance of 2 mm."""


def voxel_edges(spacing_mm: VoxelSize, num_axes: int) -> Millimetres:
    """The edges of a voxel as the columns of `(D, D)`, in mm.

    Raises:
        ValueError: If it is neither one positive length for each axis nor as many edges that span
            a volume.

    Example:
        >>> voxel_edges((1.0, 2.5), 2).tolist()
        [[1.0, 0.0], [0.0, 2.5]]
    """
    size = np.asarray(spacing_mm, dtype=np.float64)
    if size.shape == (num_axes,) and np.all((size > 0) & np.isfinite(size)):
        return np.diag(size)
    if size.shape == (num_axes, num_axes) and np.isfinite(size).all() and voxel_volume(size) > 0:
        return size
    raise ValueError(
        f"spacing_mm must be one positive length for each of {num_axes} axes, or the edges of a "
        f"voxel as columns ({num_axes}, {num_axes}), got {size.tolist()}."
    )


def voxel_volume(edges: Millimetres) -> float:
    """Volume of a voxel, in mm3; less than the product of its edge lengths under a shear.

    Args:
        edges: As of `voxel_edges`, or the upper left of an affine.
    """
    return float(abs(np.linalg.det(edges)))


def positions_mm(voxels: npt.NDArray[np.signedinteger], edges: Millimetres) -> Millimetres:
    """Where voxels lie from the first one, in mm.

    `voxels @ edges.T`, but for the last bit: a product of matrices rounds a row by how many there
    are, and a voxel of two masks would lie at 1e-16 mm from itself.

    Args:
        voxels: Indices `(N, D)`.
        edges: As of `voxel_edges`.
    """
    total = np.zeros(voxels.shape)
    for along, edge in zip(voxels.T, edges.T, strict=True):
        total += along[:, None] * edge
    return total
