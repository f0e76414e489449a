"""Probabilities in steps of one hundredth: Brier score, calibration, Dice by threshold."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from segfocal.metrics.score_bins import Counts, valid_slabs

Curve = npt.NDArray[np.float64]

NUM_CELLS = 100

THRESHOLDS: Curve = np.arange(1, NUM_CELLS) / NUM_CELLS
"""0.01 to 0.99: where cells meet."""


@dataclass(frozen=True, eq=False)
class ProbabilityTable:
    """Voxels, and those of the class, by their probability. Add tables up over cases.

    Cell i holds the probabilities above i / 100, up to and with (i + 1) / 100; the first one 0 too.
    A mask `probs > threshold`, which is how a region is predicted, is the cells above it.

    Attributes:
        voxels: Voxels in each cell, int64 `(100,)`.
        positives: Those of the class.
        probabilities: Sum of the probabilities in each cell, float64 `(100,)`.
        squared_errors: Sum over all voxels of (probability - class)^2.
    """

    voxels: Counts
    positives: Counts
    probabilities: Curve
    squared_errors: float

    @classmethod
    def empty(cls) -> ProbabilityTable:
        """Of no voxel."""
        none = np.zeros(NUM_CELLS, dtype=np.int64)
        return cls(none, none, none.astype(np.float64), 0.0)

    def __add__(self, other: ProbabilityTable) -> ProbabilityTable:
        return ProbabilityTable(
            self.voxels + other.voxels,
            self.positives + other.positives,
            self.probabilities + other.probabilities,
            self.squared_errors + other.squared_errors,
        )

    @property
    def num_voxels(self) -> int:
        """Voxels of a known class."""
        return int(self.voxels.sum())

    @property
    def num_positives(self) -> int:
        """Those of the class."""
        return int(self.positives.sum())

    @property
    def brier(self) -> float:
        """Mean squared difference of probability and class; NaN without a voxel.

        Equals `sklearn.metrics.brier_score_loss`.
        """
        return self.squared_errors / self.num_voxels if self.num_voxels else math.nan


@dataclass(frozen=True, eq=False)
class Reliability:
    """Confidence against frequency, in bins of one width.

    Attributes:
        upper: Upper end of each bin, which belongs to it, `(B,)`.
        voxels: Voxels in each, int64 `(B,)`.
        confidence: Mean probability in each; NaN in an empty one.
        frequency: Share of voxels of the class in each; NaN in an empty one.
    """

    upper: Curve
    voxels: Counts
    confidence: Curve
    frequency: Curve

    @property
    def ece(self) -> float:
        """Expected calibration error: mean over voxels of |confidence - frequency|; NaN of none."""
        total = self.voxels.sum()
        if not total:
            return math.nan
        gaps = np.nan_to_num(np.abs(self.confidence - self.frequency))
        return float((self.voxels * gaps).sum() / total)


def probability_table(
    probs: npt.ArrayLike, ref: npt.ArrayLike, valid: npt.ArrayLike | None = None
) -> ProbabilityTable:
    """Count voxels by the probability of a class, slab by slab.

    Args:
        probs: Probabilities of the class `(*S)`, float, 0 to 1; an array or a tensor in memory.
        ref: Reference mask `(*S)`, bool.
        valid: True where the reference is known, same shape; None for everywhere.

    Raises:
        ValueError: If shapes differ, a mask is not boolean, or a probability of a valid voxel is
            NaN or not in 0 to 1.

    Example:
        >>> table = probability_table(np.array([0.2, 0.9]), np.array([False, True]))
        >>> round(table.brier, 6), round(reliability(table).ece, 6)
        (0.025, 0.15)
    """
    table = ProbabilityTable.empty()
    for scores, positive in valid_slabs(probs, ref, valid):
        # in the scores' own type, as a network's probabilities are compared with a threshold
        cells = np.searchsorted(THRESHOLDS.astype(scores.dtype), scores, side="left")
        exact = scores.astype(np.float64)
        errors = exact - positive
        table = table + ProbabilityTable(
            np.bincount(cells, minlength=NUM_CELLS).astype(np.int64),
            np.bincount(cells[positive], minlength=NUM_CELLS).astype(np.int64),
            np.bincount(cells, exact, minlength=NUM_CELLS).astype(np.float64),
            float(np.square(errors).sum()),  # a dot product would depend on threads,
        )
    return table


def reliability(table: ProbabilityTable, num_bins: int = 10) -> Reliability:
    """The reliability curve, whose bins are those of `sklearn.calibration.calibration_curve`.

    Every voxel counts alike, so the many that lie far from a lesion make up most of the calibration
    error: look at the curve too.

    Args:
        table: Of `probability_table`, or a sum of several.
        num_bins: 1, 2, 4, 5, 10, 20, 25, 50 or 100.

    Raises:
        ValueError: If the table cannot be divided into so many bins.

    Reference:
        Naeini MP et al. Obtaining well calibrated probabilities using Bayesian binning. AAAI 2015.
        Guo C et al. On calibration of modern neural networks. arXiv:1706.04599.
    """
    if num_bins < 1 or NUM_CELLS % num_bins:
        raise ValueError(f"num_bins must divide {NUM_CELLS}, got {num_bins}.")
    voxels, positives = (
        one.reshape(num_bins, -1).sum(1) for one in (table.voxels, table.positives)
    )
    with np.errstate(invalid="ignore"):
        return Reliability(
            np.arange(1, num_bins + 1) / num_bins,
            voxels,
            table.probabilities.reshape(num_bins, -1).sum(1) / voxels,
            positives / voxels,
        )


def confusion_by_threshold(table: ProbabilityTable) -> tuple[Counts, Counts, Counts]:
    """Hits, false alarms and misses of the mask `probs > threshold`.

    Args:
        table: Of `probability_table`, or a sum of several.

    Returns:
        Voxels, int64 `(99,)` each, for each of `THRESHOLDS`.
    """
    hits = table.positives[::-1].cumsum()[::-1][1:]
    predicted = table.voxels[::-1].cumsum()[::-1][1:]
    return hits, predicted - hits, table.num_positives - hits


def dice_by_threshold(table: ProbabilityTable) -> Curve:
    """Dice of the mask `probs > threshold` at each of `THRESHOLDS`, float64 `(99,)`.

    NaN where reference and mask are both empty, 0 where only one of them is, as in `dice`.

    Args:
        table: Of `probability_table`; of a sum, it is the Dice over all voxels of the cases.

    Example:
        >>> table = probability_table(np.array([0.2, 0.6, 0.9]), np.array([False, True, True]))
        >>> dice_by_threshold(table)[[9, 49, 69]].tolist()
        [0.8, 1.0, 0.6666666666666666]
    """
    hits, alarms, misses = confusion_by_threshold(table)
    with np.errstate(invalid="ignore"):
        return np.asarray(2 * hits / (2 * hits + alarms + misses))


def best_threshold(dice: Curve) -> tuple[float, float]:
    """Where a curve over `THRESHOLDS` is highest, and how high.

    Of several such thresholds the one nearest to 0.5. Chosen on the cases that are judged by it, it
    flatters.

    Args:
        dice: `(99,)`, of `dice_by_threshold` or a mean of several; NaN is passed over.

    Returns:
        Threshold and Dice; NaN twice where nothing is defined. Where Dice is 0 wherever it is
        defined (a class of no case), no threshold is better than another: NaN and 0.
    """
    if np.isnan(dice).all():
        return math.nan, math.nan
    top = float(np.nanmax(dice))
    if not top:
        return math.nan, top
    at = np.flatnonzero(dice == top)
    place = at[np.argmin(np.abs(THRESHOLDS[at] - 0.5))]
    return float(THRESHOLDS[place]), top
