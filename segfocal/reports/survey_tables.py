"""What `segfocal-stats` prints: a data set in four tables, and its problems line by line."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table

from segfocal.data.dataset_stats import ChannelStats, DatasetStats
from segfocal.data.defects import Problem
from segfocal.data.group_stats import GroupStats
from segfocal.reports.text import SEPARATOR, significant
from segfocal.statistics.class_alpha import ClassAlpha

_NEARLY_ALL = 0.9995
"""From here on one decimal would read 100.0%."""

_PLAIN = box.SIMPLE_HEAD


def headline(stats: DatasetStats) -> str:
    """`Hippocampus (msd): 60 cases · 1 mm isotropic ...`."""
    cases = stats.counts.num_cases
    partial = f", {stats.num_partial} annotated in part" if stats.num_partial else ""
    parts = [
        f"{stats.dataset.name} ({stats.dataset.layout}): {_some(cases, 'case')}{partial}",
        f"spacing {_spread(stats.spacing_mm)} mm",
        f"shape {_spread(stats.shape)}",
        "axes " + ", ".join(f"{codes} {count}" for codes, count in stats.orientations.items()),
    ]
    if stats.counts.scheme.ignore_values:
        values = ",".join(map(str, stats.counts.scheme.ignore_values))
        parts.append(f"ignore {values}: {percent(stats.counts.ignored_fraction)} of voxels")
    return SEPARATOR.join(parts)


def class_table(groups: Sequence[GroupStats]) -> Table:
    """Voxels, cases and lesions of each class and region.

    Where cases were annotated in part, `cases` reads `3 of 5`: of those annotated for the class.
    """
    is_partial = len({group.annotated for group in groups}) > 1
    title = "Classes and lesions" + (" (over the cases annotated for each)" if is_partial else "")
    table = Table(title=title, title_justify="left", box=_PLAIN)
    for heading in ("class", "value"):
        table.add_column(heading, overflow="fold")
    for heading in ("voxels", "share", "cases", "lesions", "median\nmm3", "smallest\nmm3"):
        table.add_column(heading, justify="right", no_wrap=True)
    for index, group in enumerate(groups):
        if group.kind == "region" and groups[index - 1].kind == "class":
            table.add_section()
        sizes = group.lesions_mm3
        table.add_row(
            group.name,
            ",".join(map(str, group.values)),
            f"{group.voxels:,}" if group.annotated else "-",
            percent(group.share) if group.annotated else "-",
            f"{group.cases} of {group.annotated}" if is_partial else str(group.cases),
            f"{len(sizes):,}" if group.values != (0,) and group.annotated else "",
            volume(group.median_mm3) if sizes else "",
            volume(sizes[0]) if sizes else "",
        )
    return table


def channel_table(channels: Sequence[ChannelStats]) -> Table:
    """Intensities of each channel."""
    table = Table(
        title="Intensities (percentiles of the voxels that are not 0; median over cases)",
        title_justify="left",
        box=_PLAIN,
    )
    table.add_column("channel", overflow="fold")
    table.add_column("stored as")
    shown = list(channels[0].percentiles) if channels else []
    for heading in ("min", *shown, "max", "zeros"):
        table.add_column(heading, justify="right", no_wrap=True)
    for channel in channels:
        table.add_row(
            channel.name,
            ",".join(channel.dtypes),
            compact(channel.minimum),
            *map(_compact_or_dash, channel.percentiles.values()),
            compact(channel.maximum),
            percent(channel.zero_fraction),
        )
        if any(value is not None for value in channel.annotated.values()):
            within = map(_compact_or_dash, channel.annotated.values())
            table.add_row("  in classes", "", "", *within, "", "")
    return table


def alpha_table(alpha: dict[str, ClassAlpha], num_cases: int) -> Table:
    """Weights of each class (or alpha of each region) by every scheme.

    Args:
        alpha: One record a scheme.
        num_cases: Cases counted; where the weights come from fewer, the title says so.
    """
    first = next(iter(alpha.values()))
    what = "alpha of each region" if first.kind == "region" else "weight of each class, mean 1"
    unit = first.options.get("unit", "voxels")
    if unit != "voxels":
        what += f", by {unit}"
    if "annotated" in first.options:
        what += ", each over the cases annotated for it"
    elif first.provenance.get("num_cases", num_cases) < num_cases:
        what += (
            f", over the {_some(first.provenance['num_cases'], 'case')} annotated for every class"
        )
    table = Table(title=f"loss.alpha ({what})", title_justify="left", box=_PLAIN)
    table.add_column(first.kind, overflow="fold")
    for scheme in alpha:
        table.add_column(scheme.replace("_", "\n"), justify="right", no_wrap=True)
    for index, name in enumerate(first.names):
        table.add_row(name, *(_weight(record, index) for record in alpha.values()))
    return table


def problem_lines(problems: Iterable[Problem]) -> list[str]:
    """`error  BRATS_012: label holds ... [undeclared-label]`, a line each."""
    return [f"{problem.severity:<5}  {problem} [{problem.kind}]" for problem in problems]


def problem_summary(problems: Sequence[Problem], num_cases: int) -> str:
    """How many problems of which kind, and what training would do."""
    checked = f"{_some(num_cases, 'case')} checked"
    if not problems:
        return f"{checked}: no problem found."
    if not num_cases:
        return "No case was checked: the data set as a whole has to be mended first."
    kinds = Counter(problem.kind for problem in problems)
    listed = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
    errors = sum(problem.severity == "error" for problem in problems)
    doubts = len(problems) - errors
    affected = {problem.case_id for problem in problems}
    places = [_some(len(affected - {""}), "case")] if affected - {""} else []
    places += ["what is of no case"] if "" in affected else []
    return (
        f"{checked}: {_some(len(problems), 'problem')} in {' and '.join(places)} ({listed}). "
        f"Training stops at {_some(errors, 'error')}; {_some(doubts, 'doubt')} may be as "
        f"{'it' if doubts == 1 else 'they'} should be."
    )


def percent(share: float) -> str:
    """A share with two significant digits below a tenth.

    Example:
        >>> percent(0.9634), percent(0.0263), percent(0.000012), percent(0.0), percent(1.0)
        ('96.3%', '2.6%', '0.0012%', '0%', '100%')
        >>> percent(0.99963)
        '99.963%'
    """
    if share in (0, 1):
        return f"{share:.0%}"
    if 0.1 <= share < _NEARLY_ALL:
        return f"{100 * share:.1f}%"
    told = min(share, 1 - share)
    digits = max(0, 1 - math.floor(math.log10(100 * told)))
    return f"{100 * share:.{digits}f}%"


def volume(mm3: float | None) -> str:
    """Cubic millimetres with three significant digits and thousands apart.

    Example:
        >>> volume(1234567.8), volume(12.345), volume(0.4)
        ('1,230,000', '12.3', '0.4')
    """
    if mm3 is None:
        return "-"
    rounded = float(f"{mm3:.3g}")
    return f"{rounded:,.0f}" if rounded >= 100 else significant(rounded)


def compact(value: float) -> str:
    """A number with four significant digits, without an exponent below a million.

    Example:
        >>> compact(-1024.0), compact(3.14159), compact(12345.6), compact(0.0)
        ('-1024', '3.142', '12346', '0')
    """
    if abs(value) >= 1e6:
        return f"{value:.2e}"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _compact_or_dash(value: float | None) -> str:
    return "-" if value is None else compact(value)


def _weight(record: ClassAlpha, index: int) -> str:
    value = record.weights[index]
    if record.kind == "region" and 0.99 < value < 1:
        return f"{value:.{2 - math.floor(math.log10(1 - value))}g}"
    return significant(value) if value >= 1e-4 or value == 0 else f"{value:.1e}"


def _spread(by: dict[str, tuple[float, ...]]) -> str:
    """`1x1x3`, with the range behind it where cases differ."""
    low, middle, high = (
        "x".join(f"{value:.4g}" for value in by[key]) for key in ("smallest", "median", "largest")
    )
    return middle if low == high else f"{middle} ({low} to {high})"


def _some(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
