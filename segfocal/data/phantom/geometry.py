"""The voxel grid of one case in millimetres, and smooth random fields on it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Volume = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]

HEAD_MM = (154.0, 184.0, 136.0)
"""Field of view that holds the brain: left-right, back-front, bottom-top."""


@dataclass(frozen=True)
class Grid:
    """A RAS+ grid whose centre is the brain's centre.

    Attributes:
        shape: Voxels along right, anterior, superior.
        zooms_mm: Voxel edge lengths in mm.
    """

    shape: tuple[int, int, int]
    zooms_mm: tuple[float, float, float]

    @classmethod
    def isotropic(cls, shape: tuple[int, int, int]) -> Grid:
        """The grid of `shape` with the smallest cubic voxel at which the whole brain fits."""
        edge = max(extent / size for extent, size in zip(HEAD_MM, shape, strict=True))
        return cls(shape, (edge, edge, edge))

    @property
    def voxel_mm(self) -> float:
        """Edge of the cube with a voxel's volume, in mm."""
        return float(np.prod(self.zooms_mm) ** (1 / 3))

    def coordinates(self) -> Volume:
        """Voxel centres in mm, `(3, *shape)`, the grid's centre at the origin."""
        axes = [
            (np.arange(size, dtype=np.float32) - (size - 1) / 2) * zoom
            for size, zoom in zip(self.shape, self.zooms_mm, strict=True)
        ]
        return np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)

    def blur(self, field: Volume, sigma_mm: float) -> Volume:
        """Gaussian blur with a width in mm."""
        sigma = [sigma_mm / zoom for zoom in self.zooms_mm]
        blurred: Volume = ndimage.gaussian_filter(field, sigma, truncate=3.0)
        return blurred

    def noise(self, rng: np.random.Generator, scale_mm: float) -> Volume:
        """A smooth random field of mean 0, standard deviation 1 and correlation `scale_mm`."""
        field = self.blur(rng.standard_normal(self.shape, dtype=np.float32), scale_mm)
        field -= field.mean()
        return np.asarray(field / field.std(), dtype=np.float32)

    def slow_noise(self, rng: np.random.Generator, num_waves: int = 3) -> Volume:
        """A random field of the lowest cosine waves of each axis, scaled to -1 .. 1."""
        field = rng.standard_normal((num_waves,) * 3)
        for axis, size in enumerate(self.shape):
            phase = np.pi * (np.arange(size) + 0.5) / size
            waves = np.cos(np.outer(phase, np.arange(num_waves)))
            field = np.moveaxis(np.tensordot(waves, field, (1, axis)), 0, axis)
        field -= field.mean()
        return np.asarray(field / np.abs(field).max(), dtype=np.float32)


def ellipsoid_depth(at: Volume, centre: tuple[float, ...], radii: tuple[float, ...]) -> Volume:
    """Approximate distance in mm to an ellipsoid's surface, positive inside.

    Exact on a sphere's surface and to first order near any ellipsoid's (q(1-q)/|grad q^2|/2).
    """
    offset = [at[axis] - centre[axis] for axis in range(3)]
    squares = sum((o / r) ** 2 for o, r in zip(offset, radii, strict=True))
    slopes = sum((o / r**2) ** 2 for o, r in zip(offset, radii, strict=True))
    q = np.sqrt(np.asarray(squares, dtype=np.float32))
    return np.asarray(
        q * (1 - q) / np.maximum(np.sqrt(slopes), 1e-4) + (q < 1e-3) * min(radii), dtype=np.float32
    )


def polyline_distance(at: Volume, points: Points) -> tuple[Volume, Volume]:
    """Distance in mm to a polyline and the position along it.

    Args:
        at: `(3, *S)` in mm.
        points: `(N, 3)` in mm.

    Returns:
        Distance `(*S)`, and the nearest place `(*S)` as a fraction 0 .. 1 of the points.
    """
    distance = np.full(at.shape[1:], np.inf, dtype=np.float32)
    place = np.zeros_like(distance)
    num_segments = len(points) - 1
    for index, (start, end) in enumerate(pairwise(points)):
        along = (end - start).astype(np.float32)
        offset = at - start.astype(np.float32)[:, None, None, None]
        fraction = np.clip(np.tensordot(along, offset, 1) / float(along @ along), 0, 1)
        gap = offset - along[:, None, None, None] * fraction
        here = np.sqrt((gap**2).sum(0))
        nearer = here < distance
        distance = np.where(nearer, here, distance)
        place = np.where(nearer, (index + fraction) / num_segments, place)
    return distance, place


def inside(depth_mm: Volume, edge_mm: float) -> Volume:
    """Fraction of a voxel inside a surface that lies `depth_mm` away: a ramp one voxel wide."""
    return np.asarray(np.clip(0.5 + depth_mm / edge_mm, 0, 1), dtype=np.float32)
