"""The picture of a data set: class shares on a log scale, and how large the lesions are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from segfocal.data.dataset_stats import DatasetStats
from segfocal.data.group_stats import GroupStats
from segfocal.reports.style import OVERLAY_COLOURS, save
from segfocal.reports.survey_tables import percent, volume

_MAX_DOTS = 400
_GOLDEN = 0.618034
_WIDTHS = (4, 5)
"""How the panels share the width."""

_SHARE_WORDS, _SIZE_WORDS = 0.35, 0.46
"""Share of each panel that is kept for the numbers in words."""

_MAX_TICKS = 4

_BACKGROUND_COLOUR = "#B0B0B0"


def survey_figure(stats: DatasetStats, path: Path) -> None:
    """Draws the classes (and regions) of a data set, one row each.

    Args:
        stats: The data set in numbers.
        path: PNG to (over)write.
    """
    save(draw_survey(stats), path, synthetic=stats.dataset.synthetic)


def draw_survey(stats: DatasetStats) -> Figure:
    """The picture that `survey_figure` writes."""
    groups = stats.groups
    height = 1.9 + 0.34 * len(groups)
    figure = Figure(figsize=(11.5, height))
    grid = figure.add_gridspec(
        1,
        2,
        left=0.16,
        right=0.975,
        top=1 - 0.85 / height,
        bottom=0.85 / height,
        wspace=0.06,
        width_ratios=_WIDTHS,
    )
    shares = figure.add_subplot(grid[0])
    sizes = figure.add_subplot(grid[1], sharey=shares)
    cases = stats.counts.num_cases
    figure.suptitle(
        f"{stats.dataset.name} · {cases} case{'' if cases == 1 else 's'}"
        + (f" · {len(stats.left_out)} left out" if stats.left_out else ""),
        fontsize=11,
        parse_math=False,
    )
    _draw_shares(shares, groups)
    _draw_sizes(sizes, groups)
    shares.set_yticks(range(len(groups)), [_label(group) for group in groups], parse_math=False)
    shares.set_ylim(len(groups) - 0.4, -0.6)
    sizes.tick_params(labelleft=False)
    for axes in (shares, sizes):
        axes.tick_params(labelsize=8)
        axes.grid(axis="x", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_shares(axes: Axes, groups: tuple[GroupStats, ...]) -> None:
    axes.set_title("Share of annotated voxels (log scale)", fontsize=10)
    lowest = min((group.share for group in groups if group.share > 0), default=0.04) / 4
    _leave_room(axes, lowest, 1.0, _SHARE_WORDS, _short_percent)
    for row, group in enumerate(groups):
        if group.share:
            axes.barh(row, group.share, color=_colour(row, group), height=0.66)
        told = f"{percent(group.share)}, {group.cases}/{group.annotated} cases"
        _say(axes, row, told if group.annotated else "no case annotated for it")


def _draw_sizes(axes: Axes, groups: tuple[GroupStats, ...]) -> None:
    axes.set_title("Lesions (26-connected): volume in mm3 (log scale); bar: median", fontsize=10)
    everything = [size for group in groups for size in group.lesions_mm3]
    if not everything:
        axes.set_xticks([])
        axes.text(0.5, 0.5, "no lesion", ha="center", color="grey", transform=axes.transAxes)
        return
    _leave_room(axes, min(everything) / 1.5, max(everything) * 1.5, _SIZE_WORDS, volume)
    for row, group in enumerate(groups):
        sizes, median = np.array(group.lesions_mm3), group.median_mm3
        if median is None:
            continue
        shown = sizes[np.linspace(0, sizes.size - 1, min(sizes.size, _MAX_DOTS)).astype(int)]
        # A fixed pattern across the row keeps dots apart, and the picture the same every time.
        offsets = ((np.arange(shown.size) * _GOLDEN) % 1 - 0.5) * 0.5
        axes.plot([median] * 2, [row - 0.36, row + 0.36], color="black", lw=1.6)
        axes.plot(
            shown,
            row + offsets,
            "o",
            color=_colour(row, group),
            ms=3.5,
            alpha=0.8,
            mec="#404040",
            mew=0.3,
        )
        _say(
            axes,
            row,
            f"n={sizes.size:,}, median {volume(median)}, smallest {volume(sizes[0])}",
        )


def _leave_room(
    axes: Axes, low: float, high: float, words: float, told: Callable[[float], str]
) -> None:
    """A log axis whose right part is free for words, without ticks there.

    Args:
        axes: The panel.
        low: Where the axis begins.
        high: Where the last thing drawn ends.
        words: Share of the panel that is left free.
        told: What to write at a tick.
    """
    span = np.log10(high / low)
    axes.set_xscale("log")
    axes.set_xlim(low, high * 10 ** (span * words / (1 - words)))
    ticks = _ticks(low, high)
    axes.set_xticks(ticks, [told(tick) for tick in ticks])
    axes.set_xticks([], minor=True)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between the two: whole powers of ten, or 1, 2, 5 within a narrow range."""
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    powers = [10.0**power for power in range(first, last + 1)]
    for round_numbers in ([power * digit for power in powers for digit in (1, 2, 5)], powers):
        inside = [number for number in round_numbers if low <= number <= high * (1 + 1e-9)]
        if len(inside) <= _MAX_TICKS:
            return inside
    step = -(-len(inside) // _MAX_TICKS)
    return inside[::-step][::-1]


def _short_percent(share: float) -> str:
    return f"{np.format_float_positional(100 * share, precision=10, trim='-')}%"


def _say(axes: Axes, row: int, words: str) -> None:
    axes.text(
        1.0, row, words, va="center", ha="right", fontsize=7.5, transform=axes.get_yaxis_transform()
    )


def _colour(row: int, group: GroupStats) -> str:
    if group.values == (0,):
        return _BACKGROUND_COLOUR
    return OVERLAY_COLOURS[(row - 1) % len(OVERLAY_COLOURS)]


def _label(group: GroupStats) -> str:
    name = group.name if len(group.name) <= 22 else group.name[:21] + "…"
    values = ",".join(map(str, group.values))
    return f"{name} ({values})" if len(values) <= 8 else name
