"""`samples/epoch_012.png`: image, reference and prediction side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import Normal, Stroke

from segfocal.labels import IGNORE_CLASS, ClassMap, LabelScheme
from segfocal.metrics.case_score import CaseScore, region_masks, score_case
from segfocal.reports.style import overlay_colour, save
from segfocal.reports.text import fraction

OUTLINE = [Stroke(linewidth=2.2, foreground="black"), Normal()]

Image = npt.NDArray[np.float32]


@dataclass(frozen=True)
class View:
    """One slice of a RAS+ volume, as a radiologist looks at it: the patient's right on the left.

    Attributes:
        name: `axial` or `coronal`.
        axis: The axis that the slice is perpendicular to.
        index: Its position along that axis.
    """

    name: str
    axis: int
    index: int

    def cut(self, volume: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The slice of a volume `(X, Y, Z)`, rows from bottom to top, right side first."""
        plane: npt.NDArray[Any] = np.take(volume, self.index, axis=self.axis)
        return plane[::-1].T

    def aspect(self, zooms_mm: Sequence[float]) -> float:
        """Height of a voxel over its width."""
        rows = 1 if self.axis == 2 else 2
        return float(zooms_mm[rows] / zooms_mm[0])


def sample_figure(
    image: Image,
    channel_names: Sequence[str],
    reference: ClassMap,
    prediction: ClassMap,
    scheme: LabelScheme,
    path: Path,
    *,
    title: str,
    zooms_mm: Sequence[float],
    synthetic: bool = False,
    annotated: Sequence[bool] | None = None,
) -> None:
    """Draw one case: axial above, coronal below; image, reference, prediction.

    Each row is the slice of that direction with the most annotated lesion (the most predicted,
    where nothing is annotated). The upper row shows the channel in which the lesion stands out
    most, the lower one that in which the innermost region does (without regions: the next one).
    The Dice coefficients are those of the whole case over annotated voxels, a dash where
    reference and prediction are both empty.

    Args:
        image: `(C, X, Y, Z)` in RAS+ order, any scale.
        channel_names: C names.
        reference: uint8 class indices `(X, Y, Z)`, `IGNORE_CLASS` where nobody annotated.
        prediction: uint8 class indices `(X, Y, Z)`.
        scheme: Names and regions.
        path: PNG to (over)write.
        title: Case and epoch.
        zooms_mm: Voxel edge lengths along X, Y, Z.
        synthetic: Stamp the figure as made from the phantom.
        annotated: For each target, whether the case was annotated for it; None for all.

    Raises:
        ValueError: If the shapes do not agree.
    """
    if not image.shape[1:] == reference.shape == prediction.shape:
        raise ValueError(
            f"image, reference and prediction must share a grid: got {image.shape[1:]}, "
            f"{reference.shape} and {prediction.shape}."
        )
    score = score_case(
        "", region_masks(prediction, scheme.target_classes), reference,
        scheme.target_names, scheme.target_classes, zooms_mm, annotated=annotated,
    )  # fmt: skip
    views = _views(reference, prediction)
    channels = _channels(image, reference, scheme)
    heights = [
        view.aspect(zooms_mm) * view.cut(reference).shape[0] / view.cut(reference).shape[1]
        for view in views
    ]
    width = 11.5
    panel = (width - 0.6) / 3
    figure = Figure(figsize=(width, min(panel * sum(heights) + 1.5, 14.0)))
    tall = figure.get_figheight()
    axes = figure.subplots(
        2, 3, squeeze=False, height_ratios=heights,
        gridspec_kw={"left": 0.035, "right": 0.995, "top": 1 - 0.7 / tall,
                     "bottom": 0.75 / tall, "wspace": 0.02, "hspace": 0.03},
    )  # fmt: skip
    for row, view, channel in zip(axes, views, channels, strict=True):
        window = _window(image[channel])
        shaded = np.where((image != 0).any(0), image[channel], window[0])
        for place, shown in zip(row, (None, reference, prediction), strict=True):
            _draw_panel(place, view, shaded, shown, reference, window, zooms_mm)
        _mark_error_outline(row[2], view, reference)
        row[0].set_ylabel(f"{view.name}, slice {view.index}", fontsize=8)
        row[0].text(
            0.02, 0.98, channel_names[channel], color="white", fontsize=9, va="top",
            transform=row[0].transAxes, parse_math=False, path_effects=OUTLINE,
        )  # fmt: skip
    for place, words in zip(axes[0], ("image", "reference", _dice_words(score)), strict=True):
        place.set_title(words, fontsize=10, parse_math=False)
    figure.suptitle(title, fontsize=11, y=1 - 0.12 / tall, va="top", parse_math=False)
    _legend(figure, reference, prediction, scheme, 0.42 / tall)
    save(figure, path, synthetic=synthetic)


def _dice_words(score: CaseScore) -> str:
    shown = list(score.regions.items())[:5]
    words = " ".join(f"{name} {fraction(region.dice)}" for name, region in shown)
    return f"prediction (Dice {words}{' ...' if len(score.regions) > 5 else ''})"


