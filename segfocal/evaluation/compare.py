"""What `segfocal-compare` does: reads the scores of methods, compares, tells and writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segfocal.data.patients import patients_of
from segfocal.errors import UserError
from segfocal.evaluation.comparison_files import (
    FILES,
    FORMAT,
    RECORD,
    Comparison,
    comparison_record,
    write_files,
)
from segfocal.evaluation.method_scores import (
    common_cases,
    comparable_measures,
    read_method,
)
from segfocal.evaluation.out_folder import check_out_folder
from segfocal.metrics.comparison_measures import MEASURES, TOLD
from segfocal.metrics.method_comparison import LEVEL, compare_methods
from segfocal.reports.console import Console
from segfocal.reports.text import SEPARATOR

_MAX_TOLD = 4

_INTERVAL_POLICY = "95% CI: jackknife over patients, Student's t"
_TEST_POLICY = "p: exchange of two methods' results of a patient, Holm over the table"


@dataclass(frozen=True)
class CompareRequest:
    """The arguments of segfocal-compare.

    Attributes:
        folders: `DIR`, `NAME=DIR` or `NAME=PATTERN` of each method.
        baseline: The name of the one that others are compared to; None is the first.
        patient: What a case id looks like (`patients_of`); None takes `sub-01_ses-02` and the like
            for scans of one patient and every other case for a patient.
        measures: Keys of `MEASURES`; empty is all there are, of which `TOLD` are printed.
        out: Folder for tables and a picture (`comparison_files.FILES`); None is none.
        allow_missing: Cases that a method lacks are no problem.
        as_json: Print the record as JSON and nothing else.
        quiet: Print nothing but problems.
    """

    folders: tuple[str, ...]
    baseline: str | None = None
    patient: str | None = None
    measures: tuple[str, ...] = ()
    out: Path | None = None
    allow_missing: bool = False
    as_json: bool = False
    quiet: bool = False


def compare(request: CompareRequest) -> int:
    """Compares methods by what segfocal-evaluate or training runs wrote.

    Returns:
        Exit status: 1 if a method lacks cases that others have, else 0.

    Raises:
        UserError: For a mistake in the arguments, or scores that cannot be compared.
    """
    named = named_folders(request.folders)
    baseline = request.baseline or next(iter(named))
    if baseline not in named:
        raise UserError(f"--baseline {baseline}: the methods are {', '.join(named)}.")
    _check(request)
    methods = [read_method(name, parts) for name, parts in named.items()]
    cases, left_out = common_cases(methods)
    measures = comparable_measures(methods, request.measures)
    patients = patients_of(cases, request.patient, layout="bids")
    results = compare_methods(
        {method.name: method.cases for method in methods}, baseline, patients, measures
    )
    comparison = Comparison(tuple(methods), baseline, patients, left_out, results)
    written = write_files(request.out, comparison) if request.out is not None else []
    if request.as_json:
        record = comparison_record(comparison)
        json.dump(record, sys.stdout, indent=1, ensure_ascii=False, allow_nan=False)
        sys.stdout.write("\n")
    else:
        _tell(comparison, written, request)
    return 1 if left_out and not request.allow_missing else 0


def named_folders(folders: Sequence[str]) -> dict[str, tuple[Path, ...]]:
    """Names of methods to their folders.

    `NAME=DIR` says the name; else it is the part of the path in which it differs from the others.
    In `NAME=PATTERN` may be `*`, `?` and `[...]`, for the folds of a cross-validation.

    Raises:
        UserError: If two have one name or are one folder.

    Example:
        >>> list(named_folders(["runs/a/scores", "runs/b/scores", "nnU-Net=elsewhere"]))
        ['a', 'b', 'nnU-Net']
    """
    given: list[tuple[str, str]] = []
    for text in folders:
        name, equals, rest = text.partition("=")
        is_named = bool(equals and name) and not Path(text).exists()
        given.append((name, rest) if is_named else ("", text))
    unnamed = [text for name, text in given if not name]
    short = iter(_short_names([Path(text).resolve() for text in unnamed]))
    named: dict[str, tuple[Path, ...]] = {}
    for said, text in given:
        name = said or next(short)
        if name in named:
            raise UserError(
                f"Two methods are called {name}. Name them: a={named[name][0]} b={text}."
            )
        named[name] = _fitting(Path(text)) if said else (Path(text),)
    return named


def _fitting(path: Path) -> tuple[Path, ...]:
    """The folders that a pattern fits; the path itself where there is none."""
    if path.exists():
        return (path,)
    root = Path(path.anchor)
    found = sorted(at for at in root.glob(str(path.relative_to(root))) if at.is_dir())
    return tuple(found) or (path,)


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The last part of each path in which all of them differ; the whole path if there is none."""
    for back in range(1, min((len(path.parts) for path in paths), default=1)):
        names = [path.parts[-back] for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _check(request: CompareRequest) -> None:
    unknown = [key for key in request.measures if key not in MEASURES]
    if unknown:
        raise UserError(f"--measures {unknown[0]}: expected some of {', '.join(MEASURES)}.")
    if request.out is not None:
        check_out_folder(request.out, FILES, RECORD, FORMAT)


def _tell(comparison: Comparison, written: Sequence[Path], request: CompareRequest) -> None:
    from segfocal.reports.comparison_tables import comparison_table

    console = Console(quiet=request.quiet)
    if not request.allow_missing:
        _tell_left_out(comparison)
    console.line(_headline(comparison), "bold")
    if comparison.stamp:
        console.line(comparison.stamp)
    chosen = [method.name for method in comparison.methods if method.is_validation]
    if chosen:
        console.line(
            f"doubt  {', '.join(chosen)}: validation cases, by which the epoch of best.pt was "
            f"chosen. For a fair number: segfocal-predict on other cases, segfocal-evaluate --out"
        )
    for method in comparison.methods:
        trained = [case for case in method.trained_on if case in comparison.patients]
        if trained:
            console.line(
                f"doubt  {method.name} was trained on {len(trained)} of the cases ({trained[0]} "
                f"...): for them this is no measure of new ones"
            )
    for key in request.measures or TOLD:
        if key in comparison.results:
            console.table(
                comparison_table(MEASURES[key], comparison.results[key], comparison.baseline, LEVEL)
            )
    is_alone = len(comparison.methods) == 1
    policies = [_INTERVAL_POLICY] if is_alone else [_INTERVAL_POLICY, _TEST_POLICY]
    console.line(SEPARATOR.join(policies))
    if written:
        console.line("wrote  " + " ".join(map(str, written)))


def _headline(comparison: Comparison) -> str:
    """`compared 3 methods on 20 cases of 18 patients`."""
    methods, cases = len(comparison.methods), len(comparison.patients)
    patients = len(set(comparison.patients.values()))
    parts = [f"compared {methods} methods on {cases} case{'' if cases == 1 else 's'}"]
    if methods == 1:
        parts = [f"{comparison.baseline}, {cases} case{'' if cases == 1 else 's'}"]
    if patients != cases:
        parts[0] += f" of {patients} patient{'' if patients == 1 else 's'}"
    if comparison.left_out:
        parts.append(f"{len(comparison.left_out)} left out")
    return SEPARATOR.join(parts)


def _tell_left_out(comparison: Comparison) -> None:
    for number, (case, names) in enumerate(comparison.left_out.items()):
        if number == _MAX_TOLD:
            sys.stderr.write(f"error  and {len(comparison.left_out) - number} more\n")
            break
        sys.stderr.write(f"error  {case}: left out, {', '.join(names)} lacks it\n")
    sys.stderr.flush()
