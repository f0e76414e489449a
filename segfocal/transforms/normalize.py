"""Intensities to a common scale, a rule for each channel."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config.type_definitions import KeysCollection
from monai.transforms.transform import MapTransform
from monai.utils.enums import TransformBackends
from monai.utils.type_conversion import convert_to_dst_type, convert_to_tensor

from segfocal.transforms.crop_centres import case_name

ChannelRule = str | Sequence[float]
"""`zscore`, `zscore_nonzero`, `none`, or a window of two numbers."""

Window = tuple[float, float]

_ROUNDING = 1e-13
"""Deviation relative to the mean that equal values have where float64 rounds their mean."""


class NormalizeChannelsd(MapTransform):
    """Scales each channel of `(C, *S)` by its own rule.

    `zscore` subtracts the mean and divides by the standard deviation; `zscore_nonzero` takes both
    over the voxels that are not exactly 0 and leaves those at 0 (skull-stripped MR); a window
    `(low, high)` clips to it and scales it to -1..1 (CT); `none` leaves the channel alone. A
    constant channel becomes 0.

    Args:
        keys: Keys of the images, tensors or arrays; integers become float32.
        rules: One rule per channel: a word, or two numbers in a tuple or list.
        allow_missing_keys: Pass over a missing key.

    Raises:
        ValueError: If a rule is unknown, or on call, naming the file, if the channel count
            differs.

    Example:
        >>> image = torch.tensor([[[1.0, 3.0]], [[-50.0, 500.0]]])
        >>> NormalizeChannelsd("image", ["zscore", (-100.0, 100.0)])({"image": image})["image"]
        tensor([[[-1.0000,  1.0000]],
        <BLANKLINE>
                [[-0.5000,  1.0000]]])
    """

    backend = (TransformBackends.TORCH,)

    def __init__(
        self, keys: KeysCollection, rules: Sequence[ChannelRule], allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.rules = tuple(_checked(rule) for rule in rules)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Scales every image."""
        out = dict(data)
        for key in self.key_iterator(out):
            source = out[key]
            image = convert_to_tensor(source, track_meta=False)
            if image.shape[0] != len(self.rules):
                raise ValueError(
                    f"{case_name(out, key)}: expected {len(self.rules)} channels (one per rule), "
                    f"got {image.shape[0]}."
                )
            scaled = image.clone() if image.is_floating_point() else image.float()
            for channel, rule in zip(scaled, self.rules, strict=True):
                _scale_in_place(channel, rule)
            out[key], *_ = convert_to_dst_type(scaled, source, dtype=scaled.dtype)
        return out


def _checked(rule: ChannelRule) -> str | Window:
    """The rule, a window as a tuple of floats.

    Raises:
        ValueError: If it is an unknown word, or no window.
    """
    if isinstance(rule, str):
        if rule not in ("zscore", "zscore_nonzero", "none"):
            raise ValueError(
                f"rules: expected zscore, zscore_nonzero, none or a window, got {rule!r}."
            )
        return rule
    window = np.ravel(rule).astype(float).tolist()
    if len(window) != 2 or not all(map(math.isfinite, window)) or not window[0] < window[1]:
        raise ValueError(f"rules: expected a window (low, high) with low < high, got {rule}.")
    return window[0], window[1]


def _scale_in_place(channel: torch.Tensor, rule: str | Window) -> None:
    if rule == "none":
        return
    if isinstance(rule, tuple):
        low, high = rule
        channel.clamp_(low, high).sub_((low + high) / 2).div_((high - low) / 2)
        return
    outside = channel == 0 if rule == "zscore_nonzero" else None
    count, mean, std = _moments(channel, without_zeros=outside is not None)
    if count == 0:
        return
    if std <= _ROUNDING * abs(mean):
        channel.zero_()
        return
    channel.sub_(mean).div_(std)
    if outside is not None:
        channel.masked_fill_(outside, 0)


def _moments(channel: torch.Tensor, *, without_zeros: bool) -> tuple[int, float, float]:
    """Number, mean and standard deviation of the values, or of those that are not 0.

    In float64, as the mean of ten million float32 intensities is otherwise off in the third digit;
    slice by slice, as a float64 copy and the indices of a mask take eight times the channel.
    """

    def values(part: torch.Tensor) -> torch.Tensor:
        return (part[part != 0] if without_zeros else part).double()

    count = sum(values(part).numel() for part in channel)
    if count == 0:
        return 0, 0.0, 0.0
    mean = sum(values(part).sum().item() for part in channel) / count
    squares = sum((values(part) - mean).square().sum().item() for part in channel)
    return count, mean, math.sqrt(squares / count)
