"""Where a patch may be centred: voxels of each class, never an ignored one."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config.type_definitions import KeysCollection
from monai.transforms.transform import MapTransform

from segfocal import checks
from segfocal.checks import IgnoreIndex
from segfocal.labels import IGNORE_CLASS
from segfocal.transforms.crop_centres import (
    ABSENT,
    Absent,
    as_classes,
    case_name,
    class_indices,
    filled,
    known_voxels,
)


class ClassCropIndicesd(MapTransform):
    """Writes the flat voxel indices of every class, for `RandCropByLabelClassesd(indices_key=...)`.

    Deterministic, so a cache may hold the result. MONAI's own `ClassesToIndicesd` takes ignored
    voxels for a class of their own or clips them into one, and a case without any of the classes
    asked for ends in NaN probabilities.

    Args:
        keys: Keys of labels `(1, *S)`, class indices with `ignore_index` where ignored.
        num_classes: C, background included.
        ignore_index: Value, or values, of a voxel that nobody annotated.
        indices_postfix: Appended to the key: `label_cls_indices` holds a list of C arrays, int32
            where that counts every voxel, else int64.
        max_samples_per_class: Keep at most so many, drawn without replacement by a generator
            seeded from the count: memory stays bounded on large volumes.
        absent: What a class without a voxel gets. `anywhere`: every voxel that is not ignored, so
            that a crop comes whatever the ratios are; `skip`: an empty list, and MONAI gives its
            ratio to the others (NaN where none is left).
        allow_missing_keys: Pass over a missing key.

    Raises:
        ValueError: If `absent` is another word. On call, naming the file: if every voxel is ignored
            or a value is no class.

    Example:
        >>> import numpy as np
        >>> label = np.array([[[0, 0, 1], [255, 255, 2]]], dtype=np.uint8)
        >>> found = ClassCropIndicesd("label", 3)({"label": label})
        >>> [indices.tolist() for indices in found["label_cls_indices"]]
        [[0, 1], [2], [5]]
    """

    def __init__(
        self,
        keys: KeysCollection,
        num_classes: int,
        *,
        ignore_index: IgnoreIndex = IGNORE_CLASS,
        indices_postfix: str = "_cls_indices",
        max_samples_per_class: int = 50_000,
        absent: Absent = "anywhere",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        checks.check_word("absent", absent, ABSENT)
        self.num_classes = num_classes
        self.ignored = checks.check_ignore_index(ignore_index)
        self.indices_postfix = indices_postfix
        self.max_samples_per_class = max_samples_per_class
        self.absent: Absent = absent

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Writes one list of index arrays per key."""
        out = dict(data)
        for key in self.key_iterator(out):
            name = case_name(out, key)
            classes = as_classes(out[key], name)
            known = known_voxels(classes, self.ignored, name)
            lists = class_indices(classes, known, self.num_classes, name)
            most = self.max_samples_per_class
            out[f"{key}{self.indices_postfix}"] = filled(lists, self.absent, most, known)
        return out
