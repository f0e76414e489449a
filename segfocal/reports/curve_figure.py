"""The picture of probabilities: precision-recall, calibration, Dice by threshold, FROC."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from segfocal.metrics.calibration import THRESHOLDS, reliability
from segfocal.metrics.curves import precision_recall_curve
from segfocal.metrics.free_response import FROC_RATES, Froc
from segfocal.metrics.probability_evaluation import CurveReport
from segfocal.reports.style import line_look, save
from segfocal.reports.text import fraction

Points = npt.NDArray[np.float64]

_MAX_NAME = 22
_MAX_POINTS = 2000
_FARTHER = (32.0, 128.0, 512.0, 2048.0)
"""More false positives a case, for poor maps."""

_PER_COLUMN = 16
"""Names that a column of the legend holds."""


def curve_figure(reports: Mapping[str, CurveReport], path: Path, *, synthetic: bool) -> None:
    """Draws four panels with a line for each class.

    Args:
        reports: `summarise_probabilities` of each class; at least one.
        path: PNG to (over)write.
        synthetic: Stamp the figure as made from the phantom.
    """
    save(draw_curves(reports), path, synthetic=synthetic)


def draw_curves(reports: Mapping[str, CurveReport]) -> Figure:
    """The picture that `curve_figure` writes."""
    num_columns = -(-len(reports) // _PER_COLUMN)
    beside = 2.3 * num_columns
    width = 10.5 + beside
    figure = Figure(figsize=(width, 8.6))
    panels = figure.subplots(2, 2).ravel()
    figure.subplots_adjust(
        left=0.7 / width, right=1 - beside / width, top=0.91, bottom=0.11, wspace=0.2, hspace=0.33
    )
    num_cases = max(report.n for report in reports.values())
    figure.suptitle(f"{num_cases} case{'' if num_cases == 1 else 's'}", fontsize=11)
    _frame(panels[0], "Precision and recall of voxels, of all cases", "recall", "precision")
    _frame(panels[1], "Calibration (dot: share of voxels)", "probability", "frequency")
    _frame(panels[2], "Mean Dice of the cases (dot: best of these)", "threshold", "Dice")
    _frame(panels[3], "FROC of lesions", "false positives a case", "sensitivity")
    farthest = _farthest([report.froc for report in reports.values()])
    panels[1].plot([0, 1], [0, 1], color="#B0B0B0", lw=1, zorder=0)
    for index, (name, report) in enumerate(reports.items()):
        look: dict[str, Any] = {**line_look(index), "lw": 1.6}
        _draw_precision(panels[0], report, look)
        _draw_reliability(panels[1], report, look)
        _draw_dice(panels[2], report, look)
        _draw_froc(panels[3], report.froc, farthest, look)
        panels[0].plot([], [], label=_legend(name, report), **look)
    _rates_axis(panels[3], farthest)
    legend = figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="upper left",
        bbox_to_anchor=(1 - (beside - 0.15) / width, 0.92),
        ncols=num_columns,
        fontsize=8,
        frameon=False,
        handlelength=2.8,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _frame(axes: Axes, title: str, across: str, up: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(across, fontsize=9)
    axes.set_ylabel(up, fontsize=9)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_precision(axes: Axes, report: CurveReport, look: dict[str, Any]) -> None:
    if not report.n_present:
        return
    precision, recall = precision_recall_curve(report.histogram)
    chosen = _evenly(recall)
    axes.plot(recall[chosen], precision[chosen], drawstyle="steps-pre", **look)


def _draw_reliability(axes: Axes, report: CurveReport, look: dict[str, Any]) -> None:
    curve = reliability(report.table)
    held = curve.voxels > 0
    axes.plot(curve.confidence[held], curve.frequency[held], **look)
    shares = curve.voxels[held] / max(report.table.num_voxels, 1)
    # area by the logarithm: almost all voxels lie in the first bin
    sizes = 60 * np.clip(1 + np.log10(shares) / 6, 0.03, 1)
    axes.scatter(
        curve.confidence[held], curve.frequency[held], s=sizes, color=look["color"], alpha=0.6, lw=0
    )


def _draw_dice(axes: Axes, report: CurveReport, look: dict[str, Any]) -> None:
    axes.plot(THRESHOLDS, report.mean_dice, **look)
    axes.plot([report.best_threshold], [report.best_dice], "o", ms=5, color=look["color"])


def _draw_froc(axes: Axes, curve: Froc, farthest: float, look: dict[str, Any]) -> None:
    if not curve.num_lesions:
        return
    rates = np.concatenate([[0.0], curve.false_positives_per_case, [farthest]])
    found = np.concatenate([[0.0], curve.sensitivity, [curve.sensitivity.max(initial=0.0)]])
    chosen = _evenly(found)
    axes.plot(rates[chosen], found[chosen], drawstyle="steps-post", **look)


def _rates_axis(axes: Axes, farthest: float) -> None:
    """Rates on a logarithmic scale, with a linear piece that holds 0."""
    axes.set_xscale("symlog", linthresh=FROC_RATES[0], linscale=0.4)
    axes.set_xlim(-0.02, farthest)
    ticks = [0.0, *(rate for rate in (*FROC_RATES, *_FARTHER) if rate <= farthest)]
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.minorticks_off()


def _farthest(curves: list[Froc]) -> float:
    """The right end of the axis: 8 false positives a case, or more where there are more."""
    most = [curve.false_positives_per_case.max(initial=0.0) for curve in curves]
    return float(max(FROC_RATES[-1], *most))


def _evenly(values: Points) -> npt.NDArray[np.intp]:
    """Indices of so many points as a picture can show, the ends and every rise among them."""
    if len(values) <= _MAX_POINTS:
        return np.arange(len(values))
    steps = np.round(values / max(float(values.max()), 1e-9) * _MAX_POINTS).astype(np.intp)
    rises = np.flatnonzero(np.diff(steps, prepend=-1))
    return np.union1d(rises, [len(values) - 1])


def _legend(name: str, report: CurveReport) -> str:
    short = name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1] + "…"
    area = fraction(report.pooled_average_precision.value)
    return f"{short}\nav. precision {area}\nin {report.n_present} of {report.n}"
