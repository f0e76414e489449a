"""A data set in numbers: what its cases, put together, say of classes, lesions, grids, channels."""

from __future__ import annotations

import contextlib
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from segfocal._version import __version__
from segfocal.data.case_survey import CaseSurvey, LabelSurvey
from segfocal.data.cases import Dataset
from segfocal.data.defects import Problem
from segfocal.data.group_stats import GroupStats, group_stats
from segfocal.data.partial import annotated_outputs
from segfocal.data.phantom.stamp import STAMP
from segfocal.errors import UserError
from segfocal.statistics.class_alpha import ClassAlpha
from segfocal.statistics.class_units import Unit
from segfocal.statistics.class_weights import SCHEMES
from segfocal.statistics.intensities import PERCENTILES, Intensities
from segfocal.statistics.partial_labels import partial_class_alpha, partial_region_alpha
from segfocal.statistics.voxel_counts import VoxelCounts

FORMAT = "segfocal-stats 1"
"""Value of the key `format` of a stats.json."""


@dataclass(frozen=True)
class ChannelStats:
    """A channel over all usable cases. What has no number (all voxels 0) is None.

    Attributes:
        name: The channel.
        dtypes: How its numbers are stored, with the cases that do so.
        minimum: Smallest number of any case.
        maximum: Largest number of any case.
        zero_fraction: Share of voxels that are 0, median over the cases.
        percentiles: Median over the cases of each case's percentile of the voxels that are not 0.
        annotated: The same over the voxels of any class but the background; None where no case has
            such a voxel.
    """

    name: str
    dtypes: dict[str, int]
    minimum: float
    maximum: float
    zero_fraction: float
    percentiles: dict[str, float | None]
    annotated: dict[str, float | None]


