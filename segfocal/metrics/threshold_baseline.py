"""What one intensity threshold would score: the least that a network has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from segfocal.labels import IGNORE_CLASS, ClassMap
from segfocal.metrics.case_score import CaseScore, region_masks, score_case

Image = npt.NDArray[np.float32]
LabelledCase = tuple[Image, ClassMap]

EDGES = np.linspace(-4.0, 8.0, 241)
"""The thresholds tried, in standard deviations from the mean of the foreground."""


@dataclass(frozen=True)
class Threshold:
    """A rule for one region: foreground voxels on one side of one value of one channel.

    Attributes:
        region: The region's name.
        channel: Index of the channel.
        value: In standard deviations from the mean of the case's foreground.
        above: True for voxels at or above the value, False for those below.
        dice: Mean Dice over the training cases that have the region.
    """

    region: str
    channel: int
    value: float
    above: bool
    dice: float


@dataclass(frozen=True)
class ThresholdBaseline:
    """The chosen thresholds and what they score on cases they were not chosen on.

    Attributes:
        thresholds: One per region.
        scores: One per validation case.
    """

    thresholds: tuple[Threshold, ...]
    scores: tuple[CaseScore, ...]


def threshold_baseline(
    train: Sequence[LabelledCase],
    val: Sequence[LabelledCase],
    target_names: Sequence[str],
    target_classes: Sequence[Sequence[int]],
    *,
    val_names: Sequence[str] | None = None,
    zooms_mm: Sequence[Sequence[float]] | None = None,
) -> ThresholdBaseline:
    """Choose the best single-channel threshold per region on `train`, score it on `val`.

    Args:
        train: Pairs of image `(C, *S)` float32 and uint8 class indices `(*S)`; ignored voxels
            count for nothing. Foreground is where any channel is not 0.
        val: The same, of other cases.
        target_names: Names of the regions (`LabelScheme.target_names`).
        target_classes: Their classes (`LabelScheme.target_classes`).
        val_names: Names of the validation cases in the scores; their positions without.
        zooms_mm: Voxel edge lengths per validation case, for volumes in the scores.

    Raises:
        ValueError: If `train` is empty.
    """
    thresholds = fit_thresholds(train, target_names, target_classes)
    names = val_names or [str(index) for index in range(len(val))]
    zooms: Sequence[Sequence[float] | None] = zooms_mm or [None] * len(val)
    scores = tuple(
        score_case(
            name,
            apply_thresholds(image, thresholds),
            classes,
            target_names,
            target_classes,
            zoom,
        )
        for name, (image, classes), zoom in zip(names, val, zooms, strict=True)
    )
    return ThresholdBaseline(thresholds, scores)


def fit_thresholds(
    train: Sequence[LabelledCase],
    target_names: Sequence[str],
    target_classes: Sequence[Sequence[int]],
) -> tuple[Threshold, ...]:
    """The channel, side and value with the best mean Dice over `train`, for each region.

    A case without the region cannot tell thresholds apart (Dice is 0 or undefined) and is left
    out of that region's choice.
    """
    if not train:
        raise ValueError("train must hold at least one case, got none.")
    num_channels = train[0][0].shape[0]
    total = np.zeros((len(target_names), num_channels, 2, len(EDGES)))
    num_cases = np.zeros(len(target_names))
    for image, classes in train:
        foreground = np.any(image != 0, axis=0)
        scaled = standardise(image, foreground)
        known = classes != IGNORE_CLASS
        refs = region_masks(classes, target_classes)
        present = refs.reshape(len(refs), -1).any(1)
        num_cases += present
        for channel, values in enumerate(scaled):
            bins = np.searchsorted(EDGES, values, side="right")
            everything = _histogram(bins, foreground & known)
            for region in np.flatnonzero(present):
                hits = _histogram(bins, refs[region] & foreground)
                size = int(np.count_nonzero(refs[region]))
                total[region, channel] += _dice_per_threshold(hits, everything, size)
    chosen = []
    for name, summed, number in zip(target_names, total, num_cases, strict=True):
        mean = summed / max(number, 1)
        channel, side, place = (int(i) for i in np.unravel_index(mean.argmax(), mean.shape))
        best = float(mean[channel, side, place])
        chosen.append(Threshold(name, channel, float(EDGES[place]), side == 0, best))
    return tuple(chosen)


def apply_thresholds(image: Image, thresholds: Sequence[Threshold]) -> npt.NDArray[np.bool_]:
    """Masks `(R, *S)` of an image `(C, *S)`, one per threshold."""
    foreground = np.any(image != 0, axis=0)
    scaled = standardise(image, foreground)
    return np.stack(
        [
            foreground
            & (
                scaled[rule.channel] >= rule.value
                if rule.above
                else scaled[rule.channel] < rule.value
            )
            for rule in thresholds
        ]
    )


def standardise(image: Image, foreground: npt.NDArray[np.bool_]) -> Image:
    """Each channel less its mean over the foreground, over its standard deviation there.

    Standardised images come back as they are, to rounding.
    """
    if not foreground.any():
        return image
    scaled = np.empty(image.shape, dtype=np.float32)
    for channel, values in enumerate(image):
        inner = values[foreground].astype(np.float64)
        scaled[channel] = (values - inner.mean()) / max(float(inner.std()), 1e-8)
    return scaled


def _histogram(bins: npt.NDArray[np.intp], where: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Voxels per bin; bin i holds EDGES[i-1] <= value < EDGES[i]."""
    return np.bincount(bins[where], minlength=len(EDGES) + 1).astype(np.int64)


def _dice_per_threshold(
    hits: npt.NDArray[np.int64], everything: npt.NDArray[np.int64], size: int
) -> npt.NDArray[np.float64]:
    """Dice of "at or above" (row 0) and "below" (row 1) each edge, `(2, len(EDGES))`."""
    hits_below = np.cumsum(hits)[:-1]
    all_below = np.cumsum(everything)[:-1]
    below = 2 * hits_below / (all_below + size)
    above = 2 * (hits.sum() - hits_below) / (everything.sum() - all_below + size)
    return np.stack([above, below])
