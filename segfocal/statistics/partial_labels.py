"""Shares and alpha where cases are annotated in part: each from the cases that know of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from segfocal.errors import UserError
from segfocal.statistics.class_alpha import ClassAlpha, class_alpha, region_alpha
from segfocal.statistics.class_units import Unit
from segfocal.statistics.class_weights import Scheme
from segfocal.statistics.voxel_counts import VoxelCounts

Annotated = Mapping[str, Sequence[bool]]
"""Case id to whether it says anything of each network output."""


def partial_class_alpha(
    counts: VoxelCounts,
    annotated: Annotated,
    scheme: Scheme,
    *,
    beta: float | None = None,
    unit: Unit = "voxels",
    max_ratio: float | None = None,
    empty: Literal["error", "zero"] = "error",
) -> ClassAlpha:
    """`class_alpha` over the cases that were annotated for every class.

    The shares of classes that exclude each other can be compared in those cases only: elsewhere
    the voxels of a class nobody looked for are counted as background.

    Args:
        counts: Voxels of the training split.
        annotated: For each case, one bool per class.
        scheme: As in `class_alpha`.
        beta: As in `class_alpha`.
        unit: As in `class_alpha`.
        max_ratio: As in `class_alpha`.
        empty: A class without voxels is an `error`, or weighs `zero`.

    Raises:
        UserError: As `class_alpha`, or if no case was annotated for every class.
    """
    whole = _annotated_whole(counts, annotated, scheme, unit)
    return class_alpha(whole, scheme, beta=beta, unit=unit, max_ratio=max_ratio, empty=empty)


def partial_region_alpha(
    counts: VoxelCounts,
    annotated: Annotated,
    scheme: Scheme,
    *,
    beta: float | None = None,
    unit: Unit = "voxels",
    max_ratio: float | None = None,
    empty: Literal["error", "zero"] = "error",
) -> ClassAlpha:
    """`region_alpha`, for each region over the cases that were annotated for it.

    Regions are questions of their own, so each may be answered by other cases. With all cases
    annotated for everything this is `region_alpha`. Lesions are compared between regions: where
    they are the unit, all come from the cases that were annotated for every region.

    Args:
        counts: Voxels of the training split.
        annotated: For each case, one bool per region.
        scheme: As in `region_alpha`.
        beta: As in `region_alpha`.
        unit: As in `region_alpha`.
        max_ratio: As in `region_alpha`.
        empty: A region without voxels is an `error`, or has alpha `zero`.

    Raises:
        UserError: As `region_alpha`, or if no case was annotated for a region.
    """
    if unit == "lesions":
        counts = _annotated_whole(counts, annotated, scheme, unit)
    if all(all(annotated[case_id]) for case_id in counts.case_ids):
        return region_alpha(counts, scheme, beta=beta, unit=unit, max_ratio=max_ratio, empty=empty)
    weights = []
    for channel, name in enumerate(counts.scheme.output_names):
        cases = [case_id for case_id in counts.case_ids if annotated[case_id][channel]]
        known = counts.subset(cases)
        if not known.region_table[:, channel].any():
            if empty == "zero":
                weights.append(0.0)
                continue
            num_cases = f"{len(cases)} case{'' if len(cases) == 1 else 's'}"
            raise UserError(
                f"Class {name} has no voxel in the {num_cases} annotated for it: alpha is "
                f"undefined. Change the split, drop the class, or set loss.alpha."
            )
        alpha = region_alpha(known, scheme, beta=beta, unit=unit, max_ratio=max_ratio, empty="zero")
        weights.append(alpha.weights[channel])
    merged = region_alpha(counts, scheme, beta=beta, unit=unit, max_ratio=max_ratio, empty="zero")
    return dataclasses.replace(
        merged, weights=tuple(weights), options={**merged.options, "annotated": "by region"}
    )


def _annotated_whole(
    counts: VoxelCounts, annotated: Annotated, scheme: Scheme, unit: Unit
) -> VoxelCounts:
    """The counts of the cases that were annotated for every output."""
    whole = [case_id for case_id in counts.case_ids if all(annotated[case_id])]
    if not whole:
        what = "lesions" if unit == "lesions" else "voxels"
        raise UserError(
            f"loss.alpha: {scheme} compares the classes' {what} in cases that were annotated for "
            f"every class, and there is none. Set loss.alpha to one number a class, "
            f"or null."
        )
    return counts.subset(whole)


def output_shares(counts: VoxelCounts, annotated: Annotated) -> list[float]:
    """Share of voxels that each network output holds, over the cases annotated for it.

    Args:
        counts: Voxels of the training split.
        annotated: For each case, one bool per output.

    Returns:
        One number from 0 to 1 per output; 0 where no case was annotated for it.
    """
    positives, volumes = counts.region_table, counts.table.sum(axis=1)
    known = np.array([annotated[case_id] for case_id in counts.case_ids], dtype=np.bool_)
    held = np.where(known, positives, 0).sum(axis=0)
    seen = np.where(known, volumes[:, None], 0).sum(axis=0)
    return [int(h) / max(int(s), 1) for h, s in zip(held, seen, strict=True)]