@dataclass(frozen=True)
class DatasetStats:
    """A data set in numbers. Cases with an error are left out, and named.

    Attributes:
        dataset: The data set.
        counts: Voxels of each class and case: the record that training uses.
        groups: Classes, background first, then regions.
        channels: What the channels hold.
        spacing_mm: Smallest, median and largest voxel size along R, A, S.
        shape: The same of the axis lengths.
        orientations: Where the axes of the files point, with the cases of each.
        alpha: Class weights by every scheme, for each unit that can be counted.
        alpha_note: Why a weight is missing or 0; empty where none is.
        surveys: Every case, those left out included.
    """

    dataset: Dataset
    counts: VoxelCounts
    groups: tuple[GroupStats, ...]
    channels: tuple[ChannelStats, ...]
    spacing_mm: dict[str, tuple[float, ...]]
    shape: dict[str, tuple[float, ...]]
    orientations: dict[str, int]
    alpha: dict[Unit, dict[str, ClassAlpha]]
    alpha_note: str
    surveys: tuple[CaseSurvey, ...]

    @property
    def num_partial(self) -> int:
        """Of the cases counted, those that were annotated for some of the classes alone."""
        partial = {case.case_id for case in self.dataset.cases if case.annotated is not None}
        return len(partial.intersection(self.counts.case_ids))

    @property
    def left_out(self) -> tuple[str, ...]:
        """Ids of the cases with an error."""
        return tuple(survey.case_id for survey in self.surveys if not survey.usable)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for stats.json. `VoxelCounts.from_dict` reads its `counts`."""
        return {
            "format": FORMAT,
            "segfocal": __version__,
            "dataset": {
                "name": self.dataset.name,
                "layout": self.dataset.layout,
                "synthetic": STAMP if self.dataset.synthetic else False,
                "channels": list(self.dataset.channels),
            },
            "num_cases": self.counts.num_cases,
            "left_out": list(self.left_out),
            "faults": list(self.dataset.faults),
            "annotated": {
                case.case_id: list(case.annotated)
                for case in self.dataset.cases
                if case.annotated is not None
            },
            "classes": [group.to_dict() for group in self.groups],
            "channels": [asdict(channel) for channel in self.channels],
            "spacing_mm": {key: list(sizes) for key, sizes in self.spacing_mm.items()},
            "shape": {key: list(lengths) for key, lengths in self.shape.items()},
            "orientations": self.orientations,
            "alpha": _alphas_to_dict(self.alpha["voxels"]),
            "alpha_by_lesions": _alphas_to_dict(self.alpha["lesions"]),
            "alpha_by_volumes": _alphas_to_dict(self.alpha["volumes"]),
            "alpha_note": self.alpha_note,
            "counts": self.counts.to_dict(),
            "cases": {survey.case_id: _case_to_dict(survey) for survey in self.surveys},
        }


def dataset_stats(dataset: Dataset, surveys: Sequence[CaseSurvey]) -> DatasetStats:
    """Puts the cases together.

    Raises:
        UserError: If no case is usable.
    """
    usable = [survey for survey in surveys if survey.usable and survey.label is not None]
    if not usable:
        first = next(
            (p for survey in surveys for p in survey.problems if p.severity == "error"), ""
        )
        raise UserError(
            f"{dataset.name}: none of {len(surveys)} cases can be used. The first: {first} "
            f"segfocal-stats --check lists them all."
        )
    counts = VoxelCounts(dataset.scheme)
    for survey in usable:
        assert survey.label is not None
        counts.add_counts(survey.label.voxels[:-1], survey.label.voxels[-1], case_id=survey.case_id)
        counts.add_lesions(_lesions(dataset, survey.label), case_id=survey.case_id)
    alpha: dict[Unit, dict[str, ClassAlpha]] = {}
    alpha["voxels"], alpha_note = _alphas(dataset, counts, "voxels")
    alpha["lesions"], _ = _alphas(dataset, counts, "lesions")
    alpha["volumes"], _ = _alphas(dataset, counts, "volumes")
    return DatasetStats(
        dataset,
        counts,
        group_stats(dataset, counts, usable),
        _channels(dataset, usable),
        _spread([in_ras(survey, survey.spacing_mm) for survey in usable]),
        _spread([in_ras(survey, survey.shape) for survey in usable]),
        dict(Counter(survey.orientation or "?" for survey in usable).most_common()),
        alpha,
        alpha_note,
        tuple(surveys),
    )


def _channels(dataset: Dataset, usable: Sequence[CaseSurvey]) -> tuple[ChannelStats, ...]:
    stats = []
    for name in dataset.channels:
        held = [channel for survey in usable for channel in survey.channels if channel.name == name]
        if not held:
            continue
        measured = [channel.intensities for channel in held]
        within = [channel.annotated for channel in held if channel.annotated is not None]
        stats.append(
            ChannelStats(
                name,
                dict(Counter(channel.dtype for channel in held).most_common()),
                min(m.minimum for m in measured),
                max(m.maximum for m in measured),
                statistics.median(m.zero_fraction for m in measured),
                _middle(measured),
                _middle(within),
            )
        )
    return tuple(stats)


def _middle(measured: Sequence[Intensities]) -> dict[str, float | None]:
    """Median over the cases of each percentile."""
    told = [m.percentiles for m in measured if m.zero_fraction < 1]
    return {
        f"{percent:g}%": statistics.median(of[index] for of in told) if told else None
        for index, percent in enumerate(PERCENTILES)
    }


def _lesions(dataset: Dataset, label: LabelSurvey) -> list[int]:
    """Number of lesions in the order of `lesion_groups`."""
    scheme = dataset.scheme
    names = (*scheme.names[1:], *(region.name for region in scheme.regions))
    return [len(label.lesions_mm3.get(name, ())) for name in names]


def _alphas(dataset: Dataset, counts: VoxelCounts, unit: Unit) -> tuple[dict[str, ClassAlpha], str]:
    """Weights by every scheme, over the cases annotated for what is weighed, as training does.

    A class without voxels weighs 0, and the note tells of it.
    """
    derive = partial_region_alpha if counts.scheme.regions else partial_class_alpha
    declared = {case.case_id: case.annotated for case in dataset.cases}
    annotated = {
        case_id: annotated_outputs(dataset.scheme, declared.get(case_id))
        for case_id in counts.case_ids
    }
    note = ""
    alphas: dict[str, ClassAlpha] = {}
    for name in SCHEMES:
        try:
            alphas[name] = derive(counts, annotated, name, unit=unit)
        except UserError as error:
            note = note or str(error)
            with contextlib.suppress(UserError):
                alphas[name] = derive(counts, annotated, name, unit=unit, empty="zero")
    return alphas, note


def _alphas_to_dict(alphas: Mapping[str, ClassAlpha]) -> dict[str, Any]:
    return {scheme: alpha.to_dict() for scheme, alpha in alphas.items()}


def _spread(rows: Sequence[Sequence[float]]) -> dict[str, tuple[float, ...]]:
    """Smallest, median and largest along each axis."""
    columns = list(zip(*rows, strict=True))
    return {
        "smallest": tuple(min(column) for column in columns),
        "median": tuple(statistics.median(column) for column in columns),
        "largest": tuple(max(column) for column in columns),
    }


def in_ras(survey: CaseSurvey, along: Sequence[float] | None) -> Sequence[float]:
    """Numbers by file axis, put in the order R, A, S."""
    assert along is not None
    letters = survey.orientation or ""
    order = [
        next((i for i, letter in enumerate(letters) if letter in pair), -1)
        for pair in ("LR", "PA", "IS")
    ]
    return along if -1 in order else [along[i] for i in order]


def _case_to_dict(survey: CaseSurvey) -> dict[str, Any]:
    label = survey.label
    return {
        "shape": survey.shape and list(survey.shape),
        "spacing_mm": survey.spacing_mm and list(survey.spacing_mm),
        "orientation": survey.orientation,
        "lesions": {} if label is None else _lesions_to_dict(label.lesions_mm3),
        "channels": {
            channel.name: {
                "dtype": channel.dtype,
                "minimum": _number(channel.intensities.minimum),
                "maximum": _number(channel.intensities.maximum),
                "zero_fraction": channel.intensities.zero_fraction,
                "percentiles": _percentiles(channel.intensities),
                "annotated": None if channel.annotated is None else _percentiles(channel.annotated),
            }
            for channel in survey.channels
        },
        "problems": [problem_to_dict(problem) for problem in survey.problems],
    }


def _percentiles(measured: Intensities) -> dict[str, float | None]:
    return {
        f"{percent:g}%": _number(value)
        for percent, value in zip(PERCENTILES, measured.percentiles, strict=True)
    }


def problem_to_dict(problem: Problem) -> dict[str, str]:
    """Plain values of a `Problem`."""
    return {
        "case": problem.case_id,
        "kind": problem.kind,
        "severity": problem.severity,
        "message": problem.text,
    }


def _lesions_to_dict(lesions_mm3: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    return {
        name: {
            "lesions": len(sizes),
            "smallest_mm3": sizes[0] if sizes else None,
            "median_mm3": statistics.median(sizes) if sizes else None,
            "largest_mm3": sizes[-1] if sizes else None,
        }
        for name, sizes in lesions_mm3.items()
    }


def _number(value: float) -> float | None:
    """JSON has no word for NaN."""
    return value if value == value else None
