"""Where a case's lesions are: nested oedema, core and enhancing rim, satellites of ~10 voxels.

Class indices are those of MSD Task01: 1 oedema, 2 non-enhancing, 3 enhancing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from segfocal.data.phantom.anatomy import LATERAL_VENTRICLE, Anatomy
from segfocal.data.phantom.geometry import Grid, Points, Volume, polyline_distance

OEDEMA, NON_ENHANCING, ENHANCING = 1, 2, 3


@dataclass(frozen=True)
class LesionPlan:
    """One lesion before it is drawn.

    Attributes:
        centre_mm: Its centre, `(3,)`.
        oedema_mm: Radius of the whole lesion; 0 for a satellite.
        core_mm: Radius of the core; 0 for a satellite.
        rim_mm: Mean thickness of the enhancing rim; 0 where nothing enhances.
        num_voxels: Size of a satellite in voxels; 0 for the others.
    """

    centre_mm: npt.NDArray[np.float64]
    oedema_mm: float
    core_mm: float
    rim_mm: float
    num_voxels: int = 0


@dataclass(frozen=True)
class Lesions:
    """The drawn lesions of a case.

    Attributes:
        classes: uint8 class indices `(*S)`.
        oedema: How much of each oedema voxel is swollen, 0 .. 1 (fades at the margin).
        vigour: Relative brightness of the enhancement per voxel.
    """

    classes: npt.NDArray[np.uint8]
    oedema: Volume
    vigour: Volume


def plan_lesions(
    rng: np.random.Generator, voxel_mm: float, *, enhancing: bool
) -> tuple[LesionPlan, ...]:
    """1 to 5 lesions: a large one, then smaller ones and satellites, none in another's core."""
    number = int(rng.choice([1, 2, 3, 4, 5], p=[0.2, 0.25, 0.25, 0.2, 0.1]))
    plans: list[LesionPlan] = []
    for index in range(number):
        if index and rng.random() < 0.65:
            size = {"oedema_mm": 0.0, "core_mm": 0.0, "num_voxels": int(rng.integers(8, 14))}
            rim = voxel_mm if enhancing else 0.0
        else:
            whole = rng.uniform(20, 32) if index == 0 else rng.uniform(10, 16)
            core = whole * rng.uniform(0.55, 0.72)
            size = {"oedema_mm": whole, "core_mm": core, "num_voxels": 0}
            rim = rng.uniform(5.0, 7.5) if enhancing else 0.0
        reach = max(size["core_mm"], 5.0)
        centre = _free_place(rng, plans, reach, max(size["oedema_mm"], 4.0))
        if centre is not None:
            plans.append(LesionPlan(centre, rim_mm=rim, **size))  # type: ignore[arg-type]
    return tuple(plans)


def _free_place(
    rng: np.random.Generator, plans: list[LesionPlan], reach: float, whole: float
) -> npt.NDArray[np.float64] | None:
    """A centre in the cerebrum's white matter, away from ventricles and other cores."""
    horns: Points = LATERAL_VENTRICLE
    for _ in range(200):
        unit = rng.uniform(-1, 1, 3)
        if unit @ unit > 1:
            continue
        centre = unit * np.array([48.0, 60.0, 36.0]) + np.array([0.0, 0.0, 14.0])
        if abs(centre[0]) < 12 + 0.3 * whole:
            continue
        mirrored = np.abs(centre[0]), centre[1], centre[2]
        gap, _ = polyline_distance(np.array(mirrored, np.float32).reshape(3, 1, 1, 1), horns)
        if float(gap.item()) < 10 + 0.4 * reach:
            continue
        apart = [np.linalg.norm(centre - p.centre_mm) - max(p.core_mm, 5.0) - reach for p in plans]
        if all(distance > 9 for distance in apart):
            return np.asarray(centre, dtype=np.float64)
    return None


def displace(at: Volume, plans: tuple[LesionPlan, ...]) -> Volume:
    """Mass effect: where the tissue at each voxel lay before the large lesions pushed it."""
    shifted = at
    for plan in plans:
        if plan.core_mm < 8:
            continue
        offset = at - plan.centre_mm.astype(np.float32)[:, None, None, None]
        square = (offset**2).sum(0) / (2 * (1.3 * plan.core_mm) ** 2)
        shifted = shifted - 0.3 * np.exp(-square) * offset
    return shifted.astype(np.float32)


def draw_lesions(
    grid: Grid,
    at: Volume,
    anatomy: Anatomy,
    plans: tuple[LesionPlan, ...],
    rng: np.random.Generator,
) -> Lesions:
    """Rasterise the plans on the grid, inside the brain and outside its fluid."""
    classes = np.zeros(grid.shape, dtype=np.uint8)
    oedema = np.zeros(grid.shape, dtype=np.float32)
    vigour = np.ones(grid.shape, dtype=np.float32)
    if not plans:
        return Lesions(classes, oedema, vigour)
    room = anatomy.brain & (anatomy.depth_mm > 1.5) & (anatomy.csf < 0.6)
    lumps, fine = grid.noise(rng, 9.0), grid.noise(rng, 4.0)
    texture = grid.noise(rng, 3.0)
    for plan in plans:
        radius = np.sqrt(
            ((at - plan.centre_mm.astype(np.float32)[:, None, None, None]) ** 2).sum(0)
        )
        if plan.num_voxels:
            here = _nearest_voxels(radius + 0.8 * fine, room & (classes == 0), plan.num_voxels)
            classes[here] = ENHANCING if plan.rim_mm else NON_ENHANCING
            vigour[here] = rng.uniform(0.85, 1.15)
            continue
        spread = anatomy.white - 0.5
        whole = plan.oedema_mm * (1 + 0.22 * lumps + 0.10 * fine + 0.25 * spread) - radius
        core = plan.core_mm * (1 + 0.16 * lumps + 0.10 * fine) - radius
        swollen = _largest(room & (whole > 0))
        inner = _largest(anatomy.brain & (anatomy.depth_mm > 1.5) & (core > 0))
        thickness = plan.rim_mm * np.clip(1 + 0.45 * texture, 0.45, 1.6)
        rim = inner & (core < thickness) & (lumps > -1.5) & bool(plan.rim_mm)
        classes[swollen & (classes == 0)] = OEDEMA
        fade = np.clip(whole / 7.0 + 0.35, 0, 1)
        oedema = np.where(swollen, np.maximum(oedema, fade), oedema)
        classes[inner] = NON_ENHANCING
        classes[rim] = ENHANCING
        vigour[inner] = rng.uniform(0.8, 1.1)
    vigour = vigour * (1 + 0.10 * texture)
    return Lesions(classes, oedema.astype(np.float32), vigour.astype(np.float32))


def _nearest_voxels(
    distance: Volume, room: npt.NDArray[np.bool_], number: int
) -> tuple[npt.NDArray[np.intp], ...]:
    """Indices of the `number` voxels of `room` with the least `distance`."""
    ranked = np.where(room, distance, np.inf).ravel()
    nearest = np.argpartition(ranked, number)[:number]
    return tuple(np.unravel_index(nearest, distance.shape))


def _largest(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The largest 26-connected component of a mask."""
    parts, number = ndimage.label(mask, np.ones((3, 3, 3)))
    if number < 2:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray(parts == sizes.argmax())
