"""The lesion-wise scores of BraTS 2023: each lesion scored by itself, false islands as zeros."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from segfocal.metrics.bounding_box import bounding_box
from segfocal.metrics.lesionwise import (
    Labels,
    Lesion,
    LesionMatch,
    component_centres,
    islands_of,
)
from segfocal.metrics.overlap import Mask, as_masks
from segfocal.metrics.surface_elements import hd95_of_elements
from segfocal.metrics.voxel_size import (
    HEADER_ROUNDING,
    Millimetres,
    VoxelSize,
    voxel_edges,
    voxel_volume,
)

HD95_PENALTY_MM = 374.0
"""HD95 of a missed lesion and of a false island: the diagonal of BraTS' 240x240x155 mm."""

_TOUCHING = np.ones((3, 3, 3), dtype=np.bool_)
_GROWING = ndimage.generate_binary_structure(3, 2)


@dataclass(frozen=True)
class BratsRules:
    """What differs between the challenges.

    Attributes:
        dilations: Times that the reference is dilated before its lesions are told apart.
        max_left_out_mm3: Lesions up to this volume are not scored.
    """

    dilations: int
    max_left_out_mm3: float


BRATS_RULES: Mapping[str, BratsRules] = {
    "brats-gli": BratsRules(dilations=3, max_left_out_mm3=50),
    "brats-met": BratsRules(dilations=1, max_left_out_mm3=2),
}
"""Glioma (as sub-Saharan Africa and paediatrics) and metastases."""


@dataclass(frozen=True)
class BratsScore:
    """One region of one case.

    Attributes:
        dice: Sum of the scored lesions' Dice over (scored lesions + false islands).
        hd95_mm: The same of HD95, in which a false island counts `HD95_PENALTY_MM`.
        match: The lesions and the false islands.
    """

    dice: float
    hd95_mm: float
    match: LesionMatch

    @property
    def is_nothing(self) -> bool:
        """Whether there was neither a lesion to score nor a false island: 1 and 0 mm by rule."""
        counts = self.match.counts
        return counts.lesions + counts.false_positives == 0


def score_brats_lesions(
    pred: Mask,
    ref: Mask,
    spacing_mm: VoxelSize,
    rules: BratsRules,
    valid: Mask | None = None,
) -> BratsScore:
    """Lesion-wise Dice and HD95 of one region.

    Lesions whose dilations touch are one. A lesion is matched to every predicted component
    (26-connected) that its dilation overlaps, each of them whole; it is found if there is one. What
    is matched to no lesion, be it too small to be scored, is a false island, however small.

    Args:
        pred: Predicted mask `(X, Y, Z)`, bool.
        ref: Reference mask of the same shape, bool.
        spacing_mm: Edge length of a voxel along each axis; where axes are sheared, its edges as the
            columns of `(3, 3)`.
        rules: One of `BRATS_RULES`.
        valid: True where the reference is known, same shape; None for everywhere. What is not
            valid leaves both masks.

    Returns:
        The scores; 1 and 0 mm where there is nothing to score.

    Raises:
        ValueError: If the shapes differ, an array is not boolean, or `spacing_mm` is none.

    Reference:
        https://github.com/rachitsaluja/BraTS-2023-Metrics
    """
    pred, ref, valid = as_masks(pred, ref, valid)
    edges = voxel_edges(spacing_mm, ref.ndim)
    if valid is not None:
        pred, ref = pred & valid, ref & valid
    # as much room as a dilation takes: in the box it is what it is in the volume
    box = bounding_box(pred | ref, margin=rules.dilations)
    if box is None:
        return _summed(LesionMatch((), ()))
    pred, ref = pred[box], ref[box]
    corner = [axis.start for axis in box]
    grown, num_lesions = ndimage.label(
        ndimage.binary_dilation(ref, _GROWING, iterations=rules.dilations), _TOUCHING
    )
    islands, num_islands = ndimage.label(pred, _TOUCHING)
    matched = _matched(grown, islands, num_lesions)
    centres = component_centres(np.where(ref, grown, 0), range(1, num_lesions + 1), corner)
    lesion_boxes, island_boxes = ndimage.find_objects(grown), ndimage.find_objects(islands)
    lesions = []
    for index, centre in enumerate(centres, start=1):
        own = matched[index]
        near = _union([lesion_boxes[index - 1], *(island_boxes[island - 1] for island in own)])
        lesion = (grown[near] == index) & ref[near]
        lesions.append(_score_lesion(lesion, np.isin(islands[near], own), edges, centre, rules))
    every = set(range(1, num_islands + 1))
    unmatched = sorted(every.difference(*matched.values()))
    return _summed(LesionMatch(tuple(lesions), islands_of(islands, unmatched, corner)))


def _matched(grown: Labels, islands: Labels, num_lesions: int) -> dict[int, list[int]]:
    """For each lesion, the islands that its dilation overlaps."""
    both = (grown > 0) & (islands > 0)
    found: dict[int, list[int]] = {index: [] for index in range(1, num_lesions + 1)}
    for lesion, island in np.unique(np.stack([grown[both], islands[both]], axis=1), axis=0):
        found[int(lesion)].append(int(island))
    return found


def _union(boxes: Sequence[tuple[slice, ...]]) -> tuple[slice, ...]:
    """The smallest box that holds them all."""
    return tuple(
        slice(min(box[axis].start for box in boxes), max(box[axis].stop for box in boxes))
        for axis in range(len(boxes[0]))
    )


def _score_lesion(
    lesion: Mask,
    matched: Mask,
    edges: Millimetres,
    centre: tuple[float, ...],
    rules: BratsRules,
) -> Lesion:
    voxels, predicted = int(np.count_nonzero(lesion)), int(np.count_nonzero(matched))
    overlap = int(np.count_nonzero(lesion & matched))
    hd95_mm = hd95_of_elements(matched, lesion, edges)
    return Lesion(
        voxels,
        centre,
        overlap / voxels,
        found=predicted > 0,
        scored=voxels * voxel_volume(edges) > rules.max_left_out_mm3 * (1 + HEADER_ROUNDING),
        dice=2 * overlap / (voxels + predicted),
        hd95_mm=HD95_PENALTY_MM if math.isinf(hd95_mm) else hd95_mm,
    )


def _summed(match: LesionMatch) -> BratsScore:
    scored = [lesion for lesion in match.lesions if lesion.scored]
    false = len(match.false_positives)
    if not scored and not false:
        return BratsScore(1.0, 0.0, match)
    total = len(scored) + false
    return BratsScore(
        sum(lesion.dice for lesion in scored) / total,
        (sum(lesion.hd95_mm for lesion in scored) + false * HD95_PENALTY_MM) / total,
        match,
    )