def _views(reference: ClassMap, prediction: ClassMap) -> tuple[View, View]:
    annotated = (reference > 0) & (reference != IGNORE_CLASS)
    lesion = annotated if annotated.any() else prediction > 0
    return View("axial", 2, _fullest(lesion, 2)), View("coronal", 1, _fullest(lesion, 1))


def _fullest(mask: npt.NDArray[np.bool_], axis: int) -> int:
    """Index of the slice with the most True voxels; the middle one if there are none."""
    others = tuple(other for other in range(mask.ndim) if other != axis)
    totals = mask.sum(axis=others)
    return int(totals.argmax()) if totals.any() else mask.shape[axis] // 2


def _channels(image: Image, reference: ClassMap, scheme: LabelScheme) -> tuple[int, int]:
    """The channel for the whole lesion, and the one for its innermost region (or a second one)."""
    whole = np.isin(reference, sorted({c for cs in scheme.target_classes for c in cs}))
    known = (image != 0).any(0) & (reference != IGNORE_CLASS)
    ranking = _ranking(image, whole, known & ~whole)
    inner = np.isin(reference, scheme.target_classes[-1])
    if scheme.regions and inner.any() and (whole & ~inner).any():
        return ranking[0], _ranking(image, inner, whole & ~inner)[0]
    return ranking[0], ranking[min(1, len(ranking) - 1)]


def _ranking(
    image: Image, lesion: npt.NDArray[np.bool_], around: npt.NDArray[np.bool_]
) -> list[int]:
    """Channels by the distance of the lesion's mean from what is around, clearest first."""
    if not lesion.any() or not around.any():
        return list(range(len(image)))
    distance = [
        abs(float(values[lesion].mean() - values[around].mean()))
        / max(float(values[around].std()), 1e-6)
        for values in image
    ]
    return sorted(range(len(image)), key=lambda channel: -distance[channel])


def _window(values: Image) -> tuple[float, float]:
    """Grey levels from the 1st to the 99.7th percentile of what is not background."""
    inner = values[values != 0]
    if not inner.size:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(inner, (1, 99.7)))
    return low, max(high, low + 1e-6)


def _draw_panel(
    axes: Axes,
    view: View,
    image: Image,
    classes: ClassMap | None,
    reference: ClassMap,
    window: tuple[float, float],
    zooms_mm: Sequence[float],
) -> None:
    look: dict[str, Any] = {"origin": "lower", "aspect": view.aspect(zooms_mm)}
    grey = view.cut(image)
    axes.imshow(grey, cmap="gray", vmin=window[0], vmax=window[1], interpolation="bilinear", **look)
    if classes is not None:
        axes.imshow(_paint(view.cut(classes)), interpolation="nearest", **look)
        ignored = view.cut(reference) == IGNORE_CLASS
        if ignored.any() and _has_contours(ignored):
            axes.contourf(ignored, levels=[0.5, 1.5], colors="none", hatches=["////"])
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_facecolor("black")
    for x, letter in ((0.01, "R"), (0.99, "L")):
        axes.text(
            x, 0.5, letter, color="white", fontsize=8, va="center", path_effects=OUTLINE,
            ha="left" if letter == "R" else "right", transform=axes.transAxes,
        )  # fmt: skip


def _paint(classes: ClassMap) -> npt.NDArray[np.float32]:
    """RGBA of a slice of class indices: translucent colours, grey where ignored."""
    painted = np.zeros((*classes.shape, 4), dtype=np.float32)
    for index in np.unique(classes):
        if index == IGNORE_CLASS:
            painted[classes == index] = (0.6, 0.6, 0.6, 0.45)
        elif index:
            painted[classes == index] = (*to_rgb(overlay_colour(int(index))), 0.55)
    return painted


def _mark_error_outline(axes: Axes, view: View, reference: ClassMap) -> None:
    """The reference's outer border over the prediction."""
    lesion = view.cut((reference > 0) & (reference != IGNORE_CLASS))
    if lesion.any() and _has_contours(lesion):
        drawn = axes.contour(lesion, levels=[0.5], colors="white", linewidths=0.9)
        drawn.set_path_effects(OUTLINE)


def _has_contours(plane: npt.NDArray[np.bool_]) -> bool:
    """Whether matplotlib can draw them: of one slice, the side is a row of voxels."""
    return bool(min(plane.shape) > 1)


def _legend(
    figure: Figure, reference: ClassMap, prediction: ClassMap, scheme: LabelScheme, y: float
) -> None:
    present = [int(i) for i in np.union1d(np.unique(reference), np.unique(prediction)) if i]
    patches: list[Any] = [
        Patch(color=overlay_colour(index), label=scheme.names[index])
        for index in present
        if index != IGNORE_CLASS
    ][:10]
    if IGNORE_CLASS in present:
        patches.append(
            Patch(facecolor="0.7", hatch="////", edgecolor="0.3", label="not annotated, not scored")
        )
    if any(index != IGNORE_CLASS for index in np.unique(reference) if index):
        patches.append(
            Line2D([], [], color="white", label="outline of the reference", path_effects=OUTLINE)
        )
    if patches:
        legend = figure.legend(
            handles=patches, loc="center", bbox_to_anchor=(0.5, y), fontsize=8,
            ncols=len(patches), frameon=False,
        )  # fmt: skip
        for entry in legend.get_texts():
            entry.set_parse_math(False)
