"""Comparing label tensors with values that their type may not hold."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


def is_one_of(label: torch.Tensor, values: Sequence[float]) -> torch.Tensor:
    """Where a label holds one of the values; NaN counts as equal to NaN.

    torch compares in the label's own type, so that `uint8_label == -1` is True where it holds 255.

    Args:
        label: Of any shape, integers or floats.
        values: Numbers of any size.

    Returns:
        bool, of the same shape.

    Example:
        >>> is_one_of(torch.tensor([0, 255], dtype=torch.uint8), (-1,)).tolist()
        [False, False]
    """
    inside = torch.zeros_like(label, dtype=torch.bool)
    for value in values:
        if label.dtype.is_floating_point:
            inside |= label.isnan() if math.isnan(value) else label == value
        elif _holds(label.dtype, value):
            inside |= label == int(value)
    return inside


def limits(dtype: torch.dtype) -> tuple[int, int]:
    """Least and largest value of an integer type or bool."""
    if dtype == torch.bool:
        return 0, 1
    info = torch.iinfo(dtype)
    return int(info.min), int(info.max)


def _holds(dtype: torch.dtype, value: float) -> bool:
    low, high = limits(dtype)
    return math.isfinite(value) and low <= value <= high and value == int(value)
