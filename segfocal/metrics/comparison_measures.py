"""The measures that methods are compared by, each as terms of a ratio over cases."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from segfocal.metrics.lesionwise import LesionCounts

Unit = Literal["fraction", "mm", "count"]
Terms = tuple[float, float]


@dataclass(frozen=True)
class CaseClass:
    """What a method reached in one class or region of one case.

    Attributes:
        ref_voxels: Voxels of the reference.
        counts: Its lesions.
        values: `PER_CASE`, as far as they were measured; NaN where neither side holds the class.
    """

    ref_voxels: int
    counts: LesionCounts
    values: Mapping[str, float]


@dataclass(frozen=True)
class Measure:
    """A measure of a class over cases: sum of numerators over sum of denominators.

    Attributes:
        key: Its name in files.
        title: Its name in tables.
        unit: What its numbers are.
        higher_is_better: Whether more of it is better.
        terms: Numerator and denominator of one case; denominator 0 where it has nothing to say.
        is_pooled: Whether it is of the lesions of all cases together; else a mean over cases.
        rules: The rules of the evaluation that it depends on.
    """

    key: str
    title: str
    unit: Unit
    higher_is_better: bool
    terms: Callable[[CaseClass], Terms]
    is_pooled: bool = False
    rules: tuple[str, ...] = ()

    @property
    def nothing(self) -> float:
        """The best value, of a case where there was nothing to do and nothing was done."""
        return 1.0 if self.higher_is_better else 0.0

    @property
    def bounds(self) -> tuple[float, float]:
        """What its values lie between."""
        return (0.0, 1.0 if self.unit == "fraction" else math.inf)

    def of_terms(self, terms: Terms) -> float:
        """The measure of one case alone."""
        numerator, denominator = terms
        return numerator / denominator if denominator else self.nothing


def _mean(
    key: str, title: str, unit: Unit, higher_is_better: bool, rules: tuple[str, ...] = ()
) -> Measure:
    def terms(scores: CaseClass) -> Terms:
        value = scores.values.get(key, math.nan)
        return (0.0, 0.0) if math.isnan(value) else (value, 1.0)

    return Measure(key, title, unit, higher_is_better, terms, rules=rules)


def _f1(scores: CaseClass) -> Terms:
    counts = scores.counts
    return 2.0 * counts.found, float(counts.lesions + counts.found + counts.false_positives)


def _sensitivity(scores: CaseClass) -> Terms:
    return float(scores.counts.found), float(scores.counts.lesions)


def _false_positives(scores: CaseClass) -> Terms:
    return float(scores.counts.false_positives), 1.0


_LESIONS = ("lesions",)

_IN_VALUES = (
    _mean("dice", "Dice", "fraction", True),
    _mean("nsd", "NSD", "fraction", True, ("tolerance_mm",)),
    _mean("hd95_mm", "HD95 in mm", "mm", False),
    _mean("assd_mm", "ASSD in mm", "mm", False),
    _mean("lesion_dice", "BraTS lesion-wise Dice", "fraction", True, _LESIONS),
    _mean("lesion_hd95_mm", "BraTS lesion-wise HD95 in mm", "mm", False, _LESIONS),
)

_OF_LESIONS = (
    Measure("lesion_f1", "Lesion F1, all cases", "fraction", True, _f1, True, _LESIONS),
    Measure(
        "sensitivity", "Lesions found, all cases", "fraction", True, _sensitivity, True, _LESIONS
    ),
    Measure(
        "false_positives",
        "False positives a case",
        "count",
        False,
        _false_positives,
        False,
        _LESIONS,
    ),
)

MEASURES = {measure.key: measure for measure in (*_IN_VALUES, *_OF_LESIONS)}

PER_CASE = tuple(measure.key for measure in _IN_VALUES)
"""Those that a case has a number of by itself; the others are made of its lesions."""

TOLD = ("lesion_dice", "lesion_hd95_mm", "dice", "hd95_mm", "nsd", "lesion_f1")
"""What is printed where nothing else was asked for, as far as it was measured."""
