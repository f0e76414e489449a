"""Everything that is measured of a predicted label map: overlap, surfaces, volumes, lesions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from segfocal.labels import IGNORE_CLASS, ClassMap
from segfocal.metrics.brats_lesionwise import BRATS_RULES, score_brats_lesions
from segfocal.metrics.case_score import NOT_ANNOTATED, RegionScore, region_masks
from segfocal.metrics.lesionwise import LesionMatch, match_lesions
from segfocal.metrics.overlap import Mask, dice
from segfocal.metrics.surface import UNDEFINED, SurfaceScore, surface_score
from segfocal.metrics.voxel_size import VoxelSize, voxel_edges, voxel_volume

LesionRules = Literal["plain", "brats-gli", "brats-met"]

LESION_RULES: tuple[LesionRules, ...] = ("plain", "brats-gli", "brats-met")
"""How lesions are told apart and matched: `match_lesions`, or BraTS 2023."""


@dataclass(frozen=True)
class Measures:
    """What to measure.

    Attributes:
        tolerance_mm: Distance up to which a surface voxel counts as right.
        lesions: How lesions are matched.
    """

    tolerance_mm: float = 2.0
    lesions: LesionRules = "plain"


@dataclass(frozen=True)
class RegionEvaluation:
    """One class or region of one case.

    Attributes:
        score: Dice, volumes and lesion counts; the counts by the rules that were asked for.
        surface: Distances of the surfaces.
        match: Every lesion and every false island.
        lesion_dice: BraTS' lesion-wise Dice; NaN by plain rules.
        lesion_hd95_mm: BraTS' lesion-wise HD95; NaN by plain rules.
    """

    score: RegionScore
    surface: SurfaceScore
    match: LesionMatch
    lesion_dice: float = math.nan
    lesion_hd95_mm: float = math.nan

    @property
    def presence(self) -> str:
        """`both`, `reference`, `prediction` or `neither` holds it; "" if not annotated."""
        if not self.score.annotated:
            return ""
        sides = (self.score.ref_voxels > 0, self.score.pred_voxels > 0)
        return {
            (True, True): "both",
            (True, False): "reference",
            (False, True): "prediction",
            (False, False): "neither",
        }[sides]


UNSCORED = RegionEvaluation(NOT_ANNOTATED, UNDEFINED, LesionMatch((), ()))
"""The evaluation of a region that nobody looked for in the case."""


def evaluate_classes(
    predicted: ClassMap,
    reference: ClassMap,
    targets: Mapping[str, Sequence[int]],
    spacing_mm: VoxelSize,
    measures: Measures,
    *,
    annotated: Sequence[bool] | None = None,
) -> dict[str, RegionEvaluation]:
    """Measures every class or region of a case over the voxels whose reference is not ignored.

    Args:
        predicted: uint8 class indices `(X, Y, Z)`.
        reference: The same of the reference, `IGNORE_CLASS` where nobody annotated.
        targets: Name to class indices, of each class or region.
        spacing_mm: Edge length of a voxel along each axis; where axes are sheared, its edges as the
            columns of `(3, 3)`.
        measures: What to measure.
        annotated: For each target, whether the case was annotated for it; None for all. Another is
            not measured.

    Raises:
        ValueError: If the shapes differ.
    """
    if predicted.shape != reference.shape:
        raise ValueError(
            f"predicted and reference must have one shape: got {predicted.shape} and "
            f"{reference.shape}."
        )
    valid = reference != IGNORE_CLASS
    knows = [True] * len(targets) if annotated is None else annotated
    found = {}
    for (name, members), known in zip(targets.items(), knows, strict=True):
        if not known:
            found[name] = UNSCORED
            continue
        pred, ref = (region_masks(classes, [members])[0] for classes in (predicted, reference))
        found[name] = evaluate_region(pred & valid, ref, spacing_mm, measures)
    return found


def evaluate_region(
    pred: Mask,
    ref: Mask,
    spacing_mm: VoxelSize,
    measures: Measures,
) -> RegionEvaluation:
    """Measures one region.

    Args:
        pred: Predicted mask `(X, Y, Z)`, bool, without ignored voxels.
        ref: Reference mask of the same shape, bool, without ignored voxels.
        spacing_mm: Edge length of a voxel along each axis; where axes are sheared, its edges as the
            columns of `(3, 3)`.
        measures: What to measure.

    Raises:
        ValueError: If the shapes differ, or an array is not boolean.
    """
    edges = voxel_edges(spacing_mm, ref.ndim)
    surface = surface_score(pred, ref, edges, tolerance_mm=measures.tolerance_mm)
    lesion_dice = lesion_hd95_mm = math.nan
    if measures.lesions == "plain":
        match = match_lesions(pred, ref)
    else:
        brats = score_brats_lesions(pred, ref, edges, BRATS_RULES[measures.lesions])
        match, lesion_dice, lesion_hd95_mm = brats.match, brats.dice, brats.hd95_mm
    counts = match.counts
    ref_voxels, pred_voxels = int(ref.sum()), int(pred.sum())
    voxel_ml = voxel_volume(edges) / 1000
    score = RegionScore(
        dice(pred, ref),
        ref_voxels,
        pred_voxels,
        counts.lesions,
        counts.found,
        counts.false_positives,
        ref_voxels * voxel_ml,
        pred_voxels * voxel_ml,
    )
    return RegionEvaluation(score, surface, match, lesion_dice, lesion_hd95_mm)
