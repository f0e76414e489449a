"""`val_cases.csv`: a row for each validation case and region."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from segfocal.metrics.case_score import NOT_ANNOTATED, CaseScore, RegionScore
from segfocal.reports.csv_file import cell, number, read_csv, write_csv

_COUNTS = ("ref_voxels", "pred_voxels", "lesions", "lesions_found", "false_positives")
_VOLUMES = ("ref_ml", "pred_ml")
_COLUMNS = ("epoch", "case", "region", "dice", *_COUNTS, *_VOLUMES, "note")


def write_case_scores(
    path: Path, scores: Iterable[CaseScore], *, epoch: int | None = None, note: str = ""
) -> None:
    """Write `val_cases.csv`: a row for each case and region.

    A region that the case was not annotated for has a row without numbers.

    Args:
        path: File to (over)write.
        scores: The cases.
        epoch: The epoch whose weights made them.
        note: Text for the last column of every row (the phantom's stamp), or "".
    """
    rows = [
        {"epoch": epoch, "case": score.case, "region": name, "note": note, **_values(region)}
        for score in scores
        for name, region in score.regions.items()
    ]
    write_csv(path, _COLUMNS, [{key: cell(row.get(key)) for key in _COLUMNS} for row in rows])


def read_case_scores(path: Path) -> list[CaseScore]:
    """The cases of a `val_cases.csv`, in the file's order."""
    cases: dict[str, dict[str, RegionScore]] = {}
    for row in read_csv(path):
        if not row["ref_voxels"]:
            cases.setdefault(row["case"], {})[row["region"]] = NOT_ANNOTATED
            continue
        ref_ml, pred_ml = (float(row[key]) if row[key] else None for key in _VOLUMES)
        voxels, predicted, lesions, found, false = (int(row[key]) for key in _COUNTS)
        cases.setdefault(row["case"], {})[row["region"]] = RegionScore(
            number(row["dice"]), voxels, predicted, lesions, found, false, ref_ml, pred_ml
        )
    return [CaseScore(name, regions) for name, regions in cases.items()]


def scored_epoch(path: Path) -> str:
    """The epoch whose weights a `val_cases.csv` is of; "" where it does not say."""
    return next((row["epoch"] for row in read_csv(path)), "") if path.exists() else ""


def _values(region: RegionScore) -> dict[str, object]:
    return asdict(region) if region.annotated else {}
