"""Alpha of a focal loss from what a training split holds, with its provenance.

What is counted is in `class_units.py`, the formulas are in `class_weights.py`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from segfocal.errors import SegfocalWarning, UserError
from segfocal.statistics.class_units import Unit, Units, class_units, region_units, what_lacks
from segfocal.statistics.class_weights import Floats, Scheme, class_weights, scheme_beta
from segfocal.statistics.voxel_counts import VoxelCounts

Normalize = Literal["mean", "sum", "none"]
Empty = Literal["error", "zero", "max"]

_SATURATED_RATIO = 1.01
_UNEQUAL_COUNTS = 1.5
_SATURATION_CURES: dict[Unit, str] = {
    "voxels": "Leave beta out, or count lesions or volumes (loss.alpha_unit, or unit='lesions').",
    "lesions": "Leave beta out, or count volumes (loss.alpha_unit, or unit='volumes').",
    "volumes": "Leave beta out.",
}


@dataclass(frozen=True)
class ClassAlpha:
    """Class weights and where they come from.

    Attributes:
        weights: One per name. `kind` class: weights of a softmax focal loss, background first.
            `kind` region: alpha in [0, 1] of each sigmoid channel; positives weigh alpha,
            negatives 1 - alpha.
        names: Class or region names.
        kind: `class` or `region`.
        scheme: Which formula.
        options: Its settings, the derived beta included.
        provenance: `VoxelCounts.provenance()`, and the share of ignored voxels.
    """

    weights: tuple[float, ...]
    names: tuple[str, ...]
    kind: Literal["class", "region"]
    scheme: Scheme
    options: Mapping[str, Any]
    provenance: Mapping[str, Any]

    def summary(self) -> str:
        """One line: `balanced, from 9 cases: WT 0.98 ET 0.997 · ignore 255: 0.4% of voxels`.

        Where lesions or volumes were counted: `balanced by lesions, ...: ... · lesions WT 31 ET 9`.
        """
        weights = " ".join(
            f"{name} {_short(weight, self.kind)}"
            for name, weight in zip(self.names, self.weights, strict=True)
        )
        cases = self.provenance["num_cases"]
        unit = self.options.get("unit", "voxels")
        by = "" if unit == "voxels" else f" by {unit}"
        line = f"{self.scheme}{by}, from {cases} case{'' if cases == 1 else 's'}: {weights}"
        if unit == "lesions":
            found = self.provenance["lesions"]
            told = " ".join(f"{name} {found[name]}" for name in self.names if name in found)
            line = f"{line} · lesions {told}"
        values = self.provenance["ignore_values"]
        if not values:
            return line
        share = _percent(self.provenance["ignored_fraction"])
        return f"{line} · ignore {','.join(map(str, values))}: {share} of voxels"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint or a JSON file; `from_dict` is the inverse."""
        return {
            "weights": list(self.weights),
            "names": list(self.names),
            "kind": self.kind,
            "scheme": self.scheme,
            "options": dict(self.options),
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> ClassAlpha:
        """The record that `to_dict` wrote."""
        return cls(
            tuple(plain["weights"]),
            tuple(plain["names"]),
            plain["kind"],
            plain["scheme"],
            dict(plain["options"]),
            dict(plain["provenance"]),
        )


def class_alpha(
    counts: VoxelCounts,
    scheme: Scheme = "balanced",
    *,
    beta: float | None = None,
    unit: Unit = "voxels",
    normalize: Normalize = "mean",
    max_ratio: float | None = None,
    empty: Empty = "error",
) -> ClassAlpha:
    """Weights of a softmax focal loss, one per class, background first.

    Args:
        counts: Voxels, and lesions where they are the unit, of the training split.
        scheme: One of `class_weights.SCHEMES`.
        beta: Exponent of `inverse` (>= 0, default 1), or of `effective_number` (0 <= beta < 1,
            default 1 - 1/N). Voxel counts saturate any usual beta: 0.9999 gives equal weights.
        unit: What n_c counts: `voxels`; `lesions`, the connected components of the class (26
            neighbours, in each case), the background once for every lesion of any class; or
            `volumes` that hold the class.
        normalize: `mean` scales the weights to mean 1 and `sum` to sum 1, over the classes that
            have voxels; `none` leaves the formula's numbers.
        max_ratio: Largest ratio between two weights, >= 1: larger weights are cut to it.
        empty: A class without voxels is an `error`, weighs `zero`, or as much as the largest
            (`max`); the formula then sees the other classes only.

    Raises:
        UserError: If a class has no voxel and `empty` is `error`, or an option is out of range.

    Warns:
        SegfocalWarning: If `effective_number` saturates: equal weights from unequal counts.
    """
    names = counts.scheme.names
    units = class_units(counts, unit)
    present = _present(units.n > 0, names, empty, unit)
    n = units.n[present]
    weights = np.zeros(len(names))
    weights[present] = _capped(_raw_weights(units, present, scheme, beta), max_ratio)
    _warn_if_saturated(scheme, [(n, weights[present])], beta, unit)
    weights[present] /= _divisor(weights[present], normalize)
    if empty == "max":
        weights[~present] = weights.max()
    options = {"beta": scheme_beta(scheme, beta, units.total), "unit": unit, "normalize": normalize}
    return _record(counts, weights, names, "class", scheme, options, max_ratio, empty)


def region_alpha(
    counts: VoxelCounts,
    scheme: Scheme = "balanced",
    *,
    beta: float | None = None,
    unit: Unit = "voxels",
    max_ratio: float | None = None,
    empty: Empty = "error",
) -> ClassAlpha:
    """Alpha of each sigmoid channel: positives weigh alpha, negatives 1 - alpha.

    Each region is a question with two answers. The scheme gives a weight to each from their two
    counts, and alpha = w_pos / (w_pos + w_neg). With f the positive fraction: `balanced` and
    `inverse` give 1 - f (both answers then weigh the same in total), `inverse` with beta 0.5
    sqrt(1-f) / (sqrt(f) + sqrt(1-f)), `generalized_dice` (1-f)^2 / (f^2 + (1-f)^2).

    Args:
        counts: Voxels of the training split; its scheme must have regions.
        scheme: One of `class_weights.SCHEMES`.
        beta: As in `class_alpha`.
        unit: As in `class_alpha`. `lesions`: the positives are the region's lesions, the negatives
            count once for every lesion of any region.
        max_ratio: Largest ratio between w_pos and w_neg, >= 1.
        empty: A region without voxels is an `error`, has alpha `zero`, or the largest of the
            others (`max`).

    Raises:
        UserError: If a region has no voxel, or no voxel outside it, and `empty` is `error`; if
            the scheme has no regions; or an option is out of range.

    Warns:
        SegfocalWarning: If `effective_number` saturates: equal weights from unequal counts.
    """
    if not counts.scheme.regions:
        raise UserError("alpha: the label scheme has no regions. Use class_alpha.")
    names = counts.scheme.output_names
    sides = region_units(counts, unit)
    has_units = np.array([side.n[0] > 0 for side in sides])
    present = _present(has_units, names, empty, unit)
    alpha = np.zeros(len(names))
    pairs = []
    for channel in np.flatnonzero(present):
        _check_outside(counts, int(channel))
        side = sides[channel]
        both = np.ones(2, dtype=np.bool_)
        pair = _raw_weights(side, both, scheme, beta)
        pairs.append((side.n, pair))
        pair = _capped(pair, max_ratio)
        alpha[channel] = pair[0] / pair.sum()
    _warn_if_saturated(scheme, pairs, beta, unit)
    if empty == "max":
        alpha[~present] = alpha.max()
    options = {"beta": scheme_beta(scheme, beta, sides[0].total), "unit": unit}
    return _record(counts, alpha, names, "region", scheme, options, max_ratio, empty)


def _raw_weights(
    units: Units, present: npt.NDArray[np.bool_], scheme: Scheme, beta: float | None
) -> Floats:
    return class_weights(
        units.n[present], scheme, beta=beta, holding=units.holding[present], total=units.total
    )


def _check_outside(counts: VoxelCounts, channel: int) -> None:
    """A region that is everywhere leaves no negatives to weigh."""
    if counts.voxels.sum() == counts.region_table[:, channel].sum():
        raise UserError(
            f"Region {counts.scheme.output_names[channel]} holds every annotated voxel of the "
            f"training split: alpha is undefined. Change the split, drop the region, or set "
            f"loss.alpha."
        )


def _present(
    present: npt.NDArray[np.bool_], names: Sequence[str], empty: Empty, unit: Unit
) -> npt.NDArray[np.bool_]:
    if empty not in ("error", "zero", "max"):
        raise UserError(f"alpha: empty: expected error, zero or max, got {empty!r}.")
    if not present.any():
        raise UserError(
            f"The training split has no {what_lacks(unit, annotated=True)}: alpha is undefined. "
            f"Change the split, or set loss.alpha."
        )
    if empty == "error" and not present.all():
        name = names[int(np.flatnonzero(~present)[0])]
        raise UserError(
            f"Class {name} has no {what_lacks(unit)} in the training split: alpha is undefined. "
            f"Change the split, drop the class, or set loss.alpha."
        )
    return present


def _capped(weights: Floats, max_ratio: float | None) -> Floats:
    if max_ratio is None:
        return weights
    if not max_ratio >= 1:
        raise UserError(f"alpha: max_ratio: expected a number >= 1, got {max_ratio}.")
    return np.asarray(np.minimum(weights, max_ratio * weights.min()))


def _divisor(weights: Floats, normalize: Normalize) -> float:
    if normalize == "mean":
        return float(weights.mean())
    if normalize == "sum":
        return float(weights.sum())
    if normalize == "none":
        return 1.0
    raise UserError(f"alpha: normalize: expected mean, sum or none, got {normalize!r}.")


def _warn_if_saturated(
    scheme: Scheme,
    weighed: Sequence[tuple[npt.NDArray[np.int64], Floats]],
    beta: float | None,
    unit: Unit,
) -> None:
    """One warning for all counts that got equal weights though they are not equal."""
    if scheme != "effective_number" or beta is None:
        return
    saturated = [
        n
        for n, weights in weighed
        if n.max() >= _UNEQUAL_COUNTS * n.min() and weights.max() < _SATURATED_RATIO * weights.min()
    ]
    if saturated:
        lowest, highest = min(n.min() for n in saturated), max(n.max() for n in saturated)
        warnings.warn(
            f"effective_number saturates: beta {beta:g} tells counts apart up to about "
            f"{1 / (1 - beta):.0f}, the classes have {lowest} to {highest}, so their weights are "
            f"the same. {_SATURATION_CURES[unit]}",
            SegfocalWarning,
            stacklevel=3,
        )


def _record(
    counts: VoxelCounts,
    weights: Floats,
    names: Sequence[str],
    kind: Literal["class", "region"],
    scheme: Scheme,
    options: dict[str, Any],
    max_ratio: float | None,
    empty: Empty,
) -> ClassAlpha:
    return ClassAlpha(
        tuple(float(weight) for weight in weights),
        tuple(names),
        kind,
        scheme,
        {**options, "max_ratio": max_ratio, "empty": empty},
        {**counts.provenance(), "ignored_fraction": counts.ignored_fraction},
    )


def _short(weight: float, kind: str) -> str:
    """Three digits; of an alpha near 1 enough digits to tell it from 1."""
    if kind == "region" and 0.99 < weight < 1:
        return f"{weight:.{2 - math.floor(math.log10(1 - weight))}g}"
    return f"{weight:.3g}"


def _percent(share: float) -> str:
    return "<0.1%" if 0 < share < 0.0005 else f"{100 * share:.1f}%"
