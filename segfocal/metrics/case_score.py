"""The scores of one case, region by region, and their summary over many cases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from segfocal.labels import IGNORE_CLASS, ClassMap
from segfocal.metrics.lesionwise import LesionCounts, count_lesions
from segfocal.metrics.overlap import Mask, as_masks, dice


@dataclass(frozen=True)
class RegionScore:
    """One region of one case, over the voxels somebody annotated.

    Attributes:
        dice: Dice coefficient; NaN where reference and prediction are both empty, 0 where only
            the reference is.
        ref_voxels: Voxels of the reference.
        pred_voxels: Voxels of the prediction.
        lesions: Connected components of the reference.
        lesions_found: Those that the prediction overlaps.
        false_positives: Components of the prediction that overlap none.
        ref_ml: Reference volume in millilitres, None without voxel sizes.
        pred_ml: Predicted volume in millilitres, None without voxel sizes.
        annotated: Whether the case was annotated for the region; if not, nothing was scored: Dice
            is NaN, and the counts are 0 and mean nothing.
    """

    dice: float
    ref_voxels: int
    pred_voxels: int
    lesions: int
    lesions_found: int
    false_positives: int
    ref_ml: float | None = None
    pred_ml: float | None = None
    annotated: bool = True

    @property
    def counts(self) -> LesionCounts:
        """The three lesion counts, to be added up."""
        return LesionCounts(self.lesions, self.lesions_found, self.false_positives)


NOT_ANNOTATED = RegionScore(float("nan"), 0, 0, 0, 0, 0, annotated=False)
"""The score of a region that nobody looked for in the case."""


@dataclass(frozen=True)
class CaseScore:
    """All regions of one case.

    Attributes:
        case: The case's name.
        regions: Region name to score, in the scheme's order.
    """

    case: str
    regions: Mapping[str, RegionScore]


@dataclass(frozen=True)
class RegionSummary:
    """One region over many cases.

    Attributes:
        dice: Mean over the `n_scored` cases where Dice is defined; NaN if there is none.
        lesion_f1: F1 of the pooled lesion counts; NaN with neither lesion nor false positive.
        lesions: Reference lesions in all cases.
        lesions_found: Those that were found.
        false_positives: Predicted components without a lesion, in all cases.
        n: Cases that were annotated for it.
        n_scored: Cases in the mean.
        n_empty: Cases whose reference has no voxel of the region.
        n_false_alarm: Those of them where something was predicted: in the mean with Dice 0.
    """

    dice: float
    lesion_f1: float
    lesions: int
    lesions_found: int
    false_positives: int
    n: int
    n_scored: int
    n_empty: int
    n_false_alarm: int


def region_masks(classes: npt.ArrayLike, target_classes: Sequence[Sequence[int]]) -> Mask:
    """Class indices to one mask per region.

    Args:
        classes: Class indices `(*S)`, integers, `IGNORE_CLASS` where ignored: such voxels belong
            to no region. An array or a tensor in memory.
        target_classes: The classes of each region (`LabelScheme.target_classes`).

    Returns:
        `(R, *S)` bool.

    Raises:
        ValueError: If a value is no integer from 0 to 255.

    Example:
        >>> region_masks(np.array([0, 1, 3, 255], np.uint8), [(1, 3), (3,)]).astype(int).tolist()
        [[0, 1, 1, 0], [0, 0, 1, 0]]
    """
    belongs = np.zeros((len(target_classes), IGNORE_CLASS + 1), dtype=np.bool_)
    for row, members in zip(belongs, target_classes, strict=True):
        row[list(members)] = True
    indices = _class_map(classes)
    return np.stack([row[indices] for row in belongs])


def _class_map(classes: npt.ArrayLike) -> ClassMap:
    """Class indices of any integer type as uint8: in a table -1 would be read as its last row."""
    array = np.asarray(classes)
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind not in "biu":
        raise ValueError(f"class indices must be integers: got {array.dtype}.")
    if array.size and not 0 <= array.min() <= array.max() <= IGNORE_CLASS:
        raise ValueError(
            f"class indices must be 0 to {IGNORE_CLASS - 1}, or {IGNORE_CLASS} where ignored: got "
            f"{array.min()} to {array.max()}. Encode labels by the LabelScheme first."
        )
    return array.astype(np.uint8)


def score_region(
    pred: npt.ArrayLike,
    ref: npt.ArrayLike,
    valid: npt.ArrayLike | None = None,
    zooms_mm: Sequence[float] | None = None,
    *,
    voxel_mm3: float | None = None,
    min_overlap_voxels: int = 1,
) -> RegionScore:
    """Dice, volumes and lesion counts of one region.

    Args:
        pred: Predicted mask `(*S)`, bool; an array or a tensor in memory, as the others.
        ref: Reference mask `(*S)`, bool.
        valid: True where the reference is known; None for everywhere.
        zooms_mm: Voxel edge lengths in mm, for the volumes.
        voxel_mm3: Volume of a voxel; None is the product of `zooms_mm`, which sheared axes make
            less of.
        min_overlap_voxels: As in `count_lesions`.

    Raises:
        ValueError: As `dice` and `count_lesions`.
    """
    pred, ref, valid = as_masks(pred, ref, valid)
    if valid is not None:
        pred, ref = pred & valid, ref & valid
    counts = count_lesions(pred, ref, min_overlap_voxels=min_overlap_voxels)
    ref_voxels, pred_voxels = int(np.count_nonzero(ref)), int(np.count_nonzero(pred))
    if voxel_mm3 is None and zooms_mm is not None:
        voxel_mm3 = float(np.prod(zooms_mm))
    voxel_ml = None if voxel_mm3 is None else voxel_mm3 / 1000
    return RegionScore(
        dice=dice(pred, ref),
        ref_voxels=ref_voxels,
        pred_voxels=pred_voxels,
        lesions=counts.lesions,
        lesions_found=counts.found,
        false_positives=counts.false_positives,
        ref_ml=None if voxel_ml is None else ref_voxels * voxel_ml,
        pred_ml=None if voxel_ml is None else pred_voxels * voxel_ml,
    )


def score_case(
    case: str,
    pred: npt.ArrayLike,
    reference: npt.ArrayLike,
    target_names: Sequence[str],
    target_classes: Sequence[Sequence[int]],
    zooms_mm: Sequence[float] | None = None,
    *,
    voxel_mm3: float | None = None,
    min_overlap_voxels: int = 1,
    annotated: Sequence[bool] | None = None,
) -> CaseScore:
    """Score every region of a case over the voxels whose reference is not ignored.

    Args:
        case: The case's name.
        pred: Predicted masks `(R, *S)`, bool, one per region; `region_masks` makes them from a
            predicted class map.
        reference: Class indices `(*S)`, `IGNORE_CLASS` where nobody annotated.
        target_names: Names of the R regions (`LabelScheme.target_names`).
        target_classes: Their classes (`LabelScheme.target_classes`).
        zooms_mm: Voxel edge lengths in mm, for the volumes.
        voxel_mm3: Volume of a voxel; None is the product of `zooms_mm`, which sheared axes make
            less of.
        min_overlap_voxels: As in `count_lesions`.
        annotated: For each region, whether the case was annotated for it; None for all. Another is
            not scored.

    Raises:
        ValueError: If shapes or the number of regions do not agree, or the reference holds a value
            that is no integer from 0 to 255.
    """
    masks, classes = np.asarray(pred), _class_map(reference)
    expected = (len(target_classes), *classes.shape)
    if masks.shape != expected:
        raise ValueError(
            f"pred must be one mask per region: expected shape {expected}, got {masks.shape}."
        )
    valid = classes != IGNORE_CLASS
    refs = region_masks(classes, target_classes)
    knows = [True] * len(refs) if annotated is None else annotated
    scores = {
        name: score_region(
            p, r, valid, zooms_mm, voxel_mm3=voxel_mm3, min_overlap_voxels=min_overlap_voxels
        )
        if known
        else NOT_ANNOTATED
        for name, p, r, known in zip(target_names, masks, refs, knows, strict=True)
    }
    return CaseScore(case, scores)


def summarise(cases: Sequence[CaseScore]) -> dict[str, RegionSummary]:
    """Region by region over cases: mean Dice, pooled lesion counts, and over how many.

    A case where reference and prediction are both empty is left out of the mean Dice; one where
    only the reference is empty counts as 0 (nnU-Net's rule). One that was not annotated for
    a region is no case of it.

    Args:
        cases: Scores with the same regions each; may be empty.
    """
    if not cases:
        return {}
    return {
        name: _summarise_region([case.regions[name] for case in cases]) for name in cases[0].regions
    }


def _summarise_region(all_scores: Sequence[RegionScore]) -> RegionSummary:
    scores = [score for score in all_scores if score.annotated]
    defined: npt.NDArray[np.float64] = np.array(
        [score.dice for score in scores if not math.isnan(score.dice)]
    )
    counts = sum((score.counts for score in scores), LesionCounts(0, 0, 0))
    empty = [score for score in scores if score.ref_voxels == 0]
    return RegionSummary(
        dice=float(defined.mean()) if len(defined) else float("nan"),
        lesion_f1=counts.f1,
        lesions=counts.lesions,
        lesions_found=counts.found,
        false_positives=counts.false_positives,
        n=len(scores),
        n_scored=len(defined),
        n_empty=len(empty),
        n_false_alarm=sum(score.pred_voxels > 0 for score in empty),
    )


def mean_dice(summary: Mapping[str, RegionSummary]) -> float:
    """Mean of the regions' mean Dice, without regions that have none; NaN if none has."""
    defined = [region.dice for region in summary.values() if not math.isnan(region.dice)]
    return sum(defined) / len(defined) if defined else float("nan")
