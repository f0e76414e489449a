"""Voxels of each class in each case: streamed, merged, cut down to a split, kept as JSON."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segfocal._version import __version__
from segfocal.errors import UserError
from segfocal.files import read_json, write_json
from segfocal.labels import IGNORE_CLASS, LabelScheme

Counts = npt.NDArray[np.int64]

_CHUNK = 1 << 16


def class_histogram(classes: npt.ArrayLike) -> Counts:
    """How often each uint8 occurs: `np.bincount(classes.ravel(), minlength=256)`.

    `bincount` converts its input to 64-bit integers; in chunks that stays in the cache instead of
    taking eight times the volume. Most of a label is background: eight zeros at a time are counted
    by one comparison, and only the rest is counted one by one.

    Args:
        classes: uint8 array, or tensor in memory, of any shape and memory order.

    Returns:
        int64 `(256,)`.

    Raises:
        ValueError: If `classes` is not uint8.
    """
    array = np.asarray(classes)
    if array.dtype != np.uint8:
        raise ValueError(f"classes must be uint8 class indices, got {array.dtype}.")
    flat = array.ravel(order="K")
    total = np.zeros(256, dtype=np.int64)
    whole = flat.size - flat.size % _CHUNK
    for start in range(0, whole, _CHUNK):
        words = flat[start : start + _CHUNK].view(np.uint64)
        busy = words[words != 0]
        total[0] += 8 * (words.size - busy.size)
        if busy.size:
            total += np.bincount(busy.view(np.uint8), minlength=256)
    return total + np.bincount(flat[whole:], minlength=256)


class VoxelCounts:
    """Voxels of every class in every case, ignored voxels counted apart.

    Kept per case, so that the counts of a training split follow from those of the data set
    (`subset`), counts of several processes can be joined (`merge`) in any order, and no case is
    ever counted twice.

    Args:
        scheme: Names, values and regions of the classes.

    Attributes:
        scheme: As given.

    Example:
        >>> scheme = LabelScheme(("background", "tumour"), (0, 1), ignore_values=(9,))
        >>> counts = VoxelCounts(scheme)
        >>> counts.add(scheme.encode(np.array([0, 0, 0, 1, 9])), case_id="a")
        >>> counts.voxels.tolist(), counts.ignored
        ([3, 1], 1)
    """

    def __init__(self, scheme: LabelScheme) -> None:
        self.scheme = scheme
        self._cases: dict[str, Counts] = {}

    def add(self, classes: npt.ArrayLike, *, case_id: str) -> None:
        """Counts one case.

        Args:
            classes: Class indices of the whole case, uint8, any shape; `IGNORE_CLASS` is left out.
                An array or a tensor in memory.
            case_id: Its id.

        Raises:
            ValueError: If the case was counted before, is not uint8, or holds an index that is no
                class.
        """
        self._add(class_histogram(classes), case_id)

    def add_values(
        self, values: npt.ArrayLike, occurrences: npt.ArrayLike, *, case_id: str
    ) -> None:
        """Counts one case whose label was counted already.

        Args:
            values: The distinct values of its label file.
            occurrences: Voxels of each, of the same length.
            case_id: Its id.

        Raises:
            ValueError: If the case was counted before.
            UserError: If a value is not declared.
        """
        classes = self.scheme.encode(np.asarray(values))
        histogram = np.zeros(IGNORE_CLASS + 1, dtype=np.int64)
        np.add.at(histogram, classes, np.asarray(occurrences, dtype=np.int64))
        self._add(histogram, case_id)

    def add_counts(self, voxels: Sequence[int], ignored: int, *, case_id: str) -> None:
        """Counts one case whose classes were counted already.

        Args:
            voxels: Voxels of each class, `(C,)`.
            ignored: Voxels that nobody annotated.
            case_id: Its id.

        Raises:
            ValueError: If the case was counted before, or the number of classes differs.
        """
        if len(voxels) != self.scheme.num_classes:
            raise ValueError(
                f"case {case_id}: expected {self.scheme.num_classes} counts, got {len(voxels)}."
            )
        histogram = np.zeros(IGNORE_CLASS + 1, dtype=np.int64)
        histogram[: len(voxels)] = voxels
        histogram[IGNORE_CLASS] = ignored
        self._add(histogram, case_id)

    def annotated(self, case_id: str) -> int:
        """Voxels of a case that are not ignored."""
        return int(self._cases[case_id][:-1].sum())

    def _add(self, histogram: Counts, case_id: str) -> None:
        if case_id in self._cases:
            raise ValueError(f"case {case_id} was counted already: add each case once.")
        num_classes = self.scheme.num_classes
        unknown = np.flatnonzero(histogram[num_classes:IGNORE_CLASS]) + num_classes
        if unknown.size:
            raise ValueError(
                f"case {case_id} holds class index {int(unknown[0])}, expected 0 to "
                f"{num_classes - 1} or {IGNORE_CLASS}. Encode labels by the LabelScheme first."
            )
        self._cases[case_id] = np.append(histogram[:num_classes], histogram[IGNORE_CLASS])

    def merge(self, other: VoxelCounts) -> VoxelCounts:
        """The counts of both, as a new object.

        Raises:
            ValueError: If the label schemes differ or a case is in both.
        """
        if other.scheme != self.scheme:
            raise ValueError("cannot merge counts of different label schemes.")
        both = sorted(set(self._cases).intersection(other._cases))
        if both:
            raise ValueError(f"cannot merge: case {both[0]} was counted in both.")
        merged = VoxelCounts(self.scheme)
        merged._cases = {**self._cases, **other._cases}
        return merged

    def subset(self, case_ids: Iterable[str]) -> VoxelCounts:
        """The counts of these cases alone, as a new object.

        Raises:
            ValueError: If one of them was not counted.
        """
        chosen = VoxelCounts(self.scheme)
        for case_id in case_ids:
            if case_id not in self._cases:
                raise ValueError(f"case {case_id} was not counted.")
            chosen._cases[case_id] = self._cases[case_id]
        return chosen

    @property
    def case_ids(self) -> tuple[str, ...]:
        """Ids of the cases counted, sorted."""
        return tuple(sorted(self._cases))

    @property
    def num_cases(self) -> int:
        """Number of cases counted."""
        return len(self._cases)

    @property
    def table(self) -> Counts:
        """Voxels by case (in the order of `case_ids`) and class, without ignored ones, `(N, C)`."""
        rows = [self._cases[case_id][:-1] for case_id in self.case_ids]
        return np.array(rows, dtype=np.int64).reshape(-1, self.scheme.num_classes)

    @property
    def voxels(self) -> Counts:
        """Voxels of each class, `(C,)`."""
        return np.asarray(self.table.sum(axis=0))

    @property
    def ignored(self) -> int:
        """Voxels that nobody annotated."""
        return int(sum(row[-1] for row in self._cases.values()))

    @property
    def ignored_fraction(self) -> float:
        """Share of all voxels that nobody annotated; 0 where nothing was counted."""
        total = self.ignored + int(self.voxels.sum())
        return self.ignored / total if total else 0.0

    @property
    def region_table(self) -> Counts:
        """Positive voxels by case and region (without regions: class), `(N, R)`.

        Classes exclude each other, so a region's voxels are the sum over its classes.
        """
        members = self.scheme.region_table or tuple((c,) for c in range(self.scheme.num_classes))
        table = self.table
        return np.stack([table[:, list(classes)].sum(axis=1) for classes in members], axis=1)

    def provenance(self) -> dict[str, Any]:
        """Where the numbers come from, without naming a case: plain values, for a checkpoint."""
        return {
            "num_cases": self.num_cases,
            "cases_sha256": hashlib.sha256("\n".join(self.case_ids).encode()).hexdigest(),
            "labels": dict(zip(self.scheme.names, self.scheme.values, strict=True)),
            "voxels": dict(zip(self.scheme.names, self.voxels.tolist(), strict=True)),
            "ignore_values": list(self.scheme.ignore_values),
            "ignored_voxels": self.ignored,
            "segfocal": __version__,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file; `from_dict` is the inverse.

        `cases` holds, for each case, the voxels of each class and last the ignored ones.
        """
        return {
            "provenance": self.provenance(),
            "scheme": self.scheme.to_dict(),
            "cases": {case_id: self._cases[case_id].tolist() for case_id in self.case_ids},
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> VoxelCounts:
        """The counts that `to_dict` wrote.

        Raises:
            ValueError: If a case does not hold one count >= 0 per class and one for ignored voxels.
            KeyError: If a key is missing.
        """
        counts = cls(LabelScheme.from_dict(plain["scheme"]))
        for case_id, row in plain["cases"].items():
            array = np.asarray(row)
            wrong = array.dtype.kind != "i" or array.shape != (counts.scheme.num_classes + 1,)
            if wrong or array.min() < 0:
                raise ValueError(
                    f"case {case_id}: expected {counts.scheme.num_classes + 1} counts >= 0."
                )
            counts._cases[case_id] = array.astype(np.int64)
        return counts

    def write(self, path: Path) -> None:
        """The counts and their provenance as JSON, complete or absent."""
        write_json(path, self.to_dict())

    @classmethod
    def read(cls, path: Path) -> VoxelCounts:
        """The counts in a file that `write` wrote.

        Raises:
            UserError: If the file is missing or holds something else.
        """
        plain = read_json(path)
        try:
            return cls.from_dict(plain)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            what = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
            raise UserError(f"{path}: holds no voxel counts: {what}") from error
