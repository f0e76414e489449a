"""dataset.json, as MSD and nnU-Net write it: the keys that both share, and errors that name it."""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segfocal.data.cases import Case
from segfocal.data.layouts.found import is_there, missing_below, spellings
from segfocal.errors import SegfocalWarning, UserError
from segfocal.files import read_json
from segfocal.labels import IgnoredClassError, LabelScheme

FILE_NAME = "dataset.json"

Labels = str | Mapping[str, int | Sequence[int]]
"""A preset's name, or names and values as `LabelScheme.from_mapping` takes them."""


@dataclass(frozen=True)
class Descriptor:
    """The content of a dataset.json.

    Attributes:
        path: The file.
        plain: Its JSON object. Keys that segfocal does not know are free text and left alone.
    """

    path: Path
    plain: Mapping[str, Any]

    @classmethod
    def read(cls, root: Path) -> Descriptor:
        """The dataset.json in a folder.

        Raises:
            UserError: If folder or file are missing, or the file is not a JSON object.
        """
        if not root.is_dir():
            what = "is a file" if root.exists() else "does not exist"
            raise UserError(f"{root}: {what}. Expected the folder of a data set.")
        path = root / FILE_NAME
        if not path.is_file():
            raise UserError(
                f"{root}: has no {FILE_NAME}. Expected an MSD or nnU-Net data set; "
                f"is it one folder further down?"
            )
        return cls(path, read_json(path))

    def error(self, text: str) -> UserError:
        """A `UserError` that names the file."""
        return UserError(f"{self.path}: {text}")

    def get(self, *keys: str) -> Any:
        """The value under the first of `keys` that is there.

        Raises:
            UserError: If none is, with the key that was meant if one looks like it.
        """
        for key in keys:
            if key in self.plain:
                return self.plain[key]
        near = difflib.get_close_matches(keys[0], self.plain, n=1)
        cure = f"Did you mean it by {near[0]!r}?" if near else "Add it."
        raise self.error(f"key {' or '.join(map(repr, keys))} is missing. {cure}")

    @property
    def name(self) -> str:
        """The data set's name, else the folder's."""
        name = self.plain.get("name")
        return name if isinstance(name, str) and name else self.path.parent.resolve().name

    @property
    def synthetic(self) -> bool:
        """Whether this is a phantom: it says so, or its name does."""
        return self.plain.get("synthetic") is True or "PHANTOM" in self.name.upper()

    def channels(self) -> tuple[str, ...]:
        """Channel names in file order, from `channel_names` or MSD's `modality`.

        Raises:
            UserError: If they are not numbered 0, 1, ..., or two have one name.
        """
        declared = self.get("channel_names", "modality")
        key = "channel_names" if "channel_names" in self.plain else "modality"
        if isinstance(declared, list):
            declared = {str(index): name for index, name in enumerate(declared)}
        if not isinstance(declared, dict) or not declared:
            raise self.error(f'{key}: expected {{"0": name, "1": name, ...}}.')
        expected = [str(index) for index in range(len(declared))]
        if sorted(declared) != sorted(expected):
            raise self.error(
                f"{key}: expected the keys {', '.join(expected)}, got {', '.join(declared)}."
            )
        names = tuple(str(declared[index]) for index in expected)
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise self.error(f"{key}: {twice!r} names two channels. Give each its own name.")
        return names

    @property
    def ignored(self) -> tuple[int, ...]:
        """The values called `ignore`; none where the labels cannot be read."""
        try:
            declared = self._labels()
        except UserError:
            return ()
        named = [value for name, value in declared.items() if name.lower() == "ignore"]
        return tuple(v for value in named for v in (value if isinstance(value, list) else [value]))

    def scheme(
        self,
        labels: Labels | None,
        regions_class_order: Sequence[int] | None,
        ignore_values: Sequence[int],
    ) -> LabelScheme:
        """What the label values mean: as declared here, or as the caller overrides it.

        A value that is called `ignore` here stays one, unless the caller gives it a meaning.

        Args:
            labels: None for what this file declares; a preset's name; names and values.
            regions_class_order: The value painted for each region; None is this file's.
            ignore_values: Further values to ignore.

        Raises:
            IgnoredClassError: If `ignore_values` leave no class, or not the background.
            UserError: If the labels are not name-to-value or value-to-name, or contradict
                themselves.
        """
        if labels is not None:
            told = told_scheme(labels, regions_class_order, ignore_values)
            return told.ignoring(self.ignored)
        order = regions_class_order or self.plain.get("regions_class_order")
        if order is not None and not _integers(order):
            raise self.error(f"regions_class_order: expected a list of integers, got {order}.")
        declared = self._labels()
        try:
            return LabelScheme.from_mapping(declared, order, ignore_values)
        except IgnoredClassError:
            raise  # the caller's values, not the file's
        except UserError as error:
            raise self.error(str(error)) from error

    def inside(self, listed: Any) -> Path:
        """A path that the file lists, which must stay within the data set's folder.

        Raises:
            UserError: If it is not text, is absolute, or climbs out by `..`.
        """
        if not isinstance(listed, str) or not listed:
            raise self.error(f"expected a file's path, got {listed!r}.")
        here = (one for one in spellings(listed) if (self.path.parent / one).is_file())
        text = next(here, listed.replace("\\", "/"))
        relative = os.path.normpath(text)
        if Path(text).is_absolute() or relative.startswith(".."):
            raise self.error(
                f"{listed} lies outside the data set. List paths relative to {self.path.parent}."
            )
        return self.path.parent / relative

    def warn_count(self, num_cases: int, passed_over: str = "") -> None:
        """Warns where `numTraining` is not the number of cases: files may have been lost.

        Args:
            num_cases: How many there are.
            passed_over: A line about files that no case was made of: warned of in any event.
        """
        declared = self.plain.get("numTraining")
        lines = [passed_over] if passed_over else []
        if isinstance(declared, int) and declared != num_cases:
            cases = "is 1 case" if num_cases == 1 else f"are {num_cases} cases"
            lines.insert(0, f"numTraining is {declared}, but there {cases}.")
        if lines:
            warnings.warn(f"{self.path}: {' '.join(lines)}", SegfocalWarning, stacklevel=4)

    def _labels(self) -> dict[str, int | list[int]]:
        declared = self.get("labels")
        if not isinstance(declared, dict) or not declared:
            raise self.error("labels: expected an object of names and values.")
        if all(isinstance(value, str) for value in declared.values()):
            return self._values_to_names(declared)
        for name, value in declared.items():
            if not _integers([value] if not isinstance(value, list) else value):
                raise self.error(
                    f"labels: {name}: expected an integer or a list of integers, got {value!r}."
                )
        return declared

    def _values_to_names(self, declared: dict[str, str]) -> dict[str, int | list[int]]:
        """MSD's way round: `{"0": "background", "1": "tumour"}`."""
        named: dict[str, int | list[int]] = {}
        for value, name in declared.items():
            if name in named:
                raise self.error(f"labels: {name!r} names two values. Give each its own name.")
            try:
                named[name] = int(value)
            except ValueError as error:
                raise self.error(
                    f"labels: expected value to name (MSD) or name to value (nnU-Net), "
                    f"got {value!r}: {name!r}."
                ) from error
        return named


