"""The scores of a method, from what segfocal-evaluate or a training run wrote."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from segfocal.errors import UserError
from segfocal.evaluation.files import FORMAT, SUMMARY
from segfocal.files import read_json
from segfocal.metrics.comparison_measures import MEASURES, PER_CASE, CaseClass, Measure
from segfocal.metrics.lesionwise import LesionCounts
from segfocal.metrics.method_comparison import CaseTable
from segfocal.reports.case_table import read_case_scores
from segfocal.reports.csv_file import number, read_csv

CASES = "cases.csv"
VALIDATION_CASES = "val_cases.csv"


@dataclass(frozen=True)
class MethodScores:
    """What is known of a method.

    Attributes:
        name: What it is called in tables.
        path: Its folder, or the first of several.
        cases: Case to class to scores; None where the case was not annotated for the class.
        rules: What was measured by: `tolerance_mm`, `lesions`.
        is_validation: Whether these are the validation cases of a run, which its checkpoint was
            chosen by.
        is_synthetic: Whether any of it is the phantom's.
        trained_on: Those of the cases that the network was trained on, where the evaluation knew.
    """

    name: str
    path: Path
    cases: CaseTable
    rules: Mapping[str, object] = field(default_factory=dict)
    is_validation: bool = False
    is_synthetic: bool = False
    trained_on: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes or regions, in the order of the files."""
        return tuple(dict.fromkeys(name for case in self.cases.values() for name in case))

    @property
    def measured(self) -> frozenset[str]:
        """Those of `PER_CASE` that it has a number of."""
        known = (
            key
            for case in self.cases.values()
            for scores in case.values()
            if scores is not None
            for key, value in scores.values.items()
            if not math.isnan(value)
        )
        return frozenset(known)


def read_method(name: str, folders: Sequence[Path]) -> MethodScores:
    """The scores of a method.

    Args:
        name: What it is called.
        folders: `--out` of segfocal-evaluate, or a run of segfocal-train; several hold different
            cases, as the folds of a cross-validation do.

    Raises:
        UserError: If one is neither, or cannot be read, or two do not belong together.
    """
    parts = [_read_scores(name, folder) for folder in folders]
    whole = parts[0]
    for part in parts[1:]:
        twice = next((case for case in part.cases if case in whole.cases), None)
        if twice is not None:
            raise UserError(
                f"{name}: {twice} is in {part.path} and in another of its folders. Those of one "
                f"method hold different cases, as folds do."
            )
        if set(part.classes) != set(whole.classes) or part.rules != whole.rules:
            raise UserError(
                f"{name}: {whole.path} and {part.path} were not measured alike. Evaluate them with "
                f"the same labels and options."
            )
        whole = replace(
            whole,
            cases={**whole.cases, **part.cases},
            is_validation=whole.is_validation or part.is_validation,
            is_synthetic=whole.is_synthetic or part.is_synthetic,
            trained_on=(*whole.trained_on, *part.trained_on),
        )
    return whole


def _read_scores(name: str, folder: Path) -> MethodScores:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder.")
    if (folder / SUMMARY).is_file() and (folder / CASES).is_file():
        return _evaluated(name, folder)
    if (folder / VALIDATION_CASES).is_file():
        return _validated(name, folder)
    raise UserError(
        f"{folder} holds neither {SUMMARY} and {CASES}, which segfocal-evaluate --out writes, nor "
        f"{VALIDATION_CASES} of a training run. Of predictions: segfocal-evaluate --pred "
        f"{shlex.quote(str(folder))} --ref LABELS --out SCORES."
    )


def _evaluated(name: str, folder: Path) -> MethodScores:
    summary = read_json(folder / SUMMARY)
    if summary.get("format") != FORMAT:
        raise UserError(f"{folder / SUMMARY} is not by segfocal-evaluate ({FORMAT}).")
    cases: dict[str, dict[str, CaseClass | None]] = {}
    for line, row in enumerate(read_csv(folder / CASES), start=2):
        try:
            cases.setdefault(row["case"], {})[row["class"]] = _case_class(row)
        except (KeyError, ValueError, TypeError) as error:
            raise UserError(
                f"{folder / CASES}:{line}: not a row as segfocal-evaluate writes it ({error}). "
                f"Evaluate again."
            ) from error
    rules = summary.get("measures")
    return MethodScores(
        name,
        folder,
        _not_empty(cases, folder / CASES),
        {key: rules.get(key) for key in ("tolerance_mm", "lesions")} if rules else {},
        is_synthetic=bool(summary.get("synthetic")),
        trained_on=tuple(map(str, summary.get("trained_on") or ())),
    )


