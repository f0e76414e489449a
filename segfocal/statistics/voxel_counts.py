"""Voxels and lesions of each class in each case: streamed, merged, cut to a split, kept as JSON."""

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
from segfocal.statistics.class_histogram import Counts, class_histogram
from segfocal.statistics.lesion_sizes import lesion_counts, lesion_groups


class VoxelCounts:
    """Voxels of every class in every case, ignored voxels counted apart; lesions where asked.

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
        self._lesions: dict[str, Counts] = {}

    def add(self, classes: npt.ArrayLike, *, case_id: str, lesions: bool = False) -> None:
        """Counts one case.

        Args:
            classes: Class indices of the whole case, uint8, any shape; `IGNORE_CLASS` is left out.
                An array or a tensor in memory.
            case_id: Its id.
            lesions: Count its lesions too, by `lesion_counts`: then of a shape that it takes.

        Raises:
            ValueError: If the case was counted before, is not uint8, holds an index that is no
                class, or has no shape to count lesions in.
        """
        found = lesion_counts(classes, self.scheme) if lesions else None
        self._add(class_histogram(classes), case_id)
        if found is not None:
            self.add_lesions(found, case_id=case_id)

    def add_lesions(self, lesions: npt.ArrayLike, *, case_id: str) -> None:
        """Adds the lesions of a case whose voxels were counted.

        Args:
            lesions: Number of lesions of every class but the background, then of every region:
                `lesion_counts`.
            case_id: Its id.

        Raises:
            ValueError: If its voxels were not counted, its lesions were, or these numbers do not
                fit its voxels.
        """
        if case_id not in self._cases:
            raise ValueError(f"case {case_id} was not counted.")
        if case_id in self._lesions:
            raise ValueError(f"the lesions of case {case_id} were counted already.")
        self._lesions[case_id] = self._checked_lesions(np.asarray(lesions), case_id)

    def _checked_lesions(self, lesions: npt.NDArray[Any], case_id: str) -> Counts:
        groups = lesion_groups(self.scheme)
        row = self._cases[case_id]
        voxels = [row[list(classes)].sum() for classes in groups]
        wrong = lesions.dtype.kind not in "iu" or lesions.shape != (len(groups),)
        if wrong or lesions.min() < 0 or (lesions > voxels).any():
            raise ValueError(
                f"case {case_id}: expected {len(groups)} numbers of lesions, none above its voxels."
            )
        return lesions.astype(np.int64)

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
        merged._lesions = {**self._lesions, **other._lesions}
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
            if case_id in self._lesions:
                chosen._lesions[case_id] = self._lesions[case_id]
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

    @property
    def lesion_table(self) -> Counts:
        """Lesions by case (in the order of `case_ids`) and group (of `lesion_groups`), `(N, G)`.

        Raises:
            UserError: If the lesions of a case were not counted.
        """
        missing = [case_id for case_id in self.case_ids if case_id not in self._lesions]
        if missing:
            raise UserError(
                f"alpha: the lesions of {missing[0]} were not counted"
                + (f", nor those of {len(missing) - 1} more cases" if len(missing) > 1 else "")
                + ". Count them by VoxelCounts.add(..., lesions=True); for a stats.json without "
                "lesions, run segfocal-stats again."
            )
        rows = [self._lesions[case_id] for case_id in self.case_ids]
        return np.array(rows, dtype=np.int64).reshape(-1, len(lesion_groups(self.scheme)))

    def provenance(self) -> dict[str, Any]:
        """Where the numbers come from, without naming a case: plain values, for a checkpoint.

        `lesions` is there where those of every case were counted.
        """
        record = {
            "num_cases": self.num_cases,
            "cases_sha256": hashlib.sha256("\n".join(self.case_ids).encode()).hexdigest(),
            "labels": dict(zip(self.scheme.names, self.scheme.values, strict=True)),
            "voxels": dict(zip(self.scheme.names, self.voxels.tolist(), strict=True)),
            "ignore_values": list(self.scheme.ignore_values),
            "ignored_voxels": self.ignored,
            "segfocal": __version__,
        }
        if self._lesions and len(self._lesions) == len(self._cases):
            names = [*self.scheme.names[1:], *(region.name for region in self.scheme.regions)]
            found = self.lesion_table.sum(axis=0).tolist()
            record["lesions"] = dict(zip(names, found, strict=True))
            record["lesion_neighbours"] = "26 in 3-d, 8 in 2-d"
        return record

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file; `from_dict` is the inverse.

        `cases` holds, for each case, the voxels of each class and last the ignored ones; `lesions`,
        for each case whose lesions were counted, those of each group of `lesion_groups`.
        """
        found = {case_id: self._lesions[case_id].tolist() for case_id in sorted(self._lesions)}
        return {
            "provenance": self.provenance(),
            "scheme": self.scheme.to_dict(),
            "cases": {case_id: self._cases[case_id].tolist() for case_id in self.case_ids},
            **({"lesions": found} if found else {}),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> VoxelCounts:
        """The counts that `to_dict` wrote.

        Raises:
            ValueError: If a case does not hold one count >= 0 per class and one for ignored voxels,
                or its lesions do not fit them.
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
        for case_id, row in plain.get("lesions", {}).items():
            counts.add_lesions(row, case_id=case_id)
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
