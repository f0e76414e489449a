"""Free-response ROC: lesions found against false positives a case, from a map of probabilities."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from segfocal.metrics.bounding_box import bounding_box
from segfocal.metrics.score_bins import check_range, checked

Confidences = npt.NDArray[np.float64]

CANDIDATE_THRESHOLD = 0.1
"""Probability above which voxels make up candidates."""

FROC_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives a case at which sensitivities are told, and averaged to the score."""


@dataclass(frozen=True, eq=False)
class LesionCandidates:
    """Confidences of what was found and made up. Add them up over cases.

    Attributes:
        lesions: For each lesion of the reference, the confidence of the surest candidate that
            touches it; 0 where none does.
        false_positives: Confidence of each candidate that touches no lesion.
        num_cases: Cases that these are of.
    """

    lesions: Confidences
    false_positives: Confidences
    num_cases: int = 1

    @classmethod
    def empty(cls) -> LesionCandidates:
        """Of no case."""
        return cls(np.zeros(0), np.zeros(0), 0)

    def __add__(self, other: LesionCandidates) -> LesionCandidates:
        return LesionCandidates(
            np.concatenate([self.lesions, other.lesions]),
            np.concatenate([self.false_positives, other.false_positives]),
            self.num_cases + other.num_cases,
        )


@dataclass(frozen=True, eq=False)
class Froc:
    """Sensitivity against false positives, for each confidence above which candidates count.

    Attributes:
        thresholds: Confidences from which on candidates count, descending, `(T,)`.
        found: Lesions found at each, int64 `(T,)`.
        false_positives: Candidates at each that touch no lesion, int64 `(T,)`.
        num_lesions: Lesions of the reference.
        num_cases: Cases.
    """

    thresholds: Confidences
    found: npt.NDArray[np.int64]
    false_positives: npt.NDArray[np.int64]
    num_lesions: int
    num_cases: int

    @property
    def sensitivity(self) -> Confidences:
        """Share of the lesions found at each threshold; NaN without a lesion."""
        return np.asarray(self.found / (self.num_lesions or math.nan))

    @property
    def false_positives_per_case(self) -> Confidences:
        """Mean number of false positives at each threshold."""
        return np.asarray(self.false_positives / (self.num_cases or math.nan))

    @property
    def precision(self) -> Confidences:
        """Lesions found over lesions found and false positives, at each threshold."""
        return np.asarray(self.found / (self.found + self.false_positives))

    @property
    def average_precision(self) -> float:
        """Sum over thresholds of precision times what sensitivity gains there; NaN of no lesion.

        Lesions that no candidate touches are never found, so they cap it.
        """
        if not self.num_lesions:
            return math.nan
        gains = np.diff(self.found, prepend=0) / self.num_lesions
        return float((gains * self.precision).sum())

    def sensitivity_at(self, rate: float) -> float:
        """Highest sensitivity with at most so many false positives a case; NaN without a lesion.

        Nothing is interpolated: some threshold has it.

        Args:
            rate: False positives a case, at least 0.
        """
        if not self.num_lesions:
            return math.nan
        allowed = self.false_positives_per_case <= rate
        return float(self.sensitivity[allowed].max(initial=0.0))

    @property
    def score(self) -> float:
        """Mean of `sensitivity_at` over `FROC_RATES`; NaN without a lesion."""
        return sum(self.sensitivity_at(rate) for rate in FROC_RATES) / len(FROC_RATES)


