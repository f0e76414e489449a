"""What class weights are counted in: voxels, lesions or volumes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from segfocal.errors import UserError
from segfocal.statistics.class_histogram import Counts
from segfocal.statistics.voxel_counts import VoxelCounts

Unit = Literal["voxels", "lesions", "volumes"]


@dataclass(frozen=True, eq=False)
class Units:
    """Counts of alternatives that exclude each other: classes, or a region and what is outside.

    Attributes:
        n: Units of each, `(K,)`.
        holding: Units of the volumes that hold each, `(K,)`, for `median_frequency`.
        total: N, from which `effective_number` derives its beta.
    """

    n: Counts
    holding: Counts
    total: int


def class_units(counts: VoxelCounts, unit: Unit) -> Units:
    """Units of every class, background first.

    The background has no lesions. It counts once for every lesion of any class: each one has to be
    told from it. So it never weighs more than a lesion's class, and the classes are to each other
    as their lesions are. Once for every case it would outweigh the lesions of any case that has
    several, which no focal loss is helped by.

    Raises:
        UserError: If the unit is unknown, or lesions were not counted.
    """
    if unit == "lesions":
        lesions = counts.lesion_table[:, : counts.scheme.num_classes - 1]
        background = lesions.sum(axis=1, keepdims=True)
        return _summed(np.concatenate([background, lesions], axis=1), int(background.sum()))
    return _of_voxels(counts.table, unit)


def region_units(counts: VoxelCounts, unit: Unit) -> list[Units]:
    """Units inside and outside of every region; by lesions the outside as the background above.

    Raises:
        UserError: If the unit is unknown, or lesions were not counted.
    """
    if unit == "lesions":
        lesions = counts.lesion_table[:, counts.scheme.num_classes - 1 :]
        outside = lesions.sum(axis=1)
        return [
            _summed(np.stack([inside, outside], axis=1), int(outside.sum())) for inside in lesions.T
        ]
    volumes = counts.table.sum(axis=1)
    return [
        _of_voxels(np.stack([inside, volumes - inside], axis=1), unit)
        for inside in counts.region_table.T
    ]


def what_lacks(unit: Unit, *, annotated: bool = False) -> str:
    """The word for what a class lacks: `voxel` or `lesion`."""
    if unit == "lesions":
        return "lesion"
    return "annotated voxel" if annotated else "voxel"


def _of_voxels(table: Counts, unit: Unit) -> Units:
    """Units of each column of voxels by case."""
    if unit == "voxels":
        return _summed(table, int(table.sum()))
    if unit == "volumes":
        n = (table > 0).sum(axis=0)
        return Units(n, np.full_like(n, len(table)), len(table))
    raise UserError(f"alpha: unit: expected voxels, lesions or volumes, got {unit!r}.")


def _summed(table: Counts, total: int) -> Units:
    holds = table > 0
    return Units(table.sum(axis=0), (holds * table.sum(axis=1, keepdims=True)).sum(axis=0), total)
