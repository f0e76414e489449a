"""A channel on another grid, brought onto that of the first: `data.resample_channels`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from segfocal.data.cases import Case, naming
from segfocal.data.grids import AFFINE_TOLERANCE_MM, corner_displacement_mm
from segfocal.data.nifti import Volume, read_image
from segfocal.data.nifti_header import MAX_VOXELS, Affine
from segfocal.errors import UserError

_ROUNDING = 1e-4
"""In voxels: what affines, which headers hold in float32, may be off by.

A face of the one grid often lies on centres of the other. Rounding would tear it into voxels
inside and outside.
"""


def read_on_first_grid(
    case: Case,
    channels: Sequence[int] | None = None,
    *,
    affine_tolerance_mm: float = AFFINE_TOLERANCE_MM,
    max_voxels: int = MAX_VOXELS,
) -> Volume:
    """The image of a case whose channel files may lie on other grids than the first.

    A channel that lies on the first file's voxels is read as it is. Another is interpolated
    linearly at their centres, nothing smoothed before, as ITK does it: in the outer half of the
    channel's outermost voxels their value is repeated, beyond it is the channel's smallest.
    Equals `sitk.Resample(channel, first, sitk.Transform(), sitk.sitkLinear, smallest)`.

    Args:
        case: One file per channel.
        channels: Which channels to read, in which order; None is all.
        affine_tolerance_mm: Largest distance between corners that is taken for rounding.
        max_voxels: Voxels of a file above which its header is not believed.

    Returns:
        float32 `(C, X, Y, Z)` on the grid of `case.images[0]`.

    Raises:
        UserError: As `nifti.read_image`, for each file.
    """
    wanted = range(len(case.images)) if channels is None else channels
    volumes = {
        index: read_image(Case(case.case_id, (case.images[index],), None), max_voxels=max_voxels)
        for index in sorted({0, *wanted})
    }
    with naming(case.case_id):
        for index, volume in volumes.items():
            if len(volume.data) != 1:
                raise UserError(f"{case.images[index].name}: expected one channel.")
    first = volumes[0]
    shape = first.data.shape[1:]
    data = np.empty((len(wanted), *shape), dtype=np.float32)
    for channel, index in zip(data, wanted, strict=True):
        volume = volumes[index]
        here = volume.data[0]
        if _same(first, volume, affine_tolerance_mm):
            channel[...] = here
            continue
        _interpolate(here, np.linalg.inv(volume.affine) @ first.affine, channel)
    return Volume(data, first.affine, first.zooms, first.header)


def _interpolate(
    source: npt.NDArray[np.float32], to_source: Affine, out: npt.NDArray[np.float32]
) -> None:
    """Writes what `source` holds at the voxel centres of another grid.

    Args:
        source: Voxels `(X, Y, Z)`.
        to_source: Voxel indices of `out` to those of `source`, `(4, 4)`.
        out: Written, `(U, V, W)`.
    """
    smallest = source.min()
    v, w = np.ogrid[: out.shape[1], : out.shape[2]]
    for u, plane in enumerate(out):
        places = [by_v * v + (by_w * w + (by_u * u + at)) for by_u, by_v, by_w, at in to_source[:3]]
        inside = np.ones(plane.shape, dtype=bool)
        for place, length in zip(places, source.shape, strict=True):
            # ITK, too, leaves the upper end out.
            inside &= (place >= -0.5 - _ROUNDING) & (place < length - 0.5 - _ROUNDING)
        plane[...] = smallest
        if inside.any():
            plane[inside] = ndimage.map_coordinates(
                source, [place[inside] for place in places], np.float32, order=1, mode="nearest"
            )


def _same(first: Volume, other: Volume, tolerance_mm: float) -> bool:
    shape = first.data.shape[1:]
    if other.data.shape[1:] != shape:
        return False
    apart = corner_displacement_mm(first.affine, other.affine, shape)
    return float(np.linalg.norm(apart)) <= tolerance_mm
