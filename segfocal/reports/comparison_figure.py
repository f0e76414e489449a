"""The picture of a comparison: differences from the baseline with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from segfocal.metrics.comparison_measures import MEASURES, TOLD, Measure
from segfocal.metrics.method_comparison import ClassComparison
from segfocal.metrics.patient_sums import Estimate
from segfocal.reports.style import LINE_COLOURS, save
from segfocal.reports.text import SEPARATOR

_MAX_PANELS = 4
_GOLDEN = 0.618034
_SPREAD = 0.42
_MAX_NAME = 20

Results = Mapping[str, Mapping[str, ClassComparison]]


def comparison_figure(results: Results, baseline: str, path: Path, *, synthetic: bool) -> None:
    """Draws a panel for each measure and a row for each class and method.

    Cases are dots, the mean with its confidence interval a bar. Of one method alone its values are
    drawn, else differences from the baseline.

    Args:
        results: `compare_methods`; at least one measure.
        baseline: The method the others are compared to.
        path: PNG to (over)write.
        synthetic: Stamp the figure as made from the phantom.
    """
    save(draw_comparison(results, baseline), path, synthetic=synthetic)


def draw_comparison(results: Results, baseline: str) -> Figure:
    """The picture that `comparison_figure` writes."""
    keys = [key for key in TOLD if key in results][:_MAX_PANELS] or list(results)[:_MAX_PANELS]
    first = results[keys[0]]
    methods = [method for one in first.values() for method in one.values]
    methods = [method for method in dict.fromkeys(methods) if method != baseline] or [baseline]
    classes = list(dict.fromkeys(name for key in keys for name in results[key]))
    rows = [(name, method) for name in classes for method in methods]
    height = 1.5 + 0.34 * len(rows)
    figure = Figure(figsize=(2.4 + 2.9 * len(keys), height))
    panels: Sequence[Axes] = figure.subplots(1, len(keys), sharey=True, squeeze=False)[0]
    width = figure.get_figwidth()
    figure.subplots_adjust(
        left=2.3 / width,
        right=1 - 0.15 / width,
        top=1 - 0.75 / height,
        bottom=0.55 / height,
        wspace=0.09,
    )
    is_alone = methods == [baseline]
    title = f"{baseline}: dots are cases" if is_alone else f"Differences from {baseline}"
    figure.suptitle(f"{title}; bars: 95% confidence interval", fontsize=11, parse_math=False)
    for panel, key in zip(panels, keys, strict=True):
        _frame(panel, MEASURES[key], is_alone=is_alone)
        for row, (name, method) in enumerate(rows):
            one = results[key].get(name)
            if one is not None:
                colour = LINE_COLOURS[methods.index(method) % len(LINE_COLOURS)]
                _draw_row(panel, row, MEASURES[key], one, baseline, method, colour)
        _scale(panel, MEASURES[key], is_alone=is_alone)
    labels = [_label(name, method, len(methods)) for name, method in rows]
    panels[0].set_yticks(range(len(rows)), labels, parse_math=False)
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    for panel in panels:
        for row in range(len(methods), len(rows), len(methods)):
            panel.axhline(row - 0.5, color="#DDDDDD", lw=0.8)
    return figure


def _frame(panel: Axes, measure: Measure, *, is_alone: bool) -> None:
    if is_alone:
        panel.set_title(measure.title, fontsize=9)
    else:
        side = "right" if measure.higher_is_better else "left"
        panel.set_title(f"{measure.title}\n({side} is better)", fontsize=9)
        panel.axvline(0, color="#606060", lw=0.9, zorder=0)
    panel.tick_params(labelsize=8)
    panel.grid(axis="x", alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)


def _draw_row(
    panel: Axes,
    row: int,
    measure: Measure,
    one: ClassComparison,
    baseline: str,
    method: str,
    colour: str,
) -> None:
    beside = one.differences.get(method)
    told: Estimate = one.values[method] if beside is None else beside.estimate
    cases = one.per_case.get(method, {})
    if cases and not measure.is_pooled:
        values = np.array([*cases.values()])
        if beside is not None:
            values = values - np.array([*one.per_case[baseline].values()])
        # A fixed pattern across the row keeps dots apart, and the picture the same every time.
        offsets = ((np.arange(values.size) * _GOLDEN) % 1 - 0.5) * _SPREAD
        panel.plot(values, row + offsets, "o", ms=3, mfc=colour, mec="none", alpha=0.35)
    if math.isnan(told.value):
        return
    panel.plot([told.value], [row], "D", ms=5, color=colour, mec="black", mew=0.7, zorder=4)
    if not math.isnan(told.low):
        panel.plot([told.low, told.high], [row, row], color="black", lw=1.6, zorder=3)


def _scale(panel: Axes, measure: Measure, *, is_alone: bool) -> None:
    if measure.unit != "fraction":
        panel.set_xscale("symlog", linthresh=1)
    else:
        panel.xaxis.set_major_locator(MaxNLocator(5))
        if is_alone:
            panel.set_xlim(-0.03, 1.03)
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _label(name: str, method: str, num_methods: int) -> str:
    text = f"{name}{SEPARATOR}{method}" if num_methods > 1 else name
    return text if len(text) <= 2 * _MAX_NAME else f"{name[:_MAX_NAME]}… {method[:_MAX_NAME]}"
