"""ROC and precision-recall over voxels: areas under both curves, and how far off they can be."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import digamma

from segfocal.metrics.score_bins import ScoreHistogram

Curve = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Area:
    """An area under a curve of binned scores.

    Attributes:
        value: The area: exact where no bin holds two scores, else the middle of what it can be.
            NaN where the curve is undefined.
        error: The exact area is not farther from `value` than this, in whatever order the scores
            of a bin lie; 0 where no bin holds two. NaN where the curve is undefined.
    """

    value: float
    error: float


UNDEFINED_AREA = Area(math.nan, math.nan)


def auroc(scores: ScoreHistogram) -> Area:
    """Area under the ROC curve: the chance that a voxel of the class outscores another one.

    Equals `sklearn.metrics.roc_auc_score`; a tie counts one half. A pair of voxels in one bin may
    be ordered either way, so the error is half the share of such pairs.

    Args:
        scores: Of `score_histogram`, or a sum of several.

    Returns:
        0.5 for scores that tell nothing; undefined unless there are voxels of both kinds.

    Reference:
        Hanley JA, McNeil BJ. The meaning and use of the area under a receiver operating
        characteristic (ROC) curve. Radiology 1982.

    Example:
        >>> from segfocal.metrics import score_histogram
        >>> ref = np.array([False, False, True, True])
        >>> auroc(score_histogram(np.array([0.1, 0.4, 0.35, 0.8]), ref))
        Area(value=0.75, error=0.0)
    """
    positives, negatives = _floats(scores)
    pairs = positives.sum() * negatives.sum()
    if not pairs:
        return UNDEFINED_AREA
    below = np.cumsum(negatives) - negatives
    together = positives * negatives
    doubtful = together[np.isnan(scores.scores)].sum()
    won = float(((positives * below).sum() + together.sum() / 2) / pairs)
    return Area(won, float(doubtful / 2 / pairs))


def average_precision(scores: ScoreHistogram) -> Area:
    """Area under the precision-recall curve, as a sum of steps.

    Equals `sklearn.metrics.average_precision_score`: the sum over thresholds of precision times
    what recall gains there. Where a bin holds several scores, it is the middle between the best and
    the worst order in that bin.

    Args:
        scores: Of `score_histogram`, or a sum of several.

    Returns:
        The share of voxels of the class for scores that tell nothing; undefined without any.

    Example:
        >>> from segfocal.metrics import score_histogram
        >>> ref = np.array([False, False, True, True])
        >>> average_precision(score_histogram(np.array([0.1, 0.4, 0.35, 0.8]), ref)).value
        0.8333333333333333
    """
    positives, negatives = (one[::-1] for one in _floats(scores))
    total = float(positives.sum())
    if not total:
        return UNDEFINED_AREA
    hits, alarms = np.cumsum(positives), np.cumsum(negatives)
    mixed = np.isnan(scores.scores[::-1])
    with np.errstate(invalid="ignore"):
        ties = positives * hits / (hits + alarms)
        # best: all voxels of the class tied, above the others
        best = np.where(positives > 0, positives * hits / (hits + alarms - negatives), 0)
    # worst: one after the other, below the others: the sum of i / (i + alarms)
    harmonic = digamma(hits + alarms + 1) - digamma(hits - positives + alarms + 1)
    worst = positives - alarms * harmonic
    area = np.where(mixed, (best + worst) / 2, ties).sum() / total
    return Area(float(area), float((best - worst)[mixed].sum() / 2 / total))


def roc_curve(scores: ScoreHistogram) -> tuple[Curve, Curve]:
    """False and true positive rate at every threshold between bins, from (0, 0) to (1, 1).

    Args:
        scores: Of `score_histogram`, or a sum of several.

    Returns:
        `(K + 1,)` each; NaN where there is no voxel of a kind.
    """
    positives, negatives = (one[::-1] for one in _floats(scores))
    with np.errstate(invalid="ignore"):
        return (_from_zero(negatives) / negatives.sum(), _from_zero(positives) / positives.sum())


def precision_recall_curve(scores: ScoreHistogram) -> tuple[Curve, Curve]:
    """Precision and recall at every threshold between bins, recall ascending.

    Args:
        scores: Of `score_histogram`, or a sum of several.

    Returns:
        `(K,)` each; the first point is the highest score's. Recall is NaN without a voxel of the
        class.
    """
    positives, negatives = (np.cumsum(one[::-1]) for one in _floats(scores))
    with np.errstate(invalid="ignore"):
        return positives / (positives + negatives), positives / positives[-1:].sum()


def _floats(scores: ScoreHistogram) -> tuple[Curve, Curve]:
    """Counts whose products stay whole up to 2^53."""
    return scores.positives.astype(np.float64), scores.negatives.astype(np.float64)


def _from_zero(counts: Curve) -> Curve:
    return np.concatenate([[0.0], np.cumsum(counts)])
