"""Several values that mean "not annotated" to one."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config.type_definitions import KeysCollection
from monai.transforms.transform import MapTransform
from monai.utils.enums import TransformBackends
from monai.utils.type_conversion import convert_to_dst_type, convert_to_tensor

from segfocal.labels import IGNORE_CLASS
from segfocal.transforms.crop_centres import case_name
from segfocal.transforms.label_values import is_one_of, limits


class MapIgnoredd(MapTransform):
    """Gives every ignored voxel the one value that losses and crops look for.

    Every other voxel, the type and a MetaTensor's metadata stay as they are.

    Args:
        keys: Keys of labels of any shape; tensors or arrays, integers or floats.
        ignore_values: Values that mean "not annotated"; `float("nan")` may be one.
        ignore_index: What they become; it need not be among them.
        allow_missing_keys: Pass over a missing key.

    Raises:
        ValueError: If no value is given, or on call, naming the file: if the label's type cannot
            hold `ignore_index`, or `ignore_index` occurs in the label without being among
            `ignore_values` (a class would be lost).

    Example:
        >>> label = torch.tensor([[0, 1, -1, 9, 2]])
        >>> MapIgnoredd("label", (-1, 9), ignore_index=255)({"label": label})["label"]
        tensor([[  0,   1, 255, 255,   2]])
    """

    backend = (TransformBackends.TORCH,)

    def __init__(
        self,
        keys: KeysCollection,
        ignore_values: Sequence[float],
        *,
        ignore_index: int = IGNORE_CLASS,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.ignore_values = tuple(ignore_values)
        self.ignore_index = ignore_index
        if not self.ignore_values:
            raise ValueError("ignore_values: expected at least one value that means ignored.")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Maps every label."""
        out = dict(data)
        for key in self.key_iterator(out):
            source = out[key]
            label = convert_to_tensor(source, track_meta=False)
            self._check(label, case_name(out, key))
            mapped = label.masked_fill(is_one_of(label, self.ignore_values), self.ignore_index)
            out[key], *_ = convert_to_dst_type(mapped, source, dtype=mapped.dtype)
        return out

    def _check(self, label: torch.Tensor, name: str) -> None:
        if not label.dtype.is_floating_point:
            low, high = limits(label.dtype)
            if not low <= self.ignore_index <= high:
                raise ValueError(
                    f"{name}: {label.dtype} cannot hold ignore_index {self.ignore_index}. Cast the "
                    f"label first, or take one from {low} to {high}."
                )
        if self.ignore_index not in self.ignore_values and bool((label == self.ignore_index).any()):
            raise ValueError(
                f"{name}: holds {self.ignore_index}, which is ignore_index but not one of "
                f"ignore_values {list(self.ignore_values)}. Add it there if it means ignored, or "
                f"choose another ignore_index."
            )
