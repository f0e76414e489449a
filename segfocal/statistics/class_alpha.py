"""Alpha of a focal loss from the voxels of a training split, with its provenance."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from segfocal.errors import SegfocalWarning, UserError
from segfocal.statistics.class_weights import Floats, Scheme, class_weights, scheme_beta
from segfocal.statistics.voxel_counts import VoxelCounts

Unit = Literal["voxels", "volumes"]
Normalize = Literal["mean", "sum", "none"]
Empty = Literal["error", "zero", "max"]

_SATURATED_RATIO = 1.01
_UNEQUAL_COUNTS = 1.5


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
        """One line: `balanced, from 9 cases: WT 0.98 ET 0.997 · ignore 255: 0.4% of voxels`."""
        weights = " ".join(
            f"{name} {_short(weight, self.kind)}"
            for name, weight in zip(self.names, self.weights, strict=True)
        )
        cases = self.provenance["num_cases"]
        line = f"{self.scheme}, from {cases} case{'' if cases == 1 else 's'}: {weights}"
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
        counts: Voxels of the training split.
        scheme: One of `class_weights.SCHEMES`.
        beta: Exponent of `inverse` (>= 0, default 1), or of `effective_number` (0 <= beta < 1,
            default 1 - 1/N). Voxel counts saturate any usual beta: 0.9999 gives equal weights.
        unit: What n_c counts: voxels, or volumes that hold the class.
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
    scheme_ = counts.scheme
    table = counts.table
    n, holding = _units(table, table.sum(axis=1), unit)
    present = _present(n > 0, scheme_.names, empty)
    total = counts.num_cases if unit == "volumes" else int(n.sum())
    weights = np.zeros(len(n))
    weights[present] = _capped(
        class_weights(n[present], scheme, beta=beta, holding=holding[present], total=total),
        max_ratio,
    )
    _warn_if_saturated(scheme, n[present], weights[present], beta)
    weights[present] /= _divisor(weights[present], normalize)
    if empty == "max":
        weights[~present] = weights.max()
    options = {"beta": scheme_beta(scheme, beta, total), "unit": unit, "normalize": normalize}
    return _record(counts, weights, scheme_.names, "class", scheme, options, max_ratio, empty)


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
        unit: As in `class_alpha`.
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
    positives = counts.region_table
    volumes = counts.table.sum(axis=1)
    present = _present(positives.sum(axis=0) > 0, names, empty)
    alpha = np.zeros(len(names))
    for channel in np.flatnonzero(present):
        sides = np.stack([positives[:, channel], volumes - positives[:, channel]], axis=1)
        n, holding = _units(sides, volumes, unit)
        if n[1] == 0:
            raise UserError(
                f"Region {names[channel]} holds every annotated voxel of the training split: alpha "
                f"is undefined. Change the split, drop the region, or set loss.alpha."
            )
        total = counts.num_cases if unit == "volumes" else int(n.sum())
        pair = class_weights(n, scheme, beta=beta, holding=holding, total=total)
        _warn_if_saturated(scheme, n, pair, beta)
        pair = _capped(pair, max_ratio)
        alpha[channel] = pair[0] / pair.sum()
    if empty == "max":
        alpha[~present] = alpha.max()
    total = counts.num_cases if unit == "volumes" else int(volumes.sum())
    options = {"beta": scheme_beta(scheme, beta, total), "unit": unit}
    return _record(counts, alpha, names, "region", scheme, options, max_ratio, empty)


def _units(
    table: npt.NDArray[np.int64], volumes: npt.NDArray[np.int64], unit: Unit
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Count of each column, and the units of the volumes that hold it."""
    holds = table > 0
    if unit == "volumes":
        n = holds.sum(axis=0)
        return n, np.full_like(n, len(table))
    if unit == "voxels":
        return table.sum(axis=0), (holds * volumes[:, None]).sum(axis=0)
    raise UserError(f"alpha: unit: expected voxels or volumes, got {unit!r}.")


def _present(
    present: npt.NDArray[np.bool_], names: Sequence[str], empty: Empty
) -> npt.NDArray[np.bool_]:
    if empty not in ("error", "zero", "max"):
        raise UserError(f"alpha: empty: expected error, zero or max, got {empty!r}.")
    if not present.any():
        raise UserError(
            "The training split has no annotated voxel: alpha is undefined. Change the split, or "
            "set loss.alpha."
        )
    if empty == "error" and not present.all():
        name = names[int(np.flatnonzero(~present)[0])]
        raise UserError(
            f"Class {name} has no voxel in the training split: alpha is undefined. Change the "
            f"split, drop the class, or set loss.alpha."
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
    scheme: Scheme, n: npt.NDArray[np.int64], weights: Floats, beta: float | None
) -> None:
    if scheme != "effective_number" or beta is None:
        return
    if n.max() >= _UNEQUAL_COUNTS * n.min() and weights.max() < _SATURATED_RATIO * weights.min():
        warnings.warn(
            f"effective_number saturates: beta {beta:g} tells counts apart up to about "
            f"{1 / (1 - beta):.0f}, the classes have {n.min()} to {n.max()}, so every weight is "
            f"the same. Leave beta out, or count volumes (unit='volumes').",
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
