"""What `segfocal-evaluate` prints: overlap and surfaces, lesions, and where a side is empty."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from rich import box
from rich.table import Table

from segfocal.metrics.evaluation_summary import RegionReport, Spread
from segfocal.metrics.lesion_sizes import SizeBin
from segfocal.reports.survey_tables import volume
from segfocal.reports.text import fraction

EMPTY_POLICY = "missed, false alarm: Dice, NSD 0, HD95, ASSD the diagonal; neither: in no mean"
"""What stands for a measure where a side is empty."""

BRATS_POLICY = "missed, false positive: Dice 0, HD95 374 mm; nothing of either: 1 and 0 mm"
"""What BraTS' rules make of them."""


def overlap_table(reports: Mapping[str, RegionReport], tolerance_mm: float) -> Table:
    """Dice and surface measures of each class, mean and median over the cases that hold it."""
    table = numbers_table(
        f"Overlap and surfaces over cases: HD95, ASSD in mm, NSD at {tolerance_mm:g} mm",
        "\ncases", "Dice\nmean", "\nmedian", "HD95\nmean", "\nmedian", "ASSD\nmean", "\nmedian",
        "NSD\nmean", "\nmedian",
    )  # fmt: skip
    for name, report in reports.items():
        table.add_row(
            name,
            part_of(report.dice.n, report.n),
            *_both(report.dice, fraction),
            *_both(report.hd95_mm, millimetres),
            *_both(report.assd_mm, millimetres),
            *_both(report.nsd, fraction),
        )
    if len(reports) > 1:
        table.add_section()
        spreads = [class_mean(reports, name) for name in ("dice", "hd95_mm", "assd_mm", "nsd")]
        told = (fraction, millimetres, millimetres, fraction)
        cells = [c for value, tell in zip(spreads, told, strict=True) for c in (tell(value), "")]
        table.add_row("mean", "", *cells)
    return table


def lesion_table(reports: Mapping[str, RegionReport], rules: str) -> Table:
    """Mean volumes, and the lesions of all cases together."""
    table = numbers_table(
        f"Volumes (mean) and lesions (of all cases), {rules}",
        "\ncases", "ref\nml", "pred\nml", "\nlesions", "\nfound", "\nmissed", "false\npos.",
        "sensi-\ntivity", "\nF1",
    )  # fmt: skip
    for name, report in reports.items():
        counts = report.counts
        table.add_row(
            name,
            str(report.n),
            volume(_known(report.ref_ml.mean)),
            volume(_known(report.pred_ml.mean)),
            f"{counts.lesions:,}",
            f"{counts.found:,}",
            f"{counts.missed:,}",
            f"{counts.false_positives:,}",
            fraction(counts.sensitivity),
            fraction(counts.f1),
        )
    return table


def lesion_size_table(sizes: Mapping[str, Sequence[SizeBin]]) -> Table | None:
    """Lesions found and false positives by volume; None where all are of one bin."""
    bins = list(zip(*sizes.values(), strict=True))
    held = [at for at, every in enumerate(bins) if any(map(_holds_any, every))]
    if len(held) < 2:
        return None
    headings = [_size_range(bins[at][0]) for at in held]
    table = numbers_table("Lesions by volume in mm3", "", *headings)
    for name, every in sizes.items():
        counts = [every[at].counts for at in held]
        found = [f"{c.found:,}/{c.lesions:,}" if c.lesions else "-" for c in counts]
        table.add_row(name, "found", *found)
        if any(c.false_positives for c in counts):
            table.add_row("", "false pos.", *(f"{c.false_positives:,}" for c in counts))
    return table


def _holds_any(one: SizeBin) -> bool:
    return one.counts.lesions + one.counts.false_positives > 0


def _size_range(one: SizeBin) -> str:
    if not one.from_mm3:
        return f"below\n{one.below_mm3:g}"
    if math.isinf(one.below_mm3):
        return f"from\n{one.from_mm3:g}"
    return f"{one.from_mm3:g} to\n{one.below_mm3:g}"


def brats_table(reports: Mapping[str, RegionReport]) -> Table:
    """Lesion-wise Dice and HD95 by the rules of BraTS 2023."""
    table = numbers_table(
        "BraTS 2023 lesion-wise scores over cases",
        "\ncases", "Dice\nmean", "\nmedian", "HD95\nmean", "\nmedian", "lesions\nscored",
        "too\nsmall", "cases:\nnothing",
    )  # fmt: skip
    for name, report in reports.items():
        table.add_row(
            name,
            str(report.lesion_dice.n),
            *_both(report.lesion_dice, fraction),
            *_both(report.lesion_hd95_mm, millimetres),
            f"{report.counts.lesions:,}",
            f"{report.n_left_out:,}",
            str(report.n_nothing),
        )
    return table


def empty_table(reports: Mapping[str, RegionReport]) -> Table | None:
    """The classes that some case holds on one side alone or on neither; None if there is none."""
    table = numbers_table(
        "Cases with an empty side",
        "\nboth", "\nmissed", "false\nalarm", "\nneither", "HD95 mean\nof both",
    )  # fmt: skip
    for name, report in reports.items():
        numbers = (report.n_missed, report.n_false_alarm, report.n_neither)
        if any(numbers):
            both = millimetres(report.hd95_both_mm.mean)
            table.add_row(name, str(report.n_both), *map(str, numbers), both)
    return table if table.row_count else None


def class_mean(reports: Mapping[str, RegionReport], measure: str) -> float:
    """Mean of the classes' means of one measure; NaN if none has one."""
    return Spread.of(getattr(report, measure).mean for report in reports.values()).mean


def millimetres(value: float) -> str:
    """A distance with as many digits as mean something.

    Example:
        >>> millimetres(1.2345), millimetres(12.345), millimetres(374.0), millimetres(math.nan)
        ('1.23', '12.3', '374', '-')
    """
    if math.isnan(value):
        return "-"
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f}"


def numbers_table(title: str, *headings: str) -> Table:
    """A table that fits 80 columns, with a column for the class before the numbers."""
    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("\nclass", overflow="fold", min_width=6)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _both(spread: Spread, tell: Callable[[float], str]) -> tuple[str, str]:
    return tell(spread.mean), tell(spread.median)


def part_of(part: int, whole: int) -> str:
    """How many of how many.

    Example:
        >>> part_of(3, 4), part_of(4, 4)
        ('3/4', '4')
    """
    return str(whole) if part == whole else f"{part}/{whole}"


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
