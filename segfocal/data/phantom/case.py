"""One phantom case: its traits, its voxels on a RAS grid, and the orientation it is stored in."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import numpy.typing as npt

from segfocal.data.phantom.acquisition import acquire
from segfocal.data.phantom.anatomy import build_anatomy
from segfocal.data.phantom.geometry import Grid, Volume
from segfocal.data.phantom.lesions import displace, draw_lesions, plan_lesions

IGNORED = 255
ORIENTATIONS = ("RAS", "LPS", "LAS", "RAS", "PIR")
"""Axis codes of the stored arrays, by case index; the fourth of each five is oblique as well."""


@dataclass(frozen=True)
class Traits:
    """What is special about a case. A function of its index alone, so every set has each kind.

    Attributes:
        orientation: Axis codes of the stored array.
        oblique_deg: Tilt of the slices about the left-right axis.
        anisotropic: Thick slices.
        tumour: False for a case without any lesion.
        enhancing: False for lesions without enhancing tumour.
        ignore_slab: Some slices nobody annotated.
    """

    orientation: str
    oblique_deg: float
    anisotropic: bool
    tumour: bool
    enhancing: bool
    ignore_slab: bool

    @classmethod
    def of(cls, index: int) -> Traits:
        """The traits of the case with this index, 0 for the first."""
        return cls(
            orientation=ORIENTATIONS[index % 5],
            oblique_deg=12.5 if index % 5 == 3 else 0.0,
            anisotropic=index == 7,
            tumour=index != 9,
            enhancing=index % 6 != 5,
            ignore_slab=index % 4 == 2,
        )


@dataclass(frozen=True)
class PhantomCase:
    """Voxels and affine as they are stored.

    Attributes:
        image: `(X, Y, Z, 4)` int16, exactly 0 outside the brain.
        label: `(X, Y, Z)` uint8 values of MSD Task01, 255 where nobody annotated.
        affine: `(4, 4)` voxel to RAS+ millimetres.
    """

    image: npt.NDArray[np.int16]
    label: npt.NDArray[np.uint8]
    affine: npt.NDArray[np.float64]


def case_generator(seed: int, name: str) -> np.random.Generator:
    """The generator of one case: a hash of (seed, name), so no two cases share a stream."""
    digest = hashlib.blake2b(f"segfocal phantom {seed} {name}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def build_case(
    traits: Traits, rng: np.random.Generator, shape: tuple[int, int, int]
) -> PhantomCase:
    """Draw one case.

    Args:
        traits: What is special about it.
        rng: Its own generator.
        shape: Voxels along right, anterior, superior (before thick slices and reorientation).
    """
    grid = _grid(traits, shape)
    here = grid.coordinates()
    scale = rng.uniform(0.94, 1.02, 3) * 0.985
    at = _head_space(here, scale, rng)
    plans = plan_lesions(rng, grid.voxel_mm, enhancing=traits.enhancing) if traits.tumour else ()
    anatomy = build_anatomy(grid, displace(at, plans), rng)
    lesions = draw_lesions(grid, at, anatomy, plans, rng)
    image = acquire(grid, anatomy, lesions, rng)
    label = lesions.classes.copy()
    if traits.ignore_slab:
        thickness = max(2, grid.shape[2] // 12)
        start = int(rng.uniform(0.3, 0.75) * grid.shape[2])
        label[:, :, start : start + thickness] = IGNORED
    return _store(np.moveaxis(image, 0, -1), label, grid, traits, rng)


def _grid(traits: Traits, shape: tuple[int, int, int]) -> Grid:
    if not traits.anisotropic:
        return Grid.isotropic(shape)
    edge = Grid.isotropic(shape).zooms_mm[0]
    thick = (round(shape[0] * 1.2), round(shape[1] * 1.2), round(shape[2] * 0.65))
    return Grid(thick, (edge / 1.2, edge / 1.2, edge / 0.65))


def _head_space(here: Volume, scale: npt.NDArray[np.float64], rng: np.random.Generator) -> Volume:
    """Coordinates in the brain's own space: a small head tilt, then the brain's size."""
    turn = np.eye(3)
    for axis, limit_deg in enumerate((4.0, 3.0, 5.0)):
        turn = turn @ _rotation(axis, float(rng.uniform(-limit_deg, limit_deg)))
    moved = np.tensordot(turn / scale[:, None], here, 1)
    return np.asarray(moved, dtype=np.float32)


def _rotation(axis: int, angle_deg: float) -> npt.NDArray[np.float64]:
    cos, sin = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    turn = np.eye(3)
    first, second = [a for a in range(3) if a != axis]
    turn[first, first] = turn[second, second] = cos
    turn[first, second], turn[second, first] = -sin, sin
    return turn


def _store(
    image: npt.NDArray[np.int16],
    label: npt.NDArray[np.uint8],
    grid: Grid,
    traits: Traits,
    rng: np.random.Generator,
) -> PhantomCase:
    """Turn RAS voxels into the stored orientation, with the affine that says so."""
    direction = _rotation(0, traits.oblique_deg) @ np.diag(grid.zooms_mm)
    centre = (np.asarray(grid.shape) - 1) / 2
    affine = np.eye(4)
    affine[:3, :3] = direction
    affine[:3, 3] = rng.uniform(-15, 15, 3) - direction @ centre
    wanted = nib.orientations.axcodes2ornt(tuple(traits.orientation))
    change = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), wanted)
    return PhantomCase(
        np.ascontiguousarray(nib.orientations.apply_orientation(image, change)),
        np.ascontiguousarray(nib.orientations.apply_orientation(label, change)),
        affine @ nib.orientations.inv_ornt_aff(change, grid.shape),
    )
