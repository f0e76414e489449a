"""From the grid a network works on back to the one before resampling, a few planes at a time.

MONAI's own inverse resamples all K probabilities of the whole volume at once. Where the two grids
differ in spacing alone, as they do unless a scanner's axes are sheared, the same numbers come from
linear interpolation along one axis after the other, and need no more than the planes they lie
between.

Shapes: K outputs, S spatial.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from monai.data.meta_tensor import MetaTensor
from torch import Tensor

from segfocal.inference.sliding_window import Slab

_TOLERANCE = 1e-3
"""How far from the identity a matrix of indices may be, as MONAI has it."""


class Resampling(NamedTuple):
    """What brings a volume from the network's grid to the one before resampling.

    Attributes:
        affine: Voxel to millimetres before, `(4, 4)`.
        positions: For each axis, where the voxels before lie, in voxels of the network's grid. What
            lies outside is moved to the edge.
        is_sheared: Whether positions along an axis depend on the others too, so that these do not
            tell it all.
    """

    affine: Tensor
    positions: tuple[Tensor, ...]
    is_sheared: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape before."""
        return tuple(len(positions) for positions in self.positions)


def resampling_of(image: MetaTensor) -> Resampling | None:
    """How a preprocessed image `(C, *S)` was resampled; None if it was not."""
    last = image.applied_operations[-1] if image.applied_operations else {}
    if last.get("class") != "SpatialResample":
        return None
    affine = torch.as_tensor(last["extra_info"]["src_affine"], dtype=torch.float64)
    matrix = torch.linalg.solve(torch.as_tensor(image.affine, dtype=torch.float64), affine)
    shape, now = [int(size) for size in last["orig_size"]], list(image.shape[1:])
    identity = torch.eye(len(matrix), dtype=torch.float64)
    if shape == now and torch.allclose(matrix, identity, rtol=0, atol=_TOLERANCE):
        return None
    scale, offset = matrix.diagonal()[:-1], matrix[:-1, -1]
    shear = (matrix[:-1, :-1] - scale.diag()).abs() @ torch.tensor(shape).double()
    return Resampling(
        affine=affine,
        positions=tuple(
            (torch.arange(size).double() * scale[axis] + offset[axis]).clamp(0, now[axis] - 1)
            for axis, size in enumerate(shape)
        ),
        is_sheared=bool(shear.max() > _TOLERANCE),
    )


def resampled(
    slabs: Iterable[Slab], resampling: Resampling, *, axis: int, most_planes: int
) -> Iterator[Slab]:
    """Slabs of the network's grid as slabs of the grid before resampling, linearly interpolated.

    Args:
        slabs: All of a volume in order along `axis`.
        resampling: Not sheared.
        axis: Of the slabs.
        most_planes: Planes that come out at once.
    """
    along = resampling.positions[axis]
    held: Tensor | None = None
    first = done = 0
    for start, values in slabs:
        held = values if held is None else torch.cat([held, values], axis + 1)
        last = start + values.shape[axis + 1] - 1
        ready = int(torch.searchsorted(along, float(last), right=True))
        while done < ready:
            stop = min(done + most_planes, ready)
            planes = _interpolated(held, axis, along[done:stop] - first)
            for other, positions in enumerate(resampling.positions):
                if other != axis:
                    planes = _interpolated(planes, other, positions)
            yield Slab(done, planes)
            done = stop
        held = held.narrow(axis + 1, last - first, 1)
        first = last


def _interpolated(values: Tensor, axis: int, positions: Tensor) -> Tensor:
    """Values `(K, *S)` between the voxels of one spatial axis."""
    dim = axis + 1
    below = positions.floor().long()
    above = (below + 1).clamp(max=values.shape[dim] - 1)
    weight = (positions - below).to(values).view(-1, *(1,) * (values.ndim - dim - 1))
    below, above = below.to(values.device), above.to(values.device)
    return torch.lerp(values.index_select(dim, below), values.index_select(dim, above), weight)
