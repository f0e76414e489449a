"""From the numbers that a label file stores to the integers that they mean, piece by piece."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segfocal.data.defects import DefectError
from segfocal.data.nifti_header import MAX_VOXELS, Header, stored_scaling, times
from segfocal.data.nifti_voxels import StoredVoxels
from segfocal.statistics.class_histogram import Counts, class_histogram

INTEGER_TOLERANCE = 1e-3
"""How far a float in a label file may lie from an integer and still mean it."""

SCALED_TOLERANCE = 0.05
"""The same where the file stores scaled integers, for it then rounds by up to half its slope."""

_LARGEST_LABEL = 2**53
_LARGEST_FACTOR = 2**30
_TABLE_SPAN = 1 << 16
_WORD_BYTES = 8
_AT_ONCE = 1 << 17
"""Voxels that are decoded together: as floats they still fit the cache."""


class LabelDecoder:
    """Stored numbers to integers. Integers under a whole slope and intercept never become floats.

    Args:
        header: The label file's header.

    Raises:
        DefectError: If this is not a 3-D volume, or the scaling is not finite.
    """

    def __init__(self, header: Header) -> None:
        if len(header.shape) != 3:
            raise DefectError(
                f"{header.path}: expected a 3-D label with one integer per voxel, got "
                f"{times(header.shape)}.",
                "shape",
            )
        self._path = header.path
        self._scaling = stored_scaling(header)
        self._tolerance = INTEGER_TOLERANCE
        self._whole: tuple[int, int] | None = None
        if self._scaling is not None:
            slope, inter = self._scaling
            self._tolerance = max(INTEGER_TOLERANCE, min(abs(slope) * 0.5, SCALED_TOLERANCE))
            small = max(abs(slope), abs(inter)) < _LARGEST_FACTOR and header.dtype.itemsize <= 4
            if small and slope.is_integer() and inter.is_integer():
                self._whole = int(slope), int(inter)
        self._num_wrong = 0
        self._example = 0.0

    def decode(self, stored: npt.NDArray[Any], times: int | Counts = 1) -> npt.NDArray[Any]:
        """The integers of a piece; what is none counts as wrong and comes out as 0.

        Args:
            stored: Numbers as the file holds them.
            times: How many voxels each of them stands for; one number for all, or one each.
        """
        if stored.dtype.kind in "iu":
            if self._scaling is None:
                return self._within(stored)
            if self._whole is not None:
                factor, offset = self._whole
                return stored.astype(np.int64) * factor + offset
        values = stored if stored.dtype.kind == "f" else stored.astype(np.float64)
        if self._scaling is not None:
            slope, inter = self._scaling
            with np.errstate(all="ignore"):
                values = values * np.float64(slope) + np.float64(inter)
        return self._rounded(values, times)

    def finish(self) -> None:
        """Call when every piece was decoded.

        Raises:
            DefectError: If a value was no integer, with an example and how many there were.
        """
        if self._num_wrong:
            raise DefectError(
                f"{self._path}: label holds {self._example:g}, expected integers "
                f"({self._num_wrong} voxels are not). Was it resampled with interpolation? "
                f"Resample labels with nearest neighbour.",
                "label-not-integer",
            )

    def _rounded(self, values: npt.NDArray[Any], times: int | Counts) -> npt.NDArray[Any]:
        with np.errstate(invalid="ignore"):
            nearest = np.rint(values)
            wrong = ~(np.abs(values - nearest) <= self._tolerance)
        if wrong.any():
            if not self._num_wrong:
                self._example = float(values[wrong][0])
            self._num_wrong += int((wrong * np.asarray(times)).sum())
            nearest[wrong] = 0
        return self._within(nearest).astype(np.int64)

    def _within(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Refuses numbers that no label scheme means, before int64 wraps them round."""
        if values.dtype.itemsize == 8 or values.dtype.kind == "f":
            low, high = values.min(), values.max()
            if low < -_LARGEST_LABEL or high > _LARGEST_LABEL:
                worst = high if high > _LARGEST_LABEL else low
                raise DefectError(
                    f"{self._path}: label holds {float(worst):g}, which is no label.",
                    "label-not-integer",
                )
        return values


@dataclass(frozen=True, eq=False)
class ValueCounts:
    """How often each value stands in a label file.

    Attributes:
        header: The file's header.
        values: The distinct values, sorted, int64 `(K,)`.
        voxels: Voxels of each, int64 `(K,)`.
        trailing_bytes: Bytes behind the last voxel, which mean nothing.
    """

    header: Header
    values: Counts
    voxels: Counts
    trailing_bytes: int


def count_label_values(path: Path, *, max_voxels: int = MAX_VOXELS) -> ValueCounts:
    """`np.unique(label, return_counts=True)` of a label file, without holding the label.

    The memory it takes does not depend on the volume: some megabytes.

    Raises:
        DefectError: If the file is missing, damaged, too large or not 3-D, or holds a value that
            is not an integer.
    """
    voxels = StoredVoxels(path, max_voxels=max_voxels)
    decoder = LabelDecoder(voxels.header)
    total: dict[int, int] = {}
    for piece in voxels.pieces():
        busy = without_repeats(piece)
        repeats = piece.size - busy.size
        if repeats:
            value = int(decoder.decode(piece[:1], repeats)[0])
            total[value] = total.get(value, 0) + repeats
        for start in range(0, busy.size, _AT_ONCE):
            decoded = decoder.decode(busy[start : start + _AT_ONCE])
            values, occurrences = value_histogram(decoded)
            for value, count in zip(values.tolist(), occurrences.tolist(), strict=True):
                total[value] = total.get(value, 0) + count
    decoder.finish()
    found = sorted(total)
    return ValueCounts(
        voxels.header,
        np.array(found, dtype=np.int64),
        np.array([total[value] for value in found], dtype=np.int64),
        voxels.trailing_bytes,
    )


def without_repeats(stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The numbers without most of those that equal the first: most of a label is background.

    Eight bytes at a time are compared, so that only what is left has to be decoded and counted one
    by one. The background need not be stored as 0 where the file scales its numbers.

    Args:
        stored: 1-D, contiguous, not empty, numbers of 1, 2, 4 or 8 bytes.

    Example:
        >>> without_repeats(np.array([5, 5, 5, 5, 7, 5, 5, 5, 9], np.int16)).tolist()
        [7, 5, 5, 5, 9]
    """
    in_word = _WORD_BYTES // stored.itemsize
    whole = stored.size - stored.size % in_word
    words = stored[:whole].view(np.uint64)
    busy = words[words != np.repeat(stored[:1], in_word).view(np.uint64)].view(stored.dtype)
    return busy if whole == stored.size else np.concatenate([busy, stored[whole:]])


def value_histogram(values: npt.NDArray[Any]) -> tuple[Counts, Counts]:
    """`np.unique(values, return_counts=True)` for integers, by counting instead of sorting.

    Args:
        values: Integers of any type, not empty.

    Returns:
        The distinct values, sorted, and how often each occurs; int64 `(K,)` both.
    """
    if values.dtype == np.uint8:
        low, occurrences = 0, class_histogram(values)
    else:
        low, high = int(values.min()), int(values.max())
        if high - low >= _TABLE_SPAN:
            found, occurrences = np.unique(values, return_counts=True)
            return found.astype(np.int64), occurrences.astype(np.int64)
        occurrences = np.bincount((values.astype(np.int64) - low).ravel())
    present = np.flatnonzero(occurrences)
    return present + low, occurrences[present].astype(np.int64)
