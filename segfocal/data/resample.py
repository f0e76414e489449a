"""A channel on another grid, brought onto that of the first: `data.resample_channels`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from nibabel.nifti1 import Nifti1Image
from nibabel.processing import resample_from_to

from segfocal.data.cases import Case, naming
from segfocal.data.grids import AFFINE_TOLERANCE_MM, corner_displacement_mm
from segfocal.data.nifti import Volume, read_image
from segfocal.data.nifti_header import MAX_VOXELS
from segfocal.errors import UserError


def read_on_first_grid(
    case: Case,
    channels: Sequence[int] | None = None,
    *,
    affine_tolerance_mm: float = AFFINE_TOLERANCE_MM,
    max_voxels: int = MAX_VOXELS,
) -> Volume:
    """The image of a case whose channel files may lie on other grids than the first.

    A channel that lies on the first file's voxels is read as it is. Another is interpolated
    linearly at their centres (`nibabel.processing.resample_from_to`, order 1, nothing smoothed
    before); where a centre lies beyond those of the channel's outermost voxels it gets the
    channel's smallest value (ITK repeats the edge for half a voxel).

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
        moved = resample_from_to(
            Nifti1Image(here, volume.affine), (shape, first.affine), order=1, cval=here.min()
        )
        channel[...] = np.asanyarray(moved.dataobj)
    return Volume(data, first.affine, first.zooms, first.header)


def _same(first: Volume, other: Volume, tolerance_mm: float) -> bool:
    shape = first.data.shape[1:]
    if other.data.shape[1:] != shape:
        return False
    apart = corner_displacement_mm(first.affine, other.affine, shape)
    return float(np.linalg.norm(apart)) <= tolerance_mm
