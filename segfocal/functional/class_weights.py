"""Alpha and class weights, spelled out for every channel's positives and negatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from segfocal.checks import Activation, ClassNumbers
from segfocal.ops.elementwise import numbers_on


class FocalWeights(NamedTuple):
    """What a channel's focal sums are multiplied with, `(C,)` each.

    Attributes:
        positive: For `focal_pos`.
        negative: For `focal_neg`.
    """

    positive: Tensor
    negative: Tensor


def focal_weights(
    num_channels: int,
    like: Tensor,
    *,
    activation: Activation,
    alpha: ClassNumbers | None,
    weight: ClassNumbers | None,
) -> FocalWeights:
    """Alpha times class weight for each channel.

    Args:
        num_channels: C.
        like: A tensor whose dtype and device the weights take.
        activation: Under "sigmoid" alpha weighs positives and 1 - alpha negatives, in each channel.
            Under "softmax" a single alpha weighs class 0 by 1 - alpha and all others by alpha, and
            a sequence has a weight for each class.
        alpha: One number, `(C,)`, or `(C - 1,)` where the background does not count; None for 1.
        weight: The same, any number >= 0.
    """
    ones = like.new_ones(num_channels)
    if alpha is None:
        positive = negative = ones
    elif activation == "sigmoid":
        positive = per_channel(alpha, num_channels, like)
        negative = 1 - positive
    elif is_single(alpha):
        foreground = per_channel(alpha, num_channels, like)
        positive = torch.cat([1 - foreground[:1], foreground[1:]])
        negative = ones
    else:
        positive, negative = per_channel(alpha, num_channels, like), ones
    if weight is not None:
        factor = per_channel(weight, num_channels, like)
        positive, negative = positive * factor, negative * factor
    return FocalWeights(positive, negative)


def per_channel(numbers: ClassNumbers, num_channels: int, like: Tensor) -> Tensor:
    """One number per channel `(C,)`; a background that is left out gets 0."""
    if isinstance(numbers, Tensor):
        values = numbers.to(like)
    elif isinstance(numbers, Sequence):
        values = numbers_on(like.device, like.dtype, numbers)
    else:
        return like.new_full((num_channels,), float(numbers))
    if values.ndim == 0:
        return values.expand(num_channels)
    missing = num_channels - values.shape[0]
    return torch.cat([values.new_zeros(missing), values]) if missing else values


def is_single(numbers: ClassNumbers | None) -> bool:
    """Whether one number stands for all channels."""
    if isinstance(numbers, Tensor):
        return numbers.ndim == 0
    return numbers is not None and not isinstance(numbers, Sequence)


def background_alpha(alpha: float, num_classes: int) -> tuple[float, ...]:
    """Softmax weights `(alpha, 1 - alpha, 1 - alpha, ...)`: alpha is the background's.

    A single alpha given to a loss means the opposite: the background weighs 1 - alpha and every
    other class alpha, as with MONAI. Published code for detection often reads it this way.

    Args:
        alpha: In [0, 1].
        num_classes: C, two or more.

    Raises:
        ValueError: If either is out of range.

    Example:
        >>> background_alpha(0.25, 3)
        (0.25, 0.75, 0.75)
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1]: got {alpha:g}.")
    if num_classes < 2:
        raise ValueError(f"num_classes must be 2 or more: got {num_classes}.")
    return (alpha, *[1 - alpha] * (num_classes - 1))
