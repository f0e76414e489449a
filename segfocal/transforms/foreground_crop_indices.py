"""Where a patch may be centred: foreground and background, never an ignored voxel."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
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
    filled,
    known_voxels,
)


class ForegroundCropIndicesd(MapTransform):
    """Writes the indices for `RandCropByPosNegLabeld(fg_indices_key=..., bg_indices_key=...)`.

    Deterministic, so a cache may hold the result. MONAI's own `FgBgToIndicesd` takes ignored
    voxels (255, -1) for foreground, and the crop warns or fails where either list is empty.

    Args:
        keys: Keys of labels `(1, *S)`, integers with `ignore_index` where ignored.
        foreground: Values that count as foreground; None is every value but 0.
        ignore_index: Value, or values, of a voxel that nobody annotated.
        fg_postfix: Appended to the key: `label_fg_indices` holds an array, int32 where
            that counts every voxel, else int64.
        bg_postfix: The same for background, which is whatever is neither foreground nor ignored.
        max_samples: Keep at most so many of each, always the same ones.
        absent: What an empty side gets: `anywhere`, every voxel that is not ignored, so that a
            crop always comes; `skip`, an empty array (MONAI then warns and takes the other side).
        allow_missing_keys: Pass over a missing key.

    Raises:
        ValueError: If `absent` is another word. On call, naming the file, if every voxel is
            ignored.

    Example:
        >>> label = np.array([[[0, 3, 255], [0, 1, 255]]])
        >>> found = ForegroundCropIndicesd("label")({"label": label})
        >>> found["label_fg_indices"].tolist(), found["label_bg_indices"].tolist()
        ([1, 4], [0, 3])
    """

    def __init__(
        self,
        keys: KeysCollection,
        foreground: Sequence[int] | None = None,
        *,
        ignore_index: IgnoreIndex = IGNORE_CLASS,
        fg_postfix: str = "_fg_indices",
        bg_postfix: str = "_bg_indices",
        max_samples: int = 100_000,
        absent: Absent = "anywhere",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        checks.check_word("absent", absent, ABSENT)
        self.foreground = None if foreground is None else tuple(foreground)
        self.ignored = checks.check_ignore_index(ignore_index)
        self.fg_postfix = fg_postfix
        self.bg_postfix = bg_postfix
        self.max_samples = max_samples
        self.absent: Absent = absent

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Writes two index arrays per key."""
        out = dict(data)
        for key in self.key_iterator(out):
            name = case_name(out, key)
            classes = as_classes(out[key], name)
            known = known_voxels(classes, self.ignored, name)
            inside = classes != 0 if self.foreground is None else np.isin(classes, self.foreground)
            lists = [np.flatnonzero(known & inside), np.flatnonzero(known & ~inside)]
            fg, bg = filled(lists, self.absent, self.max_samples, known)
            out[f"{key}{self.fg_postfix}"], out[f"{key}{self.bg_postfix}"] = fg, bg
        return out
