"""The healthy brain of a case: tissue fractions, and what a careless threshold takes for a lesion.

Millimetres in RAS+ from the brain's centre. Sizes are those of an adult brain, rounded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segfocal.data.phantom.geometry import (
    Grid,
    Mask,
    Points,
    Volume,
    ellipsoid_depth,
    inside,
    polyline_distance,
)

LATERAL_VENTRICLE: Points = np.array(
    [[9, 34, 4], [10, 20, 14], [14, -6, 21], [23, -28, 14], [29, -22, -2], [32, -4, -14]], float
)
"""Frontal horn, body, atrium, temporal horn of the right side; x is mirrored for the left."""

OCCIPITAL_HORN: Points = np.array([[23, -28, 14], [22, -52, 8]], float)
SULCUS_DEPTH_MM = 13.0
CORTEX_MM = 3.6


@dataclass(frozen=True)
class Anatomy:
    """Fractions 0 .. 1 per voxel of one brain.

    Attributes:
        brain: Inside the skull-stripping mask.
        depth_mm: Distance from the brain's outer surface, positive inside.
        csf: Cerebrospinal fluid: sulci, fissures, ventricles.
        grey: Cortex and deep nuclei.
        white: White matter.
        ventricle_mm: Distance from the lateral ventricles' walls, negative inside.
        vessels: Contrast-filled vessels: bright on T1gd, labelled nowhere.
        plexus: Choroid plexus: bright on T1gd, FLAIR and T2w as a tumour is, labelled nowhere.
        caps: Hyperintensity round the ventricles and in spots: bright on FLAIR, labelled nowhere.
    """

    brain: Mask
    depth_mm: Volume
    csf: Volume
    grey: Volume
    white: Volume
    ventricle_mm: Volume
    vessels: Volume
    plexus: Volume
    caps: Volume


def build_anatomy(grid: Grid, at: Volume, rng: np.random.Generator) -> Anatomy:
    """One random brain.

    Args:
        grid: The case's voxel grid.
        at: `(3, *shape)` where each voxel lies in the brain's own space, in mm (already scaled,
            tilted and displaced by lesions).
        rng: The case's generator.
    """
    edge = grid.voxel_mm
    wobble = np.stack([grid.noise(rng, 14.0) for _ in range(3)])
    at = at + 2.0 * wobble
    cerebrum, cerebellum, stem = _lobes(at)
    depth = np.maximum(np.maximum(cerebrum, cerebellum), stem)
    brain = depth > -1.0

    pial = _pial_depth(grid, at, cerebrum, rng)
    folia = np.abs(np.sin((at[2] * 0.9 + at[1] * 0.35) / 2.6 + wobble[0])) * 2.2
    pial = np.where(cerebellum > cerebrum, np.minimum(cerebellum, folia + cerebellum * 0.35), pial)
    pial = np.where(stem > np.maximum(cerebrum, cerebellum), stem + CORTEX_MM, pial)

    ventricle = _ventricle_distance(at, rng)
    outer_fluid = inside(0.9 - pial, edge)
    inner_fluid = np.maximum(inside(-ventricle, edge), _third_ventricle(at, edge))
    csf = np.maximum(outer_fluid, inner_fluid)
    nuclei = inside(_deep_nuclei(at), edge) * 0.85
    cortex = inside(0.9 + CORTEX_MM - pial, edge)
    grey = np.maximum(cortex, nuclei) * (1 - csf)
    white = 1 - csf - grey
    return Anatomy(
        brain=brain,
        depth_mm=depth,
        csf=csf,
        grey=grey,
        white=white,
        ventricle_mm=ventricle,
        vessels=_vessels(grid, at, depth, rng),
        plexus=_plexus(at, ventricle, edge),
        caps=_caps(grid, ventricle, white, rng),
    )


def _lobes(at: Volume) -> tuple[Volume, Volume, Volume]:
    """Depth in mm within cerebrum, cerebellum and brain stem."""
    x, y, z = at
    narrowed = np.stack([x * (1 + 0.10 * y / 84 + 0.04 * z / 60), y, z])
    hull = ellipsoid_depth(narrowed, (0, 0, 2), (66, 84, 58))
    base = z + 17 + 9 * np.exp(-((x / 16) ** 2)) + 3 * np.sin(y / 17)
    upper = np.minimum(hull, base)
    temporal = np.maximum(
        ellipsoid_depth(at, (42, -4, -24), (23, 44, 24)),
        ellipsoid_depth(at, (-42, -4, -24), (23, 44, 24)),
    )
    frontal_base = ellipsoid_depth(at, (0, 46, -14), (34, 30, 16))
    cerebrum = np.maximum(np.maximum(upper, temporal), frontal_base)
    cerebellum = np.maximum(
        ellipsoid_depth(at, (21, -48, -40), (32, 31, 24)),
        ellipsoid_depth(at, (-21, -48, -40), (32, 31, 24)),
    )
    axis: Points = np.array([[0, -14, -8], [0, -18, -34], [0, -27, -90]], float)
    reach, place = polyline_distance(at, axis)
    stem = np.asarray(12 + 5 * np.sin(np.pi * place) - reach, dtype=np.float32)
    return cerebrum, cerebellum, stem


def _pial_depth(grid: Grid, at: Volume, cerebrum: Volume, rng: np.random.Generator) -> Volume:
    """Distance from the nearest fluid-covered surface: the outside, a sulcus, or the fissure.

    A sulcus is a sheet where a smooth random field crosses zero; sheets end `SULCUS_DEPTH_MM`
    below the surface.
    """
    x, y, z = at
    too_deep = np.maximum(cerebrum - SULCUS_DEPTH_MM, 0)
    field = grid.noise(rng, 5.0) + 0.15 * grid.noise(rng, 2.5)
    gradient = np.gradient(field, *grid.zooms_mm)
    steepness = np.sqrt(sum(g**2 for g in gradient))
    sulcus = np.abs(field) / np.maximum(steepness, 0.08) + 0.6 * too_deep
    callosum = np.clip(1 - ((y + 2) / 44) ** 2 - (z / 27) ** 2, 0, 1)
    fissure = np.abs(x) + 30 * callosum
    sylvian_plane = np.abs(0.8 * (z + 2) + 0.5 * (y - 4)) + np.maximum(34 - np.abs(x), 0)
    sylvian = sylvian_plane + np.maximum(np.abs(y - 2) - 22, 0)
    nearest = np.minimum(np.minimum(cerebrum, sulcus), np.minimum(fissure, sylvian))
    return np.asarray(nearest, dtype=np.float32)


def _ventricle_distance(at: Volume, rng: np.random.Generator) -> Volume:
    """Distance in mm from the wall of the lateral ventricles, negative inside."""
    swelling = rng.uniform(-0.8, 2.0)
    mirrored = at.copy()
    mirrored[0] = np.abs(at[0]) * (1 + 0.05 * np.sign(at[0]) * rng.uniform(-1, 1))
    main, place = polyline_distance(mirrored, LATERAL_VENTRICLE)
    horn, along = polyline_distance(mirrored, OCCIPITAL_HORN)
    radius = np.interp(place, [0, 0.2, 0.4, 0.6, 0.8, 1], [3.5, 5.5, 5.5, 7.0, 3.5, 2.0])
    radius = radius + swelling * (place < 0.75)
    return np.minimum(main - radius, horn - 4.5 + 3.0 * along).astype(np.float32)


def _third_ventricle(at: Volume, edge: float) -> Volume:
    return inside(ellipsoid_depth(at, (0, -4, 0), (2.4, 13, 11)), edge)


def _deep_nuclei(at: Volume) -> Volume:
    """Depth in mm within thalamus, caudate head and putamen of both sides."""
    mirrored = np.stack([np.abs(at[0]), at[1], at[2]])
    thalamus = ellipsoid_depth(mirrored, (11, -14, 5), (8, 14, 9))
    caudate = ellipsoid_depth(mirrored, (14, 18, 8), (5, 10, 9))
    putamen = ellipsoid_depth(mirrored, (27, 4, 2), (5.5, 16, 9))
    return np.asarray(np.maximum(np.maximum(thalamus, caudate), putamen), dtype=np.float32)


def _vessels(grid: Grid, at: Volume, depth: Volume, rng: np.random.Generator) -> Volume:
    """Venous sinus at the vertex, meandering vessels near the surface."""
    x, _, z = at
    sinus = inside(3.4 - np.hypot(x, np.maximum(depth - 2.0, 0)), grid.voxel_mm) * (z > 5)
    tubes = np.zeros(grid.shape, dtype=np.float32)
    candidates = np.argwhere((depth > 1.0) & (depth < 16.0))
    for _ in range(int(rng.integers(18, 29))):
        _draw_tube(tubes, grid, candidates[rng.integers(len(candidates))], rng)
    blurred = grid.blur(tubes, float(rng.uniform(1.2, 1.7)))
    tubes = np.clip(blurred / max(float(np.median(blurred[tubes > 0])), 1e-6), 0, 1)
    return np.asarray(np.maximum(sinus, tubes), dtype=np.float32)


def _plexus(at: Volume, ventricle: Volume, edge: float) -> Volume:
    """Choroid plexus in the atria of both lateral ventricles."""
    mirrored = np.stack([np.abs(at[0]), at[1], at[2]])
    glomus = inside(ellipsoid_depth(mirrored, (22, -28, 10), (5, 7, 6)), edge)
    return np.asarray(glomus * (ventricle < 0), dtype=np.float32)


def _draw_tube(canvas: Volume, grid: Grid, start: np.ndarray, rng: np.random.Generator) -> None:
    """Mark the voxels of one meandering vessel, 20 to 60 mm long, in `canvas`."""
    num_steps = int(rng.uniform(20, 60))
    heading = rng.standard_normal(3)
    turns = np.cumsum(rng.standard_normal((num_steps, 3)) * 0.22, axis=0) + heading
    turns /= np.linalg.norm(turns, axis=1, keepdims=True)
    path = start + np.cumsum(turns, axis=0) / np.asarray(grid.zooms_mm)
    voxels = np.round(path).astype(int)
    kept = voxels[((voxels >= 0) & (voxels < np.asarray(grid.shape))).all(1)]
    canvas[tuple(kept.T)] = 1


def _caps(grid: Grid, ventricle: Volume, white: Volume, rng: np.random.Generator) -> Volume:
    """Patchy rim of up to 6 mm round the ventricles, and a few spots in the white matter."""
    patchy = np.clip(0.5 + 0.6 * grid.noise(rng, 6.0), 0, 1)
    rim = np.clip(1.3 - np.abs(ventricle - 1.5) / rng.uniform(3.0, 6.0), 0, 1)
    spots = np.zeros(grid.shape, dtype=np.float32)
    deep = np.argwhere((white > 0.95) & (ventricle > 6))
    for place in deep[rng.integers(len(deep), size=int(rng.integers(2, 7)))]:
        spots[tuple(place)] = 1
    spots = grid.blur(spots, 2.0)
    spots = np.clip(1.5 * spots / max(float(spots.max()), 1e-6), 0, 1)
    caps = np.maximum(rim * patchy * rng.uniform(0.6, 1.0), spots * rng.uniform(0.6, 1.0))
    return np.asarray(caps, dtype=np.float32)
