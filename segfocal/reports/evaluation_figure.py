"""The picture of an evaluation: Dice and HD95 of every case, a row for each class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from segfocal.metrics.evaluation import RegionEvaluation
from segfocal.reports.style import LINE_COLOURS, save

_GOLDEN = 0.618034
_SPREAD = 0.5
_MAX_NAME = 22


def evaluation_figure(
    cases: Sequence[Mapping[str, RegionEvaluation]], path: Path, *, synthetic: bool
) -> None:
    """Draws every case as a dot, hollow where one side is empty, and the median as a bar.

    Args:
        cases: `evaluate_classes` of each case, with the same names; at least one.
        path: PNG to (over)write.
        synthetic: Stamp the figure as made from the phantom.
    """
    save(draw_evaluation(cases), path, synthetic=synthetic)


def draw_evaluation(cases: Sequence[Mapping[str, RegionEvaluation]]) -> Figure:
    """The picture that `evaluation_figure` writes."""
    names = list(cases[0])
    height = 1.9 + 0.42 * len(names)
    figure = Figure(figsize=(11, height))
    left, right = figure.subplots(1, 2, sharey=True)
    figure.subplots_adjust(
        left=0.17, right=0.975, top=1 - 0.8 / height, bottom=0.85 / height, wspace=0.06
    )
    figure.suptitle(f"{len(cases)} case{'' if len(cases) == 1 else 's'}", fontsize=11)
    for row, name in enumerate(names):
        regions = [case[name] for case in cases]
        hollow = np.array([region.surface.is_penalty for region in regions], dtype=np.bool_)
        _draw_row(left, row, np.array([region.score.dice for region in regions]), hollow)
        _draw_row(right, row, np.array([region.surface.hd95_mm for region in regions]), hollow)
    left.set_title("Dice (bar: median)", fontsize=10)
    left.set_xlim(-0.03, 1.03)
    right.set_title("HD95 in mm (hollow: one side empty, the diagonal)", fontsize=10)
    right.set_xscale("symlog", linthresh=1)
    right.set_xlim(-0.1, 1.3 * max(1.0, _farthest(cases)))
    right.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    left.set_yticks(range(len(names)), [_short(name) for name in names], parse_math=False)
    left.set_ylim(len(names) - 0.4, -0.6)
    for axes in (left, right):
        axes.tick_params(labelsize=8)
        axes.grid(axis="x", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_row(
    axes: Axes, row: int, values: np.ndarray[tuple[int], np.dtype[np.float64]], hollow: np.ndarray
) -> None:
    known = ~np.isnan(values)
    if not known.any():
        return
    # A fixed pattern across the row keeps dots apart, and the picture the same every time.
    offsets = ((np.arange(values.size) * _GOLDEN) % 1 - 0.5) * _SPREAD
    colour = LINE_COLOURS[row % len(LINE_COLOURS)]
    for which, face in ((known & ~hollow, colour), (known & hollow, "none")):
        axes.plot(
            values[which], row + offsets[which], "o", ms=4.5, mfc=face, mec=colour, alpha=0.75
        )
    median = float(np.median(values[known]))
    axes.plot([median] * 2, [row - 0.36, row + 0.36], color="black", lw=1.6)


def _farthest(cases: Sequence[Mapping[str, RegionEvaluation]]) -> float:
    distances = [region.surface.hd95_mm for case in cases for region in case.values()]
    return max((value for value in distances if not math.isnan(value)), default=0.0)


def _short(name: str) -> str:
    return name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1] + "…"