def lesion_candidates(
    probs: npt.ArrayLike,
    ref: npt.ArrayLike,
    valid: npt.ArrayLike | None = None,
    *,
    threshold: float = CANDIDATE_THRESHOLD,
) -> LesionCandidates:
    """Lesions of a reference and candidates of a map, with the confidences they are found with.

    Candidates are the 26-connected components (8-connected in 2-d) of the valid voxels above the
    threshold, each as sure as its highest probability. Lesions are the components of the reference.
    They are matched as by `match_lesions`: a candidate finds every lesion that it shares a voxel
    with; it is a false positive if there is none. Several candidates on one lesion count once.

    Args:
        probs: Probabilities of the class `(*S)`, float, 0 to 1; an array or a tensor in memory.
        ref: Reference mask `(*S)`, bool.
        valid: True where the reference is known, same shape; None for everywhere.
        threshold: Probability above which voxels make up candidates, 0 <= threshold < 1.

    Raises:
        ValueError: If shapes differ, a mask is not boolean, the threshold is out of range, or a
            probability of a valid voxel is NaN or not in 0 to 1.

    Reference:
        Bosma JS et al. Semi-supervised learning with report-guided pseudo labels for deep
        learning-based prostate cancer detection using biparametric MRI. Radiology: AI 2023, doi
        10.1148/ryai.230031 (components above a probability, its maximum as confidence; picai_eval).
        Ehteshami Bejnordi B et al. JAMA 2017, doi 10.1001/jama.2017.14585 (CAMELYON16: a lesion is
        found by a hit on it, several count once, the surest one).

    Example:
        >>> ref = np.array([[1, 1, 0, 0, 0, 1]], bool)
        >>> probs = np.array([[0.0, 0.6, 0.9, 0.0, 0.3, 0.0]])
        >>> found = lesion_candidates(probs, ref)
        >>> found.lesions.tolist(), found.false_positives.tolist()
        ([0.9, 0.0], [0.3])
    """
    volume, lesion, known = checked(probs, ref, valid)
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold must be at least 0 and below 1, got {threshold}.")
    check_range(volume, known)
    above = volume > threshold
    if known is not None:
        above, lesion = above & known, lesion & known
    box = bounding_box(above | lesion)
    if box is None:
        return LesionCandidates(np.zeros(0), np.zeros(0))
    touching = np.ones((3,) * volume.ndim, dtype=np.bool_)
    above, lesion = above[box], lesion[box]
    candidates, num_candidates = ndimage.label(above, touching)
    lesions, num_lesions = ndimage.label(lesion, touching)
    sure = np.zeros(num_candidates + 1)
    np.maximum.at(sure, candidates[above], volume[box][above])
    both = above & lesion
    pairs = np.unique(np.stack([lesions[both], candidates[both]], axis=1), axis=0)
    found = np.zeros(num_lesions + 1)
    np.maximum.at(found, pairs[:, 0], sure[pairs[:, 1]])
    is_false = np.ones(num_candidates + 1, dtype=np.bool_)
    is_false[pairs[:, 1]] = False
    return LesionCandidates(found[1:], sure[1:][is_false[1:]])


def froc(candidates: LesionCandidates) -> Froc:
    """The free-response curve of some cases.

    At each confidence `t`, the lesions that a candidate at least as sure as `t` touches, and the
    candidates at least as sure that touch none.

    Args:
        candidates: Of `lesion_candidates`, or a sum of several.

    Reference:
        Chakraborty DP. Maximum likelihood analysis of free-response receiver operating
        characteristic (FROC) data. Medical Physics 1989.
        Setio AAA et al. Medical Image Analysis 2017, doi 10.1016/j.media.2017.06.015 (LUNA16: the
        mean sensitivity at 1/8 to 8 false positives a case).

    Example:
        >>> curve = froc(LesionCandidates(np.array([0.9, 0.4, 0.0]), np.array([0.6]), num_cases=2))
        >>> curve.thresholds.tolist(), curve.found.tolist(), curve.false_positives.tolist()
        ([0.9, 0.6, 0.4], [1, 1, 2], [0, 1, 1])
        >>> curve.sensitivity_at(0.25)
        0.3333333333333333
    """
    lesions, false = (
        np.sort(one[one > 0]) for one in (candidates.lesions, candidates.false_positives)
    )
    thresholds = np.union1d(lesions, false)[::-1]
    found, alarms = (
        (len(one) - np.searchsorted(one, thresholds, side="left")).astype(np.int64)
        for one in (lesions, false)
    )
    return Froc(thresholds, found, alarms, len(candidates.lesions), candidates.num_cases)
