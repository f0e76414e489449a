"""Everything that is measured of a map of probabilities: of one case, and of many."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from segfocal.metrics.calibration import (
    THRESHOLDS,
    Curve,
    ProbabilityTable,
    best_threshold,
    dice_by_threshold,
    probability_table,
    reliability,
)
from segfocal.metrics.curves import Area, auroc, average_precision
from segfocal.metrics.evaluation_summary import Spread
from segfocal.metrics.free_response import (
    CANDIDATE_THRESHOLD,
    Froc,
    LesionCandidates,
    froc,
    lesion_candidates,
)
from segfocal.metrics.score_bins import Counts, ScoreHistogram, score_histogram

_HALF = int(np.flatnonzero(THRESHOLDS == 0.5)[0])


@dataclass(frozen=True, eq=False)
class RegionCurves:
    """One class or region of one case.

    Attributes:
        auroc: Area under the ROC curve over the case's known voxels.
        average_precision: Area under the precision-recall curve over them.
        table: The same voxels by probability.
        candidates: Lesions and candidates.
        histogram: The same voxels by score; None where it was added to other cases' already.
    """

    auroc: Area
    average_precision: Area
    table: ProbabilityTable
    candidates: LesionCandidates
    histogram: ScoreHistogram | None = None

    def without_histogram(self) -> RegionCurves:
        """The same in little memory."""
        return dataclasses.replace(self, histogram=None)


@dataclass(frozen=True, eq=False)
class CurveReport:
    """One class or region over many cases.

    Attributes:
        n: Cases with probabilities of it that were annotated for it.
        n_present: Those whose reference holds it: elsewhere AUROC and average precision are
            undefined.
        auroc: Of each case.
        average_precision: Of each case.
        brier: Of each case.
        ece: Of each case, in 10 bins.
        pooled_auroc: Over all voxels of all cases together.
        pooled_average_precision: The same.
        histogram: These voxels by score.
        table: These voxels by probability.
        mean_dice: Mean Dice of the cases at each of `THRESHOLDS`; NaN where no case has one.
        num_dice: Over how many cases that is: a case without the class counts, with 0, only where
            something is predicted.
        froc: Lesions of all cases together.
    """

    n: int
    n_present: int
    auroc: Spread
    average_precision: Spread
    brier: Spread
    ece: Spread
    pooled_auroc: Area
    pooled_average_precision: Area
    histogram: ScoreHistogram
    table: ProbabilityTable
    mean_dice: Curve
    num_dice: Counts
    froc: Froc

    @property
    def best_threshold(self) -> float:
        """Threshold of the highest mean Dice of these very cases: for others it flatters."""
        return best_threshold(self.mean_dice)[0]

    @property
    def best_dice(self) -> float:
        """That mean Dice."""
        return best_threshold(self.mean_dice)[1]

    @property
    def dice_at_half(self) -> float:
        """Mean Dice of the mask `probs > 0.5`."""
        return float(self.mean_dice[_HALF])


def evaluate_probabilities(
    probs: npt.ArrayLike,
    ref: npt.ArrayLike,
    valid: npt.ArrayLike | None = None,
    *,
    candidate_threshold: float = CANDIDATE_THRESHOLD,
) -> RegionCurves:
    """Measure the probabilities of one class or region of a case.

    Args:
        probs: Probabilities `(*S)`, float, 0 to 1; an array or a tensor in memory, as the others.
        ref: Reference mask `(*S)`, bool.
        valid: True where the reference is known, same shape; None for everywhere.
        candidate_threshold: As `threshold` in `lesion_candidates`.

    Raises:
        ValueError: As `score_histogram` and `lesion_candidates`.
    """
    histogram = score_histogram(probs, ref, valid)
    return RegionCurves(
        auroc(histogram),
        average_precision(histogram),
        probability_table(probs, ref, valid),
        lesion_candidates(probs, ref, valid, threshold=candidate_threshold),
        histogram,
    )


def summarise_probabilities(
    cases: Sequence[RegionCurves], histogram: ScoreHistogram | None = None
) -> CurveReport:
    """One class or region over cases.

    Args:
        cases: `evaluate_probabilities` of each case that was annotated for it.
        histogram: The sum of their histograms, where they do not hold them any more.
    """
    if histogram is None:
        parts = [case.histogram or ScoreHistogram.empty() for case in cases]
        histogram = sum(parts, ScoreHistogram.empty())
    table = sum((case.table for case in cases), ProbabilityTable.empty())
    dice = np.array([dice_by_threshold(case.table) for case in cases]).reshape(-1, len(THRESHOLDS))
    num_dice = np.count_nonzero(~np.isnan(dice), axis=0)
    with np.errstate(invalid="ignore"):
        mean_dice = np.nansum(dice, axis=0) / num_dice
    return CurveReport(
        n=len(cases),
        n_present=sum(case.table.num_positives > 0 for case in cases),
        auroc=Spread.of(case.auroc.value for case in cases),
        average_precision=Spread.of(case.average_precision.value for case in cases),
        brier=Spread.of(case.table.brier for case in cases),
        ece=Spread.of(reliability(case.table).ece for case in cases),
        pooled_auroc=auroc(histogram),
        pooled_average_precision=average_precision(histogram),
        histogram=histogram,
        table=table,
        mean_dice=mean_dice,
        num_dice=num_dice.astype(np.int64),
        froc=froc(sum((case.candidates for case in cases), LesionCandidates.empty())),
    )
