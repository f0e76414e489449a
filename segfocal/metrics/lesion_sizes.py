"""Lesions found and made up, by volume: small ones are the ones that are missed."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from segfocal.metrics.lesionwise import LesionCounts, LesionMatch

SIZE_EDGES_MM3 = (10.0, 100.0, 1000.0, 10000.0)
"""Where sizes part where nobody says otherwise: decades."""

_ROUNDING = 1e-6
"""Of voxel edges, which NIfTI holds in float32."""


@dataclass(frozen=True)
class SizeBin:
    """The lesions of some volumes.

    Attributes:
        from_mm3: The least of them.
        below_mm3: Less than this; infinite for the last.
        counts: Reference lesions of these volumes, those of them that were found, and false
            positives of these volumes.
    """

    from_mm3: float
    below_mm3: float
    counts: LesionCounts


def lesions_by_size(
    cases: Iterable[tuple[LesionMatch, float]], edges_mm3: Sequence[float] = SIZE_EDGES_MM3
) -> tuple[SizeBin, ...]:
    """Sorts the lesions of all cases by their volume.

    Lesions that the rules leave out for their size are in no bin.

    Args:
        cases: Lesions of a case, and its voxels' volume in mm3.
        edges_mm3: Volumes that part one bin from the next, ascending.

    Returns:
        A bin more than there are edges.

    Example:
        >>> from segfocal.metrics import Lesion
        >>> lesion = Lesion(voxels=12, centre=(0.0,), overlap=0.5, found=True)
        >>> bins = lesions_by_size([(LesionMatch((lesion,), ()), 1.0)], [10, 100])
        >>> [(one.from_mm3, one.below_mm3, one.counts.found) for one in bins]
        [(0.0, 10, 0), (10, 100, 1), (100, inf, 0)]
    """
    bins = [LesionCounts(0, 0, 0)] * (len(edges_mm3) + 1)
    for match, voxel_mm3 in cases:
        counted = [
            (lesion, LesionCounts(1, int(lesion.found), 0))
            for lesion in match.lesions
            if lesion.scored
        ]
        counted += [(island, LesionCounts(0, 0, 1)) for island in match.false_positives]
        for lesion, counts in counted:
            # A product of rounded numbers: ten voxels of 0.1 mm3 are 1 mm3.
            size_mm3 = lesion.voxels * voxel_mm3 * (1 + _ROUNDING)
            at = bisect_right(edges_mm3, size_mm3)
            bins[at] += counts
    ends = (0.0, *edges_mm3, math.inf)
    return tuple(map(SizeBin, ends, ends[1:], bins))
