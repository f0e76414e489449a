"""Lesions as connected components: how many were found, missed, made up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from segfocal.metrics.bounding_box import bounding_box
from segfocal.metrics.overlap import Mask, as_masks

Labels = npt.NDArray[np.integer]
"""0 for background, 1, 2, ... for components."""


@dataclass(frozen=True)
class LesionCounts:
    """Detection counts; add the counts of several cases to pool them.

    Attributes:
        lesions: Components of the reference.
        found: Those of them that the prediction overlaps.
        false_positives: Components of the prediction that overlap no lesion.

    Example:
        >>> LesionCounts(3, 2, 1) + LesionCounts(1, 1, 0)
        LesionCounts(lesions=4, found=3, false_positives=1)
    """

    lesions: int
    found: int
    false_positives: int

    def __add__(self, other: LesionCounts) -> LesionCounts:
        return LesionCounts(
            self.lesions + other.lesions,
            self.found + other.found,
            self.false_positives + other.false_positives,
        )

    @property
    def missed(self) -> int:
        """Lesions that the prediction does not overlap."""
        return self.lesions - self.found

    @property
    def sensitivity(self) -> float:
        """Share of the lesions that were found; NaN without a lesion."""
        return self.found / self.lesions if self.lesions else float("nan")

    @property
    def f1(self) -> float:
        """2 found / (2 found + missed + false positives); NaN with neither lesion nor island.

        Example:
            >>> LesionCounts(lesions=3, found=2, false_positives=1).f1
            0.6666666666666666
        """
        total = self.found + self.lesions + self.false_positives
        return 2 * self.found / total if total else float("nan")


@dataclass(frozen=True)
class Lesion:
    """A component of the reference, or one of the prediction that overlaps no lesion.

    Attributes:
        voxels: Its size.
        centre: Mean voxel index of its voxels.
        overlap: Share of its voxels that the prediction covers; 0 for a false positive.
        found: Whether that counts as found; False for a false positive.
        scored: False for a lesion that the rules leave out for its size.
        dice: Dice with the predicted components that are matched to it, where the rules score each
            lesion by itself; else NaN.
        hd95_mm: The same for HD95.
    """

    voxels: int
    centre: tuple[float, ...]
    overlap: float
    found: bool
    scored: bool = True
    dice: float = math.nan
    hd95_mm: float = math.nan


@dataclass(frozen=True)
class LesionMatch:
    """The lesions of a reference, and the predicted components that are none.

    Attributes:
        lesions: Components of the reference.
        false_positives: Components of the prediction that are matched to none.
    """

    lesions: tuple[Lesion, ...]
    false_positives: tuple[Lesion, ...]

    @property
    def counts(self) -> LesionCounts:
        """How many were found, missed and made up, without those left out for their size."""
        scored = [lesion for lesion in self.lesions if lesion.scored]
        found = sum(lesion.found for lesion in scored)
        return LesionCounts(len(scored), found, len(self.false_positives))


def count_lesions(
    pred: npt.ArrayLike,
    ref: npt.ArrayLike,
    valid: npt.ArrayLike | None = None,
    *,
    min_overlap_voxels: int = 1,
) -> LesionCounts:
    """Count the lesions of a reference that a prediction finds, and its false islands.

    Lesions are 26-connected components (8-connected in 2-d) of the valid voxels: what lies under
    the ignore label neither joins, makes nor spoils a lesion. A lesion counts as found when the
    prediction covers at least `min_overlap_voxels` of it (all of it, where it is smaller); a
    predicted component that touches no lesion voxel is a false positive. Size is not filtered.

    Args:
        pred: Predicted mask `(*S)`, bool; an array or a tensor in memory, as the others.
        ref: Reference mask of the same shape, bool.
        valid: True where the reference is known, same shape; None for everywhere.
        min_overlap_voxels: Voxels of a lesion that must be covered, at least 1.

    Raises:
        ValueError: If the shapes differ, an array is not boolean, or `min_overlap_voxels` < 1.

    Example:
        >>> ref = np.array([[1, 1, 0, 0, 0, 1]], bool)
        >>> pred = np.array([[0, 1, 0, 1, 0, 0]], bool)
        >>> count_lesions(pred, ref)
        LesionCounts(lesions=2, found=1, false_positives=1)
    """
    parts = _match(pred, ref, valid, min_overlap_voxels)
    return LesionCounts(len(parts.sizes), int(np.count_nonzero(parts.found)), len(parts.false))


def match_lesions(
    pred: npt.ArrayLike,
    ref: npt.ArrayLike,
    valid: npt.ArrayLike | None = None,
    *,
    min_overlap_voxels: int = 1,
) -> LesionMatch:
    """Every lesion of a reference and every false island: what `count_lesions` counts.

    Args:
        pred: As in `count_lesions`.
        ref: As in `count_lesions`.
        valid: As in `count_lesions`.
        min_overlap_voxels: As in `count_lesions`.

    Raises:
        ValueError: As `count_lesions`.

    Example:
        >>> ref = np.array([[1, 1, 0, 0, 0, 1]], bool)
        >>> pred = np.array([[0, 1, 0, 1, 0, 0]], bool)
        >>> [(lesion.voxels, lesion.overlap) for lesion in match_lesions(pred, ref).lesions]
        [(2, 0.5), (1, 0.0)]
    """
    parts = _match(pred, ref, valid, min_overlap_voxels)
    centres = component_centres(parts.lesions, range(1, len(parts.sizes) + 1), parts.corner)
    lesions = tuple(
        Lesion(int(size), centre, float(covered / size), bool(found))
        for size, centre, covered, found in zip(
            parts.sizes, centres, parts.covered, parts.found, strict=True
        )
    )
    return LesionMatch(lesions, islands_of(parts.islands, parts.false, parts.corner))


def component_centres(
    labels: Labels, wanted: Sequence[int], corner: Sequence[int]
) -> list[tuple[float, ...]]:
    """Mean voxel index of some components.

    Args:
        labels: Component of each voxel of a box, 0 for none.
        wanted: The components, each of which has a voxel.
        corner: Voxel index at which the box begins in the volume.
    """
    places = np.nonzero(labels)
    component = labels[places]
    num = np.maximum(np.bincount(component), 1)
    means = [
        np.bincount(component, weights=along) / num + begin
        for along, begin in zip(places, corner, strict=True)
    ]
    return [tuple(float(mean[index]) for mean in means) for index in wanted]


def islands_of(labels: Labels, wanted: Sequence[int], corner: Sequence[int]) -> tuple[Lesion, ...]:
    """Some predicted components as false positives; arguments as in `component_centres`."""
    sizes = np.bincount(labels.ravel())
    centres = component_centres(labels, wanted, corner)
    return tuple(
        Lesion(int(sizes[index]), centre, 0.0, found=False)
        for index, centre in zip(wanted, centres, strict=True)
    )


@dataclass(frozen=True, eq=False)
class _Parts:
    """Components of a reference and a prediction in the box that holds both.

    Attributes:
        lesions: Component of each voxel of the reference.
        islands: Component of each voxel of the prediction.
        corner: Voxel index at which the box begins.
        sizes: Voxels of each lesion.
        covered: Those of them that are predicted.
        found: Whether that is enough.
        false: The islands that touch no lesion.
    """

    lesions: Labels
    islands: Labels
    corner: tuple[int, ...]
    sizes: npt.NDArray[np.intp]
    covered: npt.NDArray[np.intp]
    found: Mask
    false: list[int]


def _match(
    pred: npt.ArrayLike, ref: npt.ArrayLike, valid: npt.ArrayLike | None, min_overlap_voxels: int
) -> _Parts:
    pred, ref, valid = as_masks(pred, ref, valid)
    if min_overlap_voxels < 1:
        raise ValueError(f"min_overlap_voxels must be at least 1, got {min_overlap_voxels}.")
    if valid is not None:
        pred, ref = pred & valid, ref & valid
    box = bounding_box(pred | ref) or (slice(0, 0),) * ref.ndim
    pred, ref = pred[box], ref[box]
    touching = np.ones((3,) * ref.ndim, dtype=np.bool_)
    lesions, num_lesions = ndimage.label(ref, touching)
    islands, num_islands = ndimage.label(pred, touching)
    both = pred & ref
    covered = np.bincount(lesions[both], minlength=num_lesions + 1)[1:]
    sizes = np.bincount(lesions.ravel(), minlength=num_lesions + 1)[1:]
    true_islands = np.zeros(num_islands + 1, dtype=np.bool_)
    true_islands[islands[both]] = True
    return _Parts(
        lesions,
        islands,
        tuple(axis.start for axis in box),
        sizes,
        covered,
        covered >= np.minimum(min_overlap_voxels, sizes),
        [index for index in range(1, num_islands + 1) if not true_islands[index]],
    )
