"""`progress.png`: how a run is going."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from segfocal.metrics.case_score import RegionSummary
from segfocal.reports.history import EpochRecord
from segfocal.reports.style import line_look, save
from segfocal.reports.text import duration, fraction


def progress_figure(
    history: Sequence[EpochRecord], path: Path, *, title: str = "", synthetic: bool = False
) -> None:
    """Draw validation Dice and lesion F1 per region, loss terms, learning rate and speed.

    Args:
        history: The epochs so far, at least one.
        path: PNG to (over)write.
        title: The run's name.
        synthetic: Stamp the figure as made from the phantom.
    """
    figure = Figure(figsize=(11.5, 6.6))
    grid = figure.add_gridspec(
        2, 6, left=0.06, right=0.985, top=0.89, bottom=0.13, hspace=0.42, wspace=1.1
    )
    dice, loss = figure.add_subplot(grid[0, :3]), figure.add_subplot(grid[0, 3:])
    lesions, rate, speed = (figure.add_subplot(grid[1, 2 * i : 2 * i + 2]) for i in range(3))
    figure.suptitle(
        " · ".join(part for part in (title, _standing(history)) if part),
        fontsize=11,
        parse_math=False,
    )
    _draw_regions(dice, history, "dice", "Validation Dice")
    _draw_regions(lesions, history, "lesion_f1", "Lesion F1, pooled")
    _draw_loss(loss, history)
    _draw_line(rate, history, lambda record: record.lr, "Learning rate")
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    _draw_line(speed, history, lambda record: record.steps_per_s, "Steps per second")
    speed.set_ylim(0, 1.1 * speed.get_ylim()[1])
    for axes in (dice, loss, lesions, rate, speed):
        _finish(axes, history)
    save(figure, path, synthetic=synthetic)


def _standing(history: Sequence[EpochRecord]) -> str:
    last = history[-1]
    parts = [f"epoch {last.epoch}, {duration(last.elapsed_s)}"]
    scored = [record for record in history if record.mean_dice == record.mean_dice]
    if scored:
        best = max(scored, key=lambda record: record.mean_dice)
        parts.append(f"best mean Dice {fraction(best.mean_dice)} in epoch {best.epoch}")
    return " · ".join(parts)


def _draw_regions(axes: Axes, history: Sequence[EpochRecord], score: str, title: str) -> None:
    measured = [(record.epoch, record.val) for record in history if record.val]
    axes.set_title(_with_cases(title, measured[-1][1] if measured else None), fontsize=10)
    axes.set_ylim(0, 1)
    if not measured:
        axes.text(
            0.5, 0.5, "no validation yet", ha="center", color="grey", transform=axes.transAxes
        )
        return
    epochs = [epoch for epoch, _ in measured]
    for index, region in enumerate(measured[-1][1]):
        values = [getattr(val[region], score) for _, val in measured]
        last = fraction(values[-1])
        marker = "o" if len(epochs) < 30 else ""
        axes.plot(epochs, values, label=f"{region} {last}", marker=marker, ms=3, **line_look(index))
    if len(measured[-1][1]) <= 12:
        legend = axes.legend(fontsize=8, loc="best", framealpha=0.8)
        for entry in legend.get_texts():
            entry.set_parse_math(False)


def _with_cases(title: str, summary: object) -> str:
    if not isinstance(summary, dict) or not summary:
        return title
    first: RegionSummary = next(iter(summary.values()))
    return f"{title}, {first.n} case{'s' if first.n > 1 else ''}"


def _draw_loss(axes: Axes, history: Sequence[EpochRecord]) -> None:
    epochs = [record.epoch for record in history]
    marker = "o" if len(epochs) < 30 else ""
    axes.set_title("Training loss (mean over the epoch)", fontsize=10)
    total = [record.loss for record in history]
    axes.plot(epochs, total, color="black", lw=2, label="total", marker=marker, ms=3)
    for index, name in enumerate(dict.fromkeys(n for r in history for n in r.terms)):
        values = [record.terms.get(name, float("nan")) for record in history]
        axes.plot(epochs, values, label=name, marker=marker, ms=3, **line_look(index))
    axes.legend(fontsize=8, loc="best", framealpha=0.8)
    axes.set_ylim(bottom=min(0.0, *total, 0.0))


def _draw_line(
    axes: Axes,
    history: Sequence[EpochRecord],
    value: Callable[[EpochRecord], float],
    title: str,
) -> None:
    axes.set_title(title, fontsize=10)
    marker = "o" if len(history) < 30 else ""
    epochs = [record.epoch for record in history]
    axes.plot(epochs, [value(record) for record in history], color="#444444", marker=marker, ms=3)


def _finish(axes: Axes, history: Sequence[EpochRecord]) -> None:
    first, last = history[0].epoch, history[-1].epoch
    margin = max(0.5, 0.02 * (last - first))
    axes.set_xlim(first - margin, last + margin)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
    axes.set_xlabel("epoch", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
