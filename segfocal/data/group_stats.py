"""Voxels and lesions of each class and region over the cases that were annotated for it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from segfocal.data.case_survey import CaseSurvey
from segfocal.data.cases import Dataset
from segfocal.data.partial import annotated_parts
from segfocal.statistics.voxel_counts import VoxelCounts


@dataclass(frozen=True)
class GroupStats:
    """A class or a region over all usable cases.

    Attributes:
        name: Its name.
        kind: `class` or `region`.
        values: The values that make it up in a label file.
        voxels: Voxels.
        share: Voxels over all annotated voxels of the cases annotated for it; 0 without any.
        cases: Cases that hold it.
        annotated: Cases that were annotated for it. The numbers beside this one leave out the
            others, which say nothing of it.
        lesions_mm3: Volume of every lesion, ascending; empty for the background.
    """

    name: str
    kind: str
    values: tuple[int, ...]
    voxels: int
    share: float
    cases: int
    annotated: int
    lesions_mm3: tuple[float, ...]

    @property
    def median_mm3(self) -> float | None:
        """Volume of the middle lesion; None without lesions."""
        return statistics.median(self.lesions_mm3) if self.lesions_mm3 else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values; of the lesions their number and quantiles."""
        sizes = self.lesions_mm3
        plain = asdict(self)
        del plain["lesions_mm3"]
        plain["values"] = list(self.values)
        plain["lesions"] = len(sizes)
        plain["lesion_mm3"] = (
            {
                "smallest": sizes[0],
                "5%": sizes[_rank(0.05, len(sizes))],
                "median": self.median_mm3,
                "95%": sizes[_rank(0.95, len(sizes))],
                "largest": sizes[-1],
            }
            if sizes
            else None
        )
        return plain


def group_stats(
    dataset: Dataset, counts: VoxelCounts, surveys: Sequence[CaseSurvey]
) -> tuple[GroupStats, ...]:
    """Every class, background first, then every region.

    Args:
        dataset: The data set; its cases say what they were annotated for.
        counts: Voxels of the cases to put together.
        surveys: The same cases, for their lesions.
    """
    scheme, table = dataset.scheme, counts.table
    declared = {case.case_id: case.annotated for case in dataset.cases}
    known = np.array(
        [annotated_parts(scheme, declared.get(case_id)) for case_id in counts.case_ids]
    )
    members = [
        *((name, "class", (index,)) for index, name in enumerate(scheme.names)),
        *((region.name, "region", region.classes) for region in scheme.regions),
    ]
    groups = []
    for part, (name, kind, classes) in enumerate(members):
        rows = table[known[:, part]]
        voxels = rows[:, list(classes)].sum(axis=1)
        told = {
            case_id
            for case_id, is_known in zip(counts.case_ids, known[:, part], strict=True)
            if is_known
        }
        groups.append(
            GroupStats(
                name,
                kind,
                tuple(scheme.values[index] for index in classes),
                int(voxels.sum()),
                float(voxels.sum() / max(1, int(rows.sum()))),
                int((voxels > 0).sum()),
                len(told),
                _lesions(name, [survey for survey in surveys if survey.case_id in told]),
            )
        )
    return tuple(groups)


def _lesions(name: str, surveys: Sequence[CaseSurvey]) -> tuple[float, ...]:
    labels = [survey.label for survey in surveys if survey.label is not None]
    return tuple(sorted(size for label in labels for size in label.lesions_mm3.get(name, ())))


def _rank(share: float, length: int) -> int:
    return min(length - 1, int(share * length))