def told_scheme(
    labels: Labels, regions_class_order: Sequence[int] | None, ignore_values: Sequence[int]
) -> LabelScheme:
    """The scheme that `data.labels` tells: a preset's, or that of names and values.

    Raises:
        UserError: As `LabelScheme.preset` and `LabelScheme.from_mapping`, of `data.labels`.
    """
    try:
        if isinstance(labels, str):
            return LabelScheme.preset(labels, ignore_values)
        return LabelScheme.from_mapping(labels, regions_class_order, ignore_values)
    except IgnoredClassError:
        raise  # the fault of `ignore_values`
    except UserError as error:
        text = str(error)
        raise UserError(f"data.{text}" if text.startswith("labels: ") else text) from error


def listed_case(
    descriptor: Descriptor,
    case_id: str,
    channels: Sequence[str],
    images: Sequence[Path],
    label: Path,
) -> Case:
    """A case by the paths that dataset.json lists, less those where nothing is."""
    names = channels if len(images) > 1 else ("image",)
    files = dict(zip(names, images, strict=True))
    missing = missing_below(descriptor.path.parent, {**files, "label": label})
    return Case(
        case_id,
        tuple(path for path in images if is_there(path)),
        label if is_there(label) else None,
        missing=missing,
    )


def missing_listed(descriptor: Descriptor, cases: Sequence[Case]) -> str:
    """One line about listed files that are missing; "" where all are there."""
    missing = [file.expected for case in cases for file in case.missing]
    if not missing:
        return ""
    cure = "Copy them, or take them off the list."
    return str(descriptor.error(f"{missing_files(missing)} {cure}"))


def missing_files(missing: Sequence[str]) -> str:
    """`3 files are missing: imagesTr/a.nii.gz, ...`: at most twelve by name."""
    more = f" and {len(missing) - 12} more" if len(missing) > 12 else ""
    are = "files are" if len(missing) > 1 else "file is"
    return f"{len(missing)} {are} missing: {', '.join(missing[:12])}{more}."


def _integers(values: Any) -> bool:
    return (
        isinstance(values, list | tuple)
        and len(values) > 0
        and all(isinstance(value, int) and not isinstance(value, bool) for value in values)
    )
