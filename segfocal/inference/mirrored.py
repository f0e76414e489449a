"""Test-time flips: windows and their mirror images, averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, combinations
from typing import Any

from torch import Tensor

Axes = tuple[int, ...]


def all_flips(axes: Sequence[int]) -> list[Axes]:
    """Every combination of the axes to flip along, none first.

    Args:
        axes: Spatial axes, counted from 0.

    Raises:
        ValueError: If one is negative, no integer, or there twice.

    Example:
        >>> all_flips([0, 2])
        [(), (0,), (2,), (0, 2)]
    """
    whole = all(isinstance(axis, int) and axis >= 0 for axis in axes)
    if not whole or len(set(axes)) < len(axes):
        raise ValueError(
            f"flip_axes must be spatial axes counted from 0, each once: got {tuple(axes)}. The "
            f"channels are none of them."
        )
    combined = (combinations(axes, count) for count in range(len(axes) + 1))
    return list(chain.from_iterable(combined))


def mean_logits(network: Callable[[Tensor], Any], windows: Tensor, flips: Sequence[Axes]) -> Tensor:
    """Logits of windows, averaged over their mirror images as nnU-Net does.

    Args:
        network: Maps `(N, C, *S)` to logits `(N, K, *S)`.
        windows: `(N, C, *S)`.
        flips: Spatial axes of each flip, from `all_flips`.

    Returns:
        float32 `(N, K, *S)`.

    Raises:
        ValueError: If the network returns anything but one tensor, or a flip names an axis that
            windows do not have.
    """
    num_axes = windows.ndim - 2
    beyond = [axis for flip in flips for axis in flip if axis >= num_axes]
    if beyond:
        raise ValueError(
            f"flip_axes names axis {beyond[0]}, but the image has {num_axes} spatial axes, counted "
            f"from 0. Leave it out."
        )
    total: Tensor | None = None
    for flip in flips:
        axes = [axis + 2 for axis in flip]
        logits = _flipped(_one_tensor(network(_flipped(windows, axes))), axes).float()
        total = logits if total is None else total + logits
    assert total is not None
    return total if len(flips) == 1 else total.div(len(flips))


def _one_tensor(logits: Any) -> Tensor:
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"network must return one tensor of logits: got a {type(logits).__name__}. Return the "
            f"output at full size alone."
        )
    return logits


def _flipped(windows: Tensor, axes: list[int]) -> Tensor:
    """Mirrored along some axes; itself where there are none, which torch would copy."""
    return windows.flip(axes) if axes else windows
