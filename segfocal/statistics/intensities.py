"""Intensities of one channel: range, zeros and robust percentiles, exact, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

PERCENTILES = (0.5, 5.0, 50.0, 95.0, 99.5)
"""Which percentiles are told, over the voxels that are not 0."""

_CHUNK = 1 << 20
_TABLE_BYTES = 2


@dataclass(frozen=True)
class Intensities:
    """What the voxels of a channel hold.

    Attributes:
        num_voxels: Voxels.
        num_not_finite: Those that are NaN, infinite or too large for float32. The other fields
            leave them out.
        minimum: Smallest number; NaN where nothing is finite.
        maximum: Largest number; NaN where nothing is finite.
        zero_fraction: Share of voxels that are exactly 0.
        percentiles: At `PERCENTILES` of the voxels that are not 0: the smallest number that at
            least so many of them do not exceed. NaN where all are 0.
    """

    num_voxels: int
    num_not_finite: int
    minimum: float
    maximum: float
    zero_fraction: float
    percentiles: tuple[float, ...]


def measure_intensities(
    stored: npt.NDArray[Any], scaling: tuple[float, float] | None = None
) -> Intensities:
    """Measures one channel. Numbers of one or two bytes are counted, others are sorted partly.

    Args:
        stored: The stored numbers, any shape and memory order.
        scaling: Slope and intercept that make intensities of them; None where they are.
    """
    flat = stored.ravel(order="K")
    if flat.dtype.kind in "iu" and flat.dtype.itemsize <= _TABLE_BYTES:
        return _from_histogram(flat, scaling)
    return _from_values(flat, scaling)


def _from_histogram(flat: npt.NDArray[Any], scaling: tuple[float, float] | None) -> Intensities:
    low, high = int(flat.min()), int(flat.max())
    counts = np.zeros(high - low + 1, dtype=np.int64)
    for start in range(0, flat.size, _CHUNK):
        chunk = flat[start : start + _CHUNK].astype(np.int64)
        counts += np.bincount(chunk - low, minlength=counts.size)
    present = np.flatnonzero(counts)
    counts = counts[present]
    values = _scaled((present + low).astype(np.float64), scaling)
    if scaling is not None and scaling[0] < 0:
        values, counts = values[::-1], counts[::-1]
    finite = np.abs(values) <= np.finfo(np.float32).max
    num_bad = int(counts[~finite].sum())
    values, counts = values[finite], counts[finite]
    if not values.size:
        return _nothing(flat.size, num_bad)
    zeros = int(counts[values == 0].sum())
    other, below = values[values != 0], np.cumsum(counts[values != 0])
    percentiles = (float("nan"),) * len(PERCENTILES)
    if other.size:
        ranks = np.maximum(1, np.ceil(np.array(PERCENTILES) / 100 * below[-1]))
        percentiles = tuple(other[np.searchsorted(below, ranks)].tolist())
    return Intensities(
        flat.size, num_bad, float(values[0]), float(values[-1]), zeros / flat.size, percentiles
    )


def _from_values(flat: npt.NDArray[Any], scaling: tuple[float, float] | None) -> Intensities:
    values = np.empty(flat.size, dtype=np.float32)
    with np.errstate(all="ignore"):
        for start in range(0, flat.size, _CHUNK):
            chunk = flat[start : start + _CHUNK]
            values[start : start + _CHUNK] = _scaled(chunk, scaling)
    finite = np.isfinite(values)
    num_bad = values.size - int(np.count_nonzero(finite))
    if num_bad:
        values = values[finite]
    if not values.size:
        return _nothing(flat.size, num_bad)
    low, high = float(values.min()), float(values.max())
    other = values[values != 0]
    zeros = values.size - other.size
    percentiles = (float("nan"),) * len(PERCENTILES)
    if other.size:
        ranks = np.ceil(np.array(PERCENTILES) / 100 * other.size).astype(np.int64)
        order = np.clip(ranks - 1, 0, other.size - 1)
        other.partition(np.unique(order))
        percentiles = tuple(other[order].tolist())
    return Intensities(flat.size, num_bad, low, high, zeros / flat.size, percentiles)


def _scaled(values: npt.NDArray[Any], scaling: tuple[float, float] | None) -> npt.NDArray[Any]:
    if scaling is None:
        return values
    return np.asarray(values * np.float64(scaling[0]) + np.float64(scaling[1]))


def _nothing(num_voxels: int, num_bad: int) -> Intensities:
    nan = float("nan")
    return Intensities(num_voxels, num_bad, nan, nan, 0.0, (nan,) * len(PERCENTILES))