def _case_class(row: Mapping[str, str]) -> CaseClass | None:
    if not row["ref_voxels"]:
        return None
    return CaseClass(
        int(row["ref_voxels"]),
        LesionCounts(int(row["lesions"]), int(row["lesions_found"]), int(row["false_positives"])),
        {key: number(row[key]) for key in PER_CASE},
    )


def _validated(name: str, folder: Path) -> MethodScores:
    path = folder / VALIDATION_CASES
    try:
        scores = read_case_scores(path)
        is_synthetic = any(row["note"] for row in read_csv(path))
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not as segfocal-train writes it ({error}).") from error
    cases = {
        score.case: {
            region: CaseClass(one.ref_voxels, one.counts, {"dice": one.dice})
            if one.annotated
            else None
            for region, one in score.regions.items()
        }
        for score in scores
    }
    return MethodScores(
        name,
        folder,
        _not_empty(cases, path),
        {"lesions": "plain"},
        is_validation=True,
        is_synthetic=is_synthetic,
    )


def _not_empty(cases: CaseTable, path: Path) -> CaseTable:
    if not cases:
        raise UserError(f"{path}: holds no case.")
    return cases


def common_cases(
    methods: Sequence[MethodScores],
) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """The cases that all methods have, and the others with the methods that lack them.

    Raises:
        UserError: If classes or references of the methods are not the same, or no case is common.
    """
    first = methods[0]
    every = dict.fromkeys(case for method in methods for case in method.cases)
    lacking = {
        case: tuple(method.name for method in methods if case not in method.cases) for case in every
    }
    common = tuple(case for case in every if not lacking[case])
    for other in methods[1:]:
        if set(other.classes) != set(first.classes):
            raise UserError(
                f"{first.path} holds {', '.join(first.classes)}, {other.path} "
                f"{', '.join(other.classes)}. Evaluate both with the same data.labels."
            )
        for case in common:
            _check_reference(case, first, other)
    if not common:
        names = " and ".join(
            f"{method.path} ({next(iter(method.cases))} ...)" for method in methods
        )
        raise UserError(f"{names} have no case in common.")
    return common, {case: names for case, names in lacking.items() if names}


def comparable_measures(methods: Sequence[MethodScores], wanted: Sequence[str]) -> tuple[str, ...]:
    """The measures that every method has, by the same rules.

    Args:
        methods: The methods.
        wanted: Keys of `MEASURES`, each of which there has to be; empty is what there is.

    Raises:
        UserError: If one of them is not measured, or not by the same rules.
    """
    found = []
    for key, measure in MEASURES.items():
        lacking = [m.path for m in methods if key in PER_CASE and key not in m.measured]
        why = f"{lacking[0]} has no {key}." if lacking else _differing(measure, methods)
        if not why:
            found.append(key)
        elif key in wanted:
            raise UserError(f"--measures {key}: {why}")
    return tuple(key for key in found if not wanted or key in wanted)


def _differing(measure: Measure, methods: Sequence[MethodScores]) -> str:
    for rule in measure.rules:
        told = {str(method.rules.get(rule)): method.path for method in methods}
        if len(told) > 1:
            by = " and ".join(f"{path} by {value}" for value, path in told.items())
            option = {"tolerance_mm": "--tolerance", "lesions": "--lesionwise"}[rule]
            return f"not measured alike, {by}. Evaluate them with one {option}."
    return ""


def _check_reference(case: str, first: MethodScores, other: MethodScores) -> None:
    for name in first.classes:
        mine, theirs = first.cases[case].get(name), other.cases[case].get(name)
        one, another = (None if s is None else s.ref_voxels for s in (mine, theirs))
        if one != another:
            told = ["not annotated" if n is None else f"{n} voxels" for n in (one, another)]
            raise UserError(
                f"{case}: the reference of {name} is {told[0]} in {first.path}, {told[1]} in "
                f"{other.path}. Evaluate both against the same labels."
            )
