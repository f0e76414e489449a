"""What `--out` holds of probabilities: a row a case, a row a threshold, a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from segfocal.evaluation.case import CaseEvaluation
from segfocal.evaluation.outcome import Outcome
from segfocal.metrics.calibration import (
    THRESHOLDS,
    best_threshold,
    confusion_by_threshold,
    dice_by_threshold,
    reliability,
)
from segfocal.metrics.free_response import FROC_RATES, froc
from segfocal.metrics.probability_evaluation import CurveReport, RegionCurves
from segfocal.reports.csv_file import cell, write_csv
from segfocal.reports.curve_tables import BEST_POLICY

PICTURE = "curves.png"
CURVE_FILES = ("probabilities.csv", "thresholds.csv", "reliability.csv", "froc.csv", PICTURE)

PROBABILITY_COLUMNS = (
    "case", "class", "voxels", "positives", "auroc", "auroc_error", "average_precision",
    "average_precision_error", "brier", "ece", "best_threshold", "best_dice", "lesions",
    "candidates_false", "lesion_average_precision", "note",
)  # fmt: skip
THRESHOLD_COLUMNS = (
    "class", "threshold", "dice_mean", "dice_cases", "dice_pooled", "precision", "sensitivity",
    "specificity", "note",
)  # fmt: skip
RELIABILITY_COLUMNS = ("class", "above", "up_to", "voxels", "confidence", "frequency", "note")
FROC_COLUMNS = (
    "class", "threshold", "lesions_found", "false_positives", "sensitivity",
    "false_positives_per_case", "precision", "note",
)  # fmt: skip


def write_curves(out: Path, outcome: Outcome) -> list[Path]:
    """Writes the files of the probabilities; removes an earlier evaluation's where there are none.

    Args:
        out: A folder that this command wrote.
        outcome: The evaluation.
    """
    if not outcome.curves:
        for name in CURVE_FILES:
            (out / name).unlink(missing_ok=True)
        return []
    from segfocal.reports.curve_figure import curve_figure

    _write_cases(out / CURVE_FILES[0], outcome.cases, outcome.stamp)
    tables: tuple[tuple[Sequence[str], Callable[[CurveReport], list[dict[str, Any]]]], ...] = (
        (THRESHOLD_COLUMNS, _thresholds),
        (RELIABILITY_COLUMNS, _reliability),
        (FROC_COLUMNS, _froc),
    )
    for file, (columns, rows_of) in zip(CURVE_FILES[1:], tables, strict=False):
        rows = [
            {"class": name, "note": outcome.stamp} | row
            for name, report in outcome.curves.items()
            for row in rows_of(report)
        ]
        _write(out / file, columns, rows)
    curve_figure(outcome.curves, out / PICTURE, synthetic=outcome.is_synthetic)
    return [out / name for name in CURVE_FILES]


def curves_record(outcome: Outcome) -> dict[str, Any] | None:
    """The probabilities as plain values, NaN for what is undefined; None where none were read."""
    if outcome.probabilities_from is None:
        return None
    return {
        "from": str(outcome.probabilities_from),
        "candidates_above": outcome.rules.candidate_threshold,
        "best_threshold_is": BEST_POLICY,
        "classes": {name: _record(report) for name, report in outcome.curves.items()},
    }


def _record(report: CurveReport) -> dict[str, Any]:
    curve = report.froc
    return {
        "n": report.n,
        "n_present": report.n_present,
        "voxels": report.table.num_voxels,
        "positives": report.table.num_positives,
        "pooled": {
            "auroc": asdict(report.pooled_auroc),
            "average_precision": asdict(report.pooled_average_precision),
            "brier": report.table.brier,
            "ece": reliability(report.table).ece,
        },
        "cases": {
            name: asdict(getattr(report, name))
            for name in ("auroc", "average_precision", "brier", "ece")
        },
        "dice": {
            "at_half": report.dice_at_half,
            "best": report.best_dice,
            "best_threshold": report.best_threshold,
        },
        "lesions": {
            "lesions": curve.num_lesions,
            "touched": int(curve.found.max(initial=0)),
            "candidates_false": int(curve.false_positives.max(initial=0)),
            "average_precision": curve.average_precision,
            "froc_score": curve.score,
            "sensitivity_at_false_positives_per_case": {
                f"{rate:g}": curve.sensitivity_at(rate) for rate in FROC_RATES
            },
        },
    }


def _write_cases(path: Path, cases: Sequence[CaseEvaluation], note: str) -> None:
    rows = [
        {"case": case.case_id, "class": name, "note": note} | _case_row(case.curves.get(name))
        for case in cases
        for name in case.regions
    ]
    _write(path, PROBABILITY_COLUMNS, rows)


def _case_row(curves: RegionCurves | None) -> dict[str, Any]:
    """The numbers of one case and class; none where it has no probabilities."""
    if curves is None:
        return {}
    threshold, dice = best_threshold(dice_by_threshold(curves.table))
    return {
        "voxels": curves.table.num_voxels,
        "positives": curves.table.num_positives,
        "auroc": curves.auroc.value,
        "auroc_error": curves.auroc.error,
        "average_precision": curves.average_precision.value,
        "average_precision_error": curves.average_precision.error,
        "brier": curves.table.brier,
        "ece": reliability(curves.table).ece,
        "best_threshold": threshold,
        "best_dice": dice,
        "lesions": len(curves.candidates.lesions),
        "candidates_false": len(curves.candidates.false_positives),
        "lesion_average_precision": froc(curves.candidates).average_precision,
    }


def _thresholds(report: CurveReport) -> list[dict[str, Any]]:
    hits, alarms, misses = (one.tolist() for one in confusion_by_threshold(report.table))
    others = report.table.num_voxels - report.table.num_positives
    return [
        {
            "threshold": threshold,
            "dice_mean": dice_mean,
            "dice_cases": dice_cases,
            "dice_pooled": dice_pooled,
            "precision": _share(hit, hit + alarm),
            "sensitivity": _share(hit, hit + miss),
            "specificity": _share(others - alarm, others),
        }
        for threshold, dice_mean, dice_cases, dice_pooled, hit, alarm, miss in zip(
            THRESHOLDS.tolist(),
            report.mean_dice.tolist(),
            report.num_dice.tolist(),
            dice_by_threshold(report.table).tolist(),
            hits,
            alarms,
            misses,
            strict=True,
        )
    ]


def _reliability(report: CurveReport) -> list[dict[str, Any]]:
    curve = reliability(report.table)
    columns: Mapping[str, list[Any]] = {
        "above": [0.0, *curve.upper[:-1].tolist()],
        "up_to": curve.upper.tolist(),
        "voxels": curve.voxels.tolist(),
        "confidence": curve.confidence.tolist(),
        "frequency": curve.frequency.tolist(),
    }
    return _rows(columns)


def _froc(report: CurveReport) -> list[dict[str, Any]]:
    curve = report.froc
    columns: Mapping[str, list[Any]] = {
        "threshold": curve.thresholds.tolist(),
        "lesions_found": curve.found.tolist(),
        "false_positives": curve.false_positives.tolist(),
        "sensitivity": curve.sensitivity.tolist(),
        "false_positives_per_case": curve.false_positives_per_case.tolist(),
        "precision": curve.precision.tolist(),
    }
    return _rows(columns)


def _rows(columns: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _write(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    write_csv(path, columns, ({key: cell(row.get(key)) for key in columns} for row in rows))
