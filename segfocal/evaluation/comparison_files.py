"""What `segfocal-compare --out` writes: two tables, comparison.json and a picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from segfocal.data.phantom.stamp import STAMP
from segfocal.evaluation.files import without_nan
from segfocal.evaluation.method_scores import MethodScores
from segfocal.files import write_json
from segfocal.metrics.comparison_measures import MEASURES
from segfocal.metrics.method_comparison import LEVEL, ClassComparison
from segfocal.reports.csv_file import cell, write_csv

FORMAT = "segfocal-compare 1"
"""Value of the key `format` of a comparison.json."""

RECORD = "comparison.json"
FILES = ("comparison.csv", "comparison_cases.csv", RECORD, "comparison.png")

COLUMNS = (
    "measure", "class", "method", "baseline", "cases", "patients", "value", "low", "high",
    "difference", "difference_low", "difference_high", "p", "p_holm", "better", "same", "worse",
    "note",
)  # fmt: skip
CASE_COLUMNS = (
    "measure", "class", "case", "patient", "method", "value", "note",
)  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Everything that was compared.

    Attributes:
        methods: In the order they were given; the baseline among them.
        baseline: The name of the one that the others are compared to.
        patients: The patient of each case that all methods have.
        left_out: A case that some method lacks to the names of those.
        results: Measure to class to numbers.
    """

    methods: tuple[MethodScores, ...]
    baseline: str
    patients: Mapping[str, str]
    left_out: Mapping[str, tuple[str, ...]]
    results: Mapping[str, Mapping[str, ClassComparison]]

    @property
    def stamp(self) -> str:
        """The phantom's stamp, or ""."""
        return STAMP if any(method.is_synthetic for method in self.methods) else ""


def write_files(out: Path, comparison: Comparison) -> list[Path]:
    """Writes what a folder of a comparison holds; made if need be."""
    from segfocal.reports.comparison_figure import comparison_figure

    out.mkdir(exist_ok=True)
    write_json(out / RECORD, comparison_record(comparison))
    _write(out / FILES[0], COLUMNS, _rows(comparison))
    _write(out / FILES[1], CASE_COLUMNS, _case_rows(comparison))
    comparison_figure(
        comparison.results, comparison.baseline, out / FILES[3], synthetic=bool(comparison.stamp)
    )
    return [out / name for name in FILES]


def comparison_record(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain JSON values: NaN is null."""
    record = {
        "format": FORMAT,
        "synthetic": comparison.stamp or False,
        "methods": {
            method.name: {
                "path": str(method.path),
                "validation": method.is_validation,
                "trained_on": list(method.trained_on),
            }
            for method in comparison.methods
        },
        "baseline": comparison.baseline,
        "patients": dict(comparison.patients),
        "left_out": {case: list(names) for case, names in comparison.left_out.items()},
        "level": LEVEL,
        "measures": {
            key: {
                "higher_is_better": MEASURES[key].higher_is_better,
                "classes": {name: asdict(one) for name, one in classes.items()},
            }
            for key, classes in comparison.results.items()
        },
    }
    plain: dict[str, Any] = without_nan(record)
    return plain


def _rows(comparison: Comparison) -> Iterator[dict[str, Any]]:
    for key, classes in comparison.results.items():
        for name, one in classes.items():
            for method, value in one.values.items():
                row: dict[str, Any] = {"measure": key, "class": name, "method": method}
                row |= {"baseline": comparison.baseline, "note": comparison.stamp}
                row |= {"cases": one.num_cases, "patients": value.num_patients}
                row |= {"value": value.value, "low": value.low, "high": value.high}
                found = one.differences.get(method)
                if found is not None:
                    far = found.estimate
                    row |= {"difference": far.value, "p": found.p_value}
                    row |= {"difference_low": far.low, "difference_high": far.high}
                    row |= {"p_holm": found.p_adjusted}
                    row |= {sign: getattr(found, sign) for sign in ("better", "same", "worse")}
                yield row


def _case_rows(comparison: Comparison) -> Iterator[dict[str, Any]]:
    for key, classes in comparison.results.items():
        for name, one in classes.items():
            for method, values in one.per_case.items():
                for case, value in values.items():
                    row: dict[str, Any] = {"measure": key, "class": name, "case": case}
                    row |= {"patient": comparison.patients[case], "method": method}
                    yield row | {"value": value, "note": comparison.stamp}


def _write(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    write_csv(path, columns, ({key: cell(row.get(key)) for key in columns} for row in rows))
