"""Scores of many voxels in fine bins: what ROC and precision-recall curves need of a volume."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segfocal.metrics.overlap import Mask

Scores = npt.NDArray[np.floating[Any]]
Counts = npt.NDArray[np.int64]

_UNIFORM = 16
"""Bins are at most 2^-16 wide ..."""

_PER_OCTAVE = 8
"""... and near 0 and 1 there are 2^8 of them each time that the distance to the end doubles."""

_SMALLEST = 32
"""Distances to 0 or 1 below 2^-32 share a bin."""

_TAIL_BINS = (_SMALLEST - _PER_OCTAVE) << _PER_OCTAVE
_HALF = (1 << (_UNIFORM - 1)) - (1 << _PER_OCTAVE) + _TAIL_BINS

NUM_BINS = 2 * _HALF + 1
"""Bins from 0 to 1."""

_SLAB_VOXELS = 1 << 18


@dataclass(frozen=True, eq=False)
class ScoreHistogram:
    """How many voxels of a class, and of all others, have which score. Add them up over cases.

    Two scores in one bin differ by at most 2^-16, and by at most 2^-8 of their distance to 0 or 1,
    whichever is less; scores nearer than 2^-32 to an end share a bin. A bin that holds one score
    alone loses nothing: with the 256 or 65,536 even steps of a file of 8 or 16 bits every bin does.

    Attributes:
        bins: Index of each bin that holds a voxel, ascending with the score, int32 `(K,)`.
        positives: Voxels of the class in each, int64 `(K,)`.
        negatives: Other voxels in each, int64 `(K,)`.
        scores: The score of each bin, NaN where it holds several, float64 `(K,)`.
    """

    bins: npt.NDArray[np.int32]
    positives: Counts
    negatives: Counts
    scores: npt.NDArray[np.float64]

    @classmethod
    def empty(cls) -> ScoreHistogram:
        """Of no voxel."""
        none = np.zeros(0, dtype=np.int64)
        return cls(none.astype(np.int32), none, none, none.astype(np.float64))

    def __add__(self, other: ScoreHistogram) -> ScoreHistogram:
        bins = np.union1d(self.bins, other.bins)
        positives, negatives = np.zeros((2, len(bins)), dtype=np.int64)
        scores = np.full((2, len(bins)), np.nan)
        for row, part in zip(scores, (self, other), strict=True):
            places = np.searchsorted(bins, part.bins)
            positives[places] += part.positives
            negatives[places] += part.negatives
            # inf: of several scores, as opposed to NaN for none
            row[places] = np.where(np.isnan(part.scores), np.inf, part.scores)
        ours, theirs = scores
        one = np.where(np.isnan(theirs) | (ours == theirs), ours, np.inf)
        one = np.where(np.isnan(ours), theirs, one)
        return ScoreHistogram(bins, positives, negatives, np.where(np.isinf(one), np.nan, one))

    @property
    def is_exact(self) -> bool:
        """Whether no bin holds two different scores."""
        return not np.isnan(self.scores).any()

    @property
    def num_positives(self) -> int:
        """Voxels of the class."""
        return int(self.positives.sum())

    @property
    def num_negatives(self) -> int:
        """Other voxels."""
        return int(self.negatives.sum())


def score_histogram(
    probs: npt.ArrayLike, ref: npt.ArrayLike, valid: npt.ArrayLike | None = None
) -> ScoreHistogram:
    """Count the scores of a class over the voxels that belong to it, and over the others.

    Slab by slab: beside its arguments it takes a few megabytes, whatever the volume.

    Args:
        probs: Probabilities of the class `(*S)`, float, 0 to 1; an array or a tensor in memory.
        ref: Reference mask `(*S)`, bool.
        valid: True where the reference is known, same shape; None for everywhere.

    Raises:
        ValueError: If shapes differ, a mask is not boolean, or a probability of a valid voxel is
            NaN or not in 0 to 1.

    Example:
        >>> found = score_histogram(np.array([0.5, 0.9, 0.5]), np.array([False, True, True]))
        >>> found.scores.tolist(), found.positives.tolist(), found.negatives.tolist()
        ([0.5, 0.9], [1, 1], [1, 0])
    """
    counts = np.zeros((2, NUM_BINS), dtype=np.int64)
    held = np.full(NUM_BINS, np.nan)
    for scores, positive in valid_slabs(probs, ref, valid):
        bins = bin_of(scores)
        in_all = np.bincount(bins, minlength=NUM_BINS)
        counts[0] += np.bincount(bins[positive], minlength=NUM_BINS)
        counts[1] += in_all
        fresh = np.flatnonzero((in_all > 0) & np.isnan(held))
        some = np.empty(NUM_BINS)
        some[bins] = scores
        held[fresh] = some[fresh]
        held[bins[held[bins] != scores]] = np.inf
    present = np.flatnonzero(counts[1])
    return ScoreHistogram(
        present.astype(np.int32),
        counts[0, present],
        counts[1, present] - counts[0, present],
        np.where(np.isinf(held[present]), np.nan, np.abs(held[present])),  # -0.0 is 0
    )


def bin_of(scores: Scores) -> npt.NDArray[np.intp]:
    """Index of the bin of each score, 0 to `NUM_BINS - 1`, ascending with the score.

    Args:
        scores: float32 or float64 in 0 to 1.
    """
    near = np.minimum(scores, 1 - scores)  # from 0.5 on the difference has no rounding error
    mantissa = np.finfo(scores.dtype).nmant
    bias = np.finfo(scores.dtype).maxexp - 1
    octaves = near.view(np.dtype(f"i{scores.dtype.itemsize}")) >> (mantissa - _PER_OCTAVE)
    tail = np.maximum(octaves - ((bias - _SMALLEST) << _PER_OCTAVE), 0)
    middle = (near * (1 << _UNIFORM)).astype(np.intp) + (_TAIL_BINS - (1 << _PER_OCTAVE))
    half = np.where(near < 2.0**-_PER_OCTAVE, tail, middle)
    return np.where(scores < 0.5, half, NUM_BINS - 1 - half)


def valid_slabs(
    probs: npt.ArrayLike, ref: npt.ArrayLike, valid: npt.ArrayLike | None
) -> Iterator[tuple[Scores, Mask]]:
    """Scores and classes of the valid voxels, a slab at a time.

    Args:
        probs: As in `score_histogram`.
        ref: As in `score_histogram`.
        valid: As in `score_histogram`.

    Yields:
        float32 or float64 `(N,)`, and bool `(N,)`.

    Raises:
        ValueError: As `score_histogram`.
    """
    volume, mask, known = checked(probs, ref, valid)
    planes = max(_SLAB_VOXELS * len(volume) // max(volume.size, 1), 1)
    for start in range(0, len(volume), planes):
        slab = slice(start, start + planes)
        if known is None:
            scores, positive = volume[slab].ravel(), mask[slab].ravel()
        else:
            scores, positive = volume[slab][known[slab]], mask[slab][known[slab]]
        if not scores.size:
            continue
        if scores.dtype not in (np.float32, np.float64):
            scores = scores.astype(np.float32)
        check_range(scores)
        yield scores, positive


def check_range(scores: Scores, valid: Mask | None = None) -> None:
    """Refuses what is no probability.

    Args:
        scores: Of any shape.
        valid: Where to look; None for everywhere.

    Raises:
        ValueError: If a score is NaN or not in 0 to 1.
    """
    where = True if valid is None else valid
    low, high = scores.min(initial=1, where=where), scores.max(initial=0, where=where)
    if not (low >= 0 and high <= 1):
        found = "NaN" if np.isnan(low) else f"{low:g} to {high:g}"
        raise ValueError(
            f"probs must be probabilities from 0 to 1: got {found}. Apply softmax or sigmoid to "
            f"logits first."
        )


def checked(
    probs: npt.ArrayLike, ref: npt.ArrayLike, valid: npt.ArrayLike | None
) -> tuple[Scores, Mask, Mask | None]:
    """The three as arrays with an axis at least.

    Raises:
        ValueError: If shapes differ or a type is not the one expected.
    """
    volume, mask = np.asarray(probs), np.asarray(ref)
    known = None if valid is None else np.asarray(valid)
    if volume.dtype.kind != "f":
        raise ValueError(f"probs must be floats from 0 to 1, got {volume.dtype}.")
    for name, one in (("ref", mask), ("valid", known)):
        if one is not None and one.dtype != np.bool_:
            raise ValueError(
                f"{name} must be a mask: expected dtype bool, got {one.dtype}. "
                f"Compare with a class first, e.g. classes == 1."
            )
        if one is not None and one.shape != volume.shape:
            raise ValueError(
                f"{name} and probs must have one shape: got {one.shape} and {volume.shape}."
            )
    volume, mask = np.atleast_1d(volume), np.atleast_1d(mask)
    return volume, mask, None if known is None else np.atleast_1d(known)
