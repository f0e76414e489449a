"""Whether two files lie on the same voxels, told in millimetres."""

from __future__ import annotations

import itertools

import numpy as np
from nibabel.orientations import aff2axcodes

from segfocal.data.defects import DefectError
from segfocal.data.nifti_header import Affine, times

Shape = tuple[int, ...]

AFFINE_TOLERANCE_MM = 0.1
"""Largest distance between corners that is taken for rounding in a header."""

_DOMINANT = 0.99
"""Share of a displacement along one world axis above which the message names the axis."""


def corner_displacement_mm(one: Affine, other: Affine, shape: tuple[int, ...]) -> Affine:
    """How far the corner voxel that moves most is apart under two affines.

    Args:
        one: Voxel indices to world coordinates in mm, `(4, 4)`.
        other: The same of the other file.
        shape: Axis lengths `(X, Y, Z)`.

    Returns:
        World displacement (x, y, z) in mm, `(3,)`.

    Example:
        >>> moved = np.eye(4)
        >>> moved[2, 3] = 1.5
        >>> corner_displacement_mm(np.eye(4), moved, (10, 10, 10)).tolist()
        [0.0, 0.0, 1.5]
    """
    corners = np.array(list(itertools.product(*((0, length - 1) for length in shape))))
    moved = corners @ (other - one)[:3, :3].T + (other - one)[:3, 3]
    largest: Affine = moved[np.argmax(np.linalg.norm(moved, axis=1))]
    return largest


def apart_mm(displacement: Affine) -> str:
    """A displacement in words: `1.5 mm in z`, or `up to 3.2 mm` where no world axis dominates.

    Example:
        >>> apart_mm(np.array([0.0, 0.0, -1.5])), apart_mm(np.array([1.0, 2.0, 2.0]))
        ('1.5 mm in z', 'up to 3 mm')
    """
    along = np.abs(displacement)
    distance = float(np.linalg.norm(along))
    axis = int(np.argmax(along))
    if along[axis] >= _DOMINANT * distance:
        return f"{distance:.3g} mm in {'xyz'[axis]}"
    return f"up to {distance:.3g} mm"


def check_same_grid(
    names: tuple[str, str],
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    affines: tuple[Affine, Affine],
    tolerance_mm: float = AFFINE_TOLERANCE_MM,
) -> None:
    """Refuses two volumes whose voxels do not coincide.

    Args:
        names: What to call the two in the message (`image`, `label`).
        shapes: Axis lengths `(X, Y, Z)` of each.
        affines: Voxel indices to world coordinates of each.
        tolerance_mm: Largest distance between corners that is taken for rounding.

    Raises:
        DefectError: If the shapes differ, or a corner moves by more than `tolerance_mm`.
    """
    if shapes[0] != shapes[1]:
        raise DefectError(
            f"{names[0]} is {times(shapes[0])}, {names[1]} is {times(shapes[1])}. "
            f"Resample one onto the other's grid, or check that they belong together.",
            "shape",
        )
    displacement = corner_displacement_mm(*affines, shapes[0])
    if float(np.linalg.norm(displacement)) <= tolerance_mm:
        return
    apart = apart_mm(displacement)
    codes = ["".join(code or "?" for code in aff2axcodes(affine)) for affine in affines]
    turned = f" ({names[0]} is {codes[0]}, {names[1]} {codes[1]})" if codes[0] != codes[1] else ""
    raise DefectError(
        f"{names[0]} and {names[1]} affines differ by {apart}{turned}. Resample one onto the "
        f"other's grid, or mend the header that is wrong (data.affine_tolerance_mm is "
        f"{tolerance_mm:g}).",
        "affine",
    )


def check_overlap(
    names: tuple[str, str], shapes: tuple[Shape, Shape], affines: tuple[Affine, Affine]
) -> None:
    """Refuses a channel whose field of view does not touch the first channel's.

    Args:
        names: What to call the two in the message.
        shapes: Axis lengths `(X, Y, Z)` of each.
        affines: Voxel indices to world coordinates of each.

    Raises:
        DefectError: If the boxes round the two volumes, in world coordinates, do not overlap.
    """
    boxes = [_box(shape, affine) for shape, affine in zip(shapes, affines, strict=True)]
    low = np.maximum(boxes[0][0], boxes[1][0])
    high = np.minimum(boxes[0][1], boxes[1][1])
    if np.any(low >= high):
        axis = "xyz"[int(np.argmax(low - high))]
        raise DefectError(
            f"{names[0]} and {names[1]} do not overlap in {axis}: nothing to resample. Check that "
            f"they belong together.",
            "affine",
        )


def _box(shape: Shape, affine: Affine) -> tuple[Affine, Affine]:
    ends = [(-0.5, length - 0.5) for length in shape]
    corners = np.array(list(itertools.product(*ends))) @ affine[:3, :3].T + affine[:3, 3]
    return corners.min(axis=0), corners.max(axis=0)
