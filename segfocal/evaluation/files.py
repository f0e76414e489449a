"""What `--out` holds: cases.csv, lesions.csv, summary.json, evaluation.png."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nibabel.affines import apply_affine

from segfocal.data.dataset_stats import problem_to_dict
from segfocal.evaluation.case import CaseEvaluation
from segfocal.evaluation.curve_files import curves_record, write_curves
from segfocal.evaluation.outcome import Outcome
from segfocal.files import write_json
from segfocal.metrics.lesion_sizes import SizeBin
from segfocal.metrics.lesionwise import Lesion
from segfocal.reports.csv_file import cell, write_csv
from segfocal.reports.evaluation_tables import EMPTY_POLICY, class_mean

FORMAT = "segfocal-evaluate 1"
"""Value of the key `format` of a summary.json."""

SUMMARY = "summary.json"
FILES = ("cases.csv", "lesions.csv", SUMMARY, "evaluation.png")

CASE_COLUMNS = (
    "case", "class", "present_in", "dice", "hd95_mm", "assd_mm", "nsd", "ref_voxels", "pred_voxels",
    "ref_ml", "pred_ml", "lesions", "lesions_found", "false_positives", "lesion_f1",
    "lesions_left_out", "lesion_dice", "lesion_hd95_mm", "note",
)  # fmt: skip
LESION_COLUMNS = (
    "case", "class", "kind", "size_mm3", "voxels", "x_mm", "y_mm", "z_mm", "overlap", "found",
    "scored", "dice", "hd95_mm", "note",
)  # fmt: skip


def write_files(out: Path, outcome: Outcome) -> list[Path]:
    """Writes what a folder of an evaluation holds; made if need be.

    Without a case that could be evaluated only summary.json is written.
    """
    out.mkdir(exist_ok=True)
    write_json(out / SUMMARY, summary_record(outcome))
    if not outcome.cases:
        return [out / SUMMARY]
    from segfocal.reports.evaluation_figure import evaluation_figure

    write_cases(out / "cases.csv", outcome.cases, note=outcome.stamp)
    write_lesions(out / "lesions.csv", outcome.cases, note=outcome.stamp)
    evaluation_figure(
        [case.regions for case in outcome.cases],
        out / "evaluation.png",
        synthetic=outcome.is_synthetic,
    )
    return [*(out / name for name in FILES), *write_curves(out, outcome)]


def write_cases(path: Path, cases: Sequence[CaseEvaluation], *, note: str) -> None:
    """A row for each case and class; without numbers where the case was not annotated for it.

    Args:
        path: File to (over)write.
        cases: The cases.
        note: Text for the last column of every row (the phantom's stamp), or "".
    """
    rows = []
    for case in cases:
        for name, region in case.regions.items():
            row: dict[str, Any] = {"case": case.case_id, "class": name, "note": note}
            if region.score.annotated:
                row |= asdict(region.surface) | asdict(region.score)
                row["present_in"] = region.presence
                row["lesion_f1"] = region.score.counts.f1
                row["lesions_left_out"] = sum(not one.scored for one in region.match.lesions)
                row["lesion_dice"] = region.lesion_dice
                row["lesion_hd95_mm"] = region.lesion_hd95_mm
            rows.append(row)
    _write(path, CASE_COLUMNS, rows)


def write_lesions(path: Path, cases: Sequence[CaseEvaluation], *, note: str) -> None:
    """A row for each lesion of a reference and for each false positive; arguments as above."""
    rows = []
    for case in cases:
        for name, region in case.regions.items():
            for lesion, kind in _lesions(region.match.lesions, region.match.false_positives):
                row: dict[str, Any] = {"case": case.case_id, "class": name, "kind": kind}
                row |= asdict(lesion) | {"note": note}
                row["size_mm3"] = lesion.voxels * case.voxel_mm3
                centre = apply_affine(case.affine, lesion.centre)
                row["x_mm"], row["y_mm"], row["z_mm"] = (float(at) for at in centre)
                row["found"], row["scored"] = int(lesion.found), int(lesion.scored)
                rows.append(row)
    _write(path, LESION_COLUMNS, rows)


def summary_record(outcome: Outcome) -> dict[str, Any]:
    """The evaluation as plain JSON values: NaN is null."""
    classes = {}
    for name, report in outcome.reports.items():
        counts = report.counts
        derived = {"missed": counts.missed, "sensitivity": counts.sensitivity, "f1": counts.f1}
        classes[name] = asdict(report) | {"counts": asdict(counts) | derived}
        classes[name]["lesion_sizes"] = [_size_record(one) for one in outcome.lesion_sizes[name]]
    record = {
        "format": FORMAT,
        "synthetic": outcome.stamp or False,
        "num_cases": len(outcome.cases),
        "cases": [case.case_id for case in outcome.cases],
        "trained_on": list(outcome.trained_on),
        "labels_from": outcome.labels_from,
        "scheme": outcome.rules.scheme.to_dict(),
        "measures": asdict(outcome.rules.measures) | {"empty_side": EMPTY_POLICY},
        "classes": classes,
        "mean_of_classes": {
            name: class_mean(outcome.reports, name)
            for name in ("dice", "hd95_mm", "assd_mm", "nsd")
        },
        "probabilities": curves_record(outcome),
        "problems": [problem_to_dict(problem) for problem in outcome.problems],
    }
    plain: dict[str, Any] = without_nan(record)
    return plain


def _size_record(one: SizeBin) -> dict[str, Any]:
    """The last bin has no upper end: null."""
    end = None if math.isinf(one.below_mm3) else one.below_mm3
    counts = asdict(one.counts) | {"sensitivity": one.counts.sensitivity}
    return {"from_mm3": one.from_mm3, "below_mm3": end} | counts


def _lesions(
    lesions: Sequence[Lesion], false_positives: Sequence[Lesion]
) -> Iterator[tuple[Lesion, str]]:
    yield from ((lesion, "lesion") for lesion in lesions)
    yield from ((island, "false positive") for island in false_positives)


def _write(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    write_csv(path, columns, ({key: cell(row.get(key)) for key in columns} for row in rows))


def without_nan(value: Any) -> Any:
    """Plain JSON values with null for NaN."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
