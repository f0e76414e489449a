"""Where a patch may be centred so that every lesion is seen as often, however small."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from monai.config.type_definitions import KeysCollection
from monai.transforms.transform import MapTransform

from segfocal import checks
from segfocal.checks import IgnoreIndex
from segfocal.labels import IGNORE_CLASS
from segfocal.transforms.crop_centres import (
    ABSENT,
    Absent,
    Indices,
    as_classes,
    case_name,
    class_indices,
    components,
    equally_by_group,
    filled,
    groups_of,
    known_voxels,
)


class LesionCropIndicesd(MapTransform):
    """Writes crop indices in which every lesion has the same number of entries.

    Drawn by voxel, a satellite of 10 voxels beside a mass of 10,000 is the centre of one crop in
    a thousand; drawn from these lists it is the centre of every second. They plug into
    `RandCropByLabelClassesd(indices_key="label_cls_indices")` and into
    `RandCropByPosNegLabeld(fg_indices_key="label_fg_indices", bg_indices_key="label_bg_indices")`.
    Background stays by voxel. A lesion is a part that hangs together, corners included. A case is
    labelled once: deterministic, so a cache may hold the result.

    Args:
        keys: Keys of labels `(1, *S)`, class indices with `ignore_index` where ignored.
        num_classes: C, background included.
        connect: `class`: voxels of one class make a lesion (tumours within an organ); `foreground`:
            every class but background does, as where classes nest (core within oedema), and a
            class is then drawn by the lesions that hold some of it.
        ignore_index: Value, or values, of a voxel that nobody annotated.
        indices_postfix: Appended to the key: a list of C arrays, int32 where that counts
            every voxel, else int64.
        fg_postfix: Appended to the key: entries of every foreground lesion, one array.
        bg_postfix: Appended to the key: background, one array.
        max_samples_per_class: Length of a list at most, shared out among its lesions.
        absent: What an empty list gets, as in `ClassCropIndicesd`.
        allow_missing_keys: Pass over a missing key.

    Raises:
        ValueError: If `connect` or `absent` is another word. On call, naming the file: if every
            voxel is ignored or a value is no class.

    Example:
        >>> label = np.array([[[1, 1, 1, 0, 0, 1]]], dtype=np.uint8)
        >>> found = LesionCropIndicesd("label", 2)({"label": label})
        >>> found["label_cls_indices"][1].tolist()
        [0, 1, 2, 5, 5, 5]
    """

    def __init__(
        self,
        keys: KeysCollection,
        num_classes: int,
        *,
        connect: Literal["class", "foreground"] = "class",
        ignore_index: IgnoreIndex = IGNORE_CLASS,
        indices_postfix: str = "_cls_indices",
        fg_postfix: str = "_fg_indices",
        bg_postfix: str = "_bg_indices",
        max_samples_per_class: int = 50_000,
        absent: Absent = "anywhere",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        checks.check_word("connect", connect, ("class", "foreground"))
        checks.check_word("absent", absent, ABSENT)
        self.num_classes = num_classes
        self.connect = connect
        self.ignored = checks.check_ignore_index(ignore_index)
        self.indices_postfix = indices_postfix
        self.fg_postfix = fg_postfix
        self.bg_postfix = bg_postfix
        self.max_samples_per_class = max_samples_per_class
        self.absent: Absent = absent

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Writes the lists of every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            name = case_name(out, key)
            classes = as_classes(out[key], name)
            known = known_voxels(classes, self.ignored, name)
            lists = class_indices(classes, known, self.num_classes, name)
            most = self.max_samples_per_class
            lesions, by_class = self._lesions(classes, known, lists)
            drawn = [lists[0], *(equally_by_group(groups, most) for groups in by_class)]
            found = [equally_by_group(lesions, most), *drawn]
            every = filled(found, self.absent, most, known)
            out[f"{key}{self.fg_postfix}"] = every[0]
            out[f"{key}{self.bg_postfix}"] = every[1]
            out[f"{key}{self.indices_postfix}"] = every[1:]
        return out

    def _lesions(
        self, classes: npt.NDArray[Any], known: npt.NDArray[np.bool_], lists: list[Indices]
    ) -> tuple[list[Indices], list[list[Indices]]]:
        """The voxels of every lesion, and for each foreground class those of its lesions."""
        if self.connect == "class":
            by_class = [
                groups_of(*components(known & (classes == c))) for c in range(1, self.num_classes)
            ]
            return [lesion for groups in by_class for lesion in groups], by_class
        inside, numbers = components(known & (classes != 0))
        by_class = [
            groups_of(indices, numbers[np.searchsorted(inside, indices)]) for indices in lists[1:]
        ]
        return groups_of(inside, numbers), by_class
