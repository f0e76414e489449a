"""One label map to overlapping region channels and a mask of where they are known."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config.type_definitions import KeysCollection
from monai.transforms.transform import MapTransform
from monai.utils.enums import TransformBackends
from monai.utils.type_conversion import convert_to_dst_type, convert_to_tensor

from segfocal.labels import IGNORE_CLASS, LabelScheme
from segfocal.transforms.crop_centres import case_name
from segfocal.transforms.label_values import is_one_of


class LabelsToRegionsd(MapTransform):
    """Labels `(1, *S)` to region channels `(R, *S)`, and `label_valid` `(1, *S)`.

    `regions=((1, 2, 3), (2, 3), (3,))` is WT, TC, ET of MSD Task01, in that order.
    `ConvertToMultiChannelBasedOnBratsClassesd` gives TC, WT, ET for BraTS values alone, and its
    ignored voxels become background. Here they are 0 in every channel and False in the mask, which
    goes to the loss: `loss(logits, d["label"], mask=d["label_valid"])`.

    segfocal's losses take labels as they are (`regions=`, `ignore_index=`), at a fraction of the
    memory; this transform is for losses and metrics that want channels.

    Args:
        keys: Keys of integer labels (floats that are whole will do); tensors or arrays.
        regions: For each channel the label values it is made of.
        background: Values that may stand outside every region. A value that neither these, a region
            nor `ignore_values` hold is an error, not background.
        ignore_values: Values of voxels that nobody annotated.
        valid_postfix: Appended to the key: `label_valid` holds True where the label is known.
        dtype: Of the channels.
        allow_missing_keys: Pass over a missing key.

    Raises:
        ValueError: If a region is empty, or on call, naming the file, if a label has more than one
            channel or holds a value that is not declared.

    Example:
        >>> label = torch.tensor([[0, 1, 2, 3, 255]])
        >>> found = LabelsToRegionsd("label", ((1, 2, 3), (3,)))({"label": label})
        >>> found["label"].tolist()
        [[0.0, 1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0, 0.0]]
        >>> found["label_valid"].tolist()
        [[True, True, True, True, False]]
    """

    backend = (TransformBackends.TORCH,)

    def __init__(
        self,
        keys: KeysCollection,
        regions: Sequence[Sequence[int]],
        *,
        background: Sequence[int] = (0,),
        ignore_values: Sequence[int] = (IGNORE_CLASS,),
        valid_postfix: str = "_valid",
        dtype: torch.dtype = torch.float32,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.regions = tuple(tuple(region) for region in regions)
        if not self.regions or not all(self.regions):
            raise ValueError(
                f"regions: expected the label values of each region, got {list(regions)}."
            )
        self.background = tuple(background)
        self.ignore_values = tuple(ignore_values)
        self.valid_postfix = valid_postfix
        self.dtype = dtype

    @classmethod
    def from_scheme(
        cls,
        keys: KeysCollection,
        scheme: LabelScheme,
        *,
        encoded: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> LabelsToRegionsd:
        """The regions of a scheme, or its classes without background where it has none.

        Args:
            keys: Keys of the labels.
            scheme: Names, values and regions.
            encoded: The labels hold class indices (segfocal's pipelines), not file values.
            dtype: Of the channels.
        """
        if encoded:
            return cls(
                keys,
                scheme.target_classes,
                background=range(scheme.num_classes),
                ignore_values=(IGNORE_CLASS,),
                dtype=dtype,
            )
        return cls(
            keys,
            [[scheme.values[c] for c in classes] for classes in scheme.target_classes],
            background=scheme.values,
            ignore_values=scheme.ignore_values,
            dtype=dtype,
        )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replaces every label by its channels and writes the mask."""
        out = dict(data)
        for key in self.key_iterator(out):
            source = out[key]
            label = convert_to_tensor(source, track_meta=False)
            if label.shape[0] != 1:
                raise ValueError(
                    f"{case_name(out, key)}: expected a label with one channel, got shape "
                    f"{tuple(label.shape)}."
                )
            self._check(label, case_name(out, key))
            valid = ~is_one_of(label, self.ignore_values)
            channels = [is_one_of(label, values) & valid for values in self.regions]
            regions = torch.cat(channels).to(self.dtype)
            out[key], *_ = convert_to_dst_type(regions, source, dtype=regions.dtype)
            out[f"{key}{self.valid_postfix}"], *_ = convert_to_dst_type(
                valid, source, dtype=valid.dtype
            )
        return out

    def _check(self, label: torch.Tensor, name: str) -> None:
        declared = {*self.background, *self.ignore_values}.union(*self.regions)
        found = torch.unique(label).tolist()
        unknown = [value for value in found if value not in declared]
        if unknown:
            raise ValueError(
                f"{name}: holds {unknown[0]:g}; declared are {sorted(declared)}. Add it to a "
                f"region, to background or to ignore_values."
            )
