"""Evaluations of many cases in a few numbers, each with the number of cases behind it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from segfocal.metrics.evaluation import RegionEvaluation
from segfocal.metrics.lesionwise import LesionCounts


@dataclass(frozen=True)
class Spread:
    """A measure over cases.

    Attributes:
        mean: Over the cases where it is defined; NaN if there is none.
        median: The same.
        n: How many these are.
    """

    mean: float
    median: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Mean and median of what is not NaN.

        Example:
            >>> Spread.of([1.0, 4.0, float("nan"), 1.0])
            Spread(mean=2.0, median=1.0, n=3)
        """
        defined = [value for value in values if not math.isnan(value)]
        if not defined:
            return cls(math.nan, math.nan, 0)
        return cls(statistics.fmean(defined), statistics.median(defined), len(defined))


@dataclass(frozen=True)
class RegionReport:
    """One class or region over many cases.

    Attributes:
        n: Cases that were annotated for it.
        n_both: Those that hold it in reference and prediction.
        n_missed: Those whose reference alone holds it: Dice and surface Dice are 0, distances the
            diagonal of the volume.
        n_false_alarm: Those whose prediction alone holds it: the same.
        n_neither: Those that hold it nowhere: in no mean of Dice and surfaces.
        dice: Over the others, as `hd95_mm`, `assd_mm` and `nsd`.
        hd95_mm: 95th percentile of the surface distances.
        hd95_both_mm: The same over `n_both` cases alone. It gets better as lesions are missed.
        assd_mm: Average symmetric surface distance.
        nsd: Surface Dice at the tolerance.
        ref_ml: Volume of the reference.
        pred_ml: Volume of the prediction.
        counts: Lesions of all cases together.
        n_left_out: Lesions that the rules leave out for their size.
        f1: F1 of each case's lesions; undefined with neither a lesion nor a false positive.
        lesion_dice: BraTS' lesion-wise Dice; of no case by plain rules.
        lesion_hd95_mm: BraTS' lesion-wise HD95; of no case by plain rules.
        n_nothing: Cases with neither a lesion that is scored nor a false positive: by BraTS' rules
            1 and 0 mm in the means.
    """

    n: int
    n_both: int
    n_missed: int
    n_false_alarm: int
    n_neither: int
    dice: Spread
    hd95_mm: Spread
    hd95_both_mm: Spread
    assd_mm: Spread
    nsd: Spread
    ref_ml: Spread
    pred_ml: Spread
    counts: LesionCounts
    n_left_out: int
    f1: Spread
    lesion_dice: Spread
    lesion_hd95_mm: Spread
    n_nothing: int


def summarise_evaluations(
    cases: Sequence[Mapping[str, RegionEvaluation]],
) -> dict[str, RegionReport]:
    """Class by class over cases.

    Args:
        cases: `evaluate_classes` of each case, with the same names; may be empty.
    """
    names = list(cases[0]) if cases else []
    return {name: _summarise([case[name] for case in cases]) for name in names}


def _summarise(every: Sequence[RegionEvaluation]) -> RegionReport:
    regions = [region for region in every if region.score.annotated]
    presence = [region.presence for region in regions]
    counts = [region.score.counts for region in regions]
    return RegionReport(
        n=len(regions),
        n_both=presence.count("both"),
        n_missed=presence.count("reference"),
        n_false_alarm=presence.count("prediction"),
        n_neither=presence.count("neither"),
        dice=Spread.of(region.score.dice for region in regions),
        hd95_mm=Spread.of(region.surface.hd95_mm for region in regions),
        hd95_both_mm=Spread.of(
            region.surface.hd95_mm for region in regions if not region.surface.is_penalty
        ),
        assd_mm=Spread.of(region.surface.assd_mm for region in regions),
        nsd=Spread.of(region.surface.nsd for region in regions),
        ref_ml=Spread.of(region.score.ref_ml or 0.0 for region in regions),
        pred_ml=Spread.of(region.score.pred_ml or 0.0 for region in regions),
        counts=sum(counts, LesionCounts(0, 0, 0)),
        n_left_out=sum(not lesion.scored for region in regions for lesion in region.match.lesions),
        f1=Spread.of(count.f1 for count in counts),
        lesion_dice=Spread.of(region.lesion_dice for region in regions),
        lesion_hd95_mm=Spread.of(region.lesion_hd95_mm for region in regions),
        n_nothing=sum(count.lesions + count.false_positives == 0 for count in counts),
    )
