"""What `segfocal-evaluate` prints of probabilities: voxel by voxel, and lesion by lesion."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from segfocal.metrics.calibration import reliability
from segfocal.metrics.free_response import FROC_RATES
from segfocal.metrics.probability_evaluation import CurveReport
from segfocal.reports.evaluation_tables import numbers_table, part_of
from segfocal.reports.text import fraction, significant

BEST_POLICY = "best: threshold of the highest mean Dice of these very cases, so it flatters"
"""What stands under a threshold that was chosen on the cases it is judged on."""

_RATES = {"1/8": 0.125, "1/2": 0.5, "1": 1.0, "2": 2.0, "8": 8.0}
"""Those of `FROC_RATES` for which there is room."""

_TOLD_ERROR = 0.0005


def voxel_table(reports: Mapping[str, CurveReport]) -> Table:
    """Areas over all voxels together and of each case, calibration, Dice by threshold."""
    table = numbers_table(
        "Probabilities of voxels: all cases together, and mean over cases",
        "\ncases", "AUROC\nall", "\nmean", "AP\nall", "\nmean", "Brier\nall", "ECE\nall",
        "Dice\n> .5", "\nbest", "\nat",
    )  # fmt: skip
    for name, report in reports.items():
        table.add_row(
            name,
            part_of(report.n_present, report.n),
            fraction(report.pooled_auroc.value),
            fraction(report.auroc.mean),
            fraction(report.pooled_average_precision.value),
            fraction(report.average_precision.mean),
            small(report.table.brier),
            small(reliability(report.table).ece),
            fraction(report.dice_at_half),
            fraction(report.best_dice),
            threshold(report.best_threshold),
        )
    return table


def candidate_table(reports: Mapping[str, CurveReport]) -> Table:
    """Lesions of all cases together against candidates: average precision and FROC."""
    table = numbers_table(
        "Lesions found at so many false positives a case (FROC)",
        "\ncases", "\nlesions", "\nAP", *(f"\n{rate}" for rate in _RATES),
        f"mean\nof {len(FROC_RATES)}",
    )  # fmt: skip
    for name, report in reports.items():
        curve = report.froc
        table.add_row(
            name,
            str(report.n),
            f"{curve.num_lesions:,}",
            fraction(curve.average_precision),
            *(fraction(curve.sensitivity_at(rate)) for rate in _RATES.values()),
            fraction(curve.score),
        )
    return table


def binning_line(reports: Mapping[str, CurveReport]) -> str | None:
    """How far off the areas can be, where that reaches the digits that are told; else None."""
    areas = [
        area
        for report in reports.values()
        for area in (report.pooled_auroc, report.pooled_average_precision)
    ]
    largest = max((area.error for area in areas if area.error > _TOLD_ERROR), default=0.0)
    return f"areas of all voxels are exact to {significant(largest)}" if largest else None


def candidate_line(above: float) -> str:
    """What a candidate is."""
    return f"candidates: components above p {above:g}, each as sure as its highest voxel"


def small(value: float) -> str:
    """A score that is often far below .001.

    Example:
        >>> small(0.1234), small(0.00012), small(0.0), small(float("nan"))
        ('.123', '1.2e-4', '.000', '-')
    """
    if not 0 < value < 0.00995:
        return fraction(value)
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits}e{int(exponent)}"


def threshold(value: float) -> str:
    """A threshold of two digits.

    Example:
        >>> threshold(0.35), threshold(float("nan"))
        ('.35', '-')
    """
    told = fraction(value)
    return told if told == "-" else told[:-1]
