"""Where a patch may be centred: voxels of each class, never an ignored one."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config.type_definitions import KeysCollection
from monai.transforms.transform import MapTransform

from segfocal.labels import IGNORE_CLASS


class ClassCropIndicesd(MapTransform):
    """Writes the flat voxel indices of every class, for `RandCropByLabelClassesd(indices_key=...)`.

    Deterministic, so a cache may hold the result. MONAI's own `ClassesToIndicesd` takes ignored
    voxels for a class of their own or clips them into one.

    Args:
        keys: Keys of labels `(1, *S)`, class indices with `IGNORE_CLASS` where ignored.
        num_classes: C, background included.
        indices_postfix: Appended to the key: `label_cls_indices` holds a list of C int64 arrays.
        max_samples_per_class: Keep at most so many, drawn without replacement by a generator
            seeded from the count: memory stays bounded on large volumes.
        allow_missing_keys: Pass over a missing key.
    """

    def __init__(
        self,
        keys: KeysCollection,
        num_classes: int,
        *,
        indices_postfix: str = "_cls_indices",
        max_samples_per_class: int = 50_000,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.num_classes = num_classes
        self.indices_postfix = indices_postfix
        self.max_samples_per_class = max_samples_per_class

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Writes one list of index arrays per key."""
        out = dict(data)
        for key in self.key_iterator(out):
            flat = torch.as_tensor(out[key]).numpy().ravel()
            assert flat.size == 0 or flat[flat != IGNORE_CLASS].max(initial=0) < self.num_classes
            out[f"{key}{self.indices_postfix}"] = [
                self._sample(np.flatnonzero(flat == c)) for c in range(self.num_classes)
            ]
        return out

    def _sample(self, indices: np.ndarray[Any, np.dtype[np.int64]]) -> Any:
        if indices.size <= self.max_samples_per_class:
            return indices
        generator = np.random.default_rng(indices.size)
        return np.sort(generator.choice(indices, self.max_samples_per_class, replace=False))
