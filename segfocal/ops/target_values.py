"""Check of the values inside a target, before anything is computed from them.

On the CPU it always runs. On another device it would wait for the device, so there it runs only
when asked for.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from segfocal.ops.cpu_threads import share_out
from segfocal.ops.flat_target import FlatTarget, is_any_of, validity

_PIECE = 2**16
"""Labels that are looked at in one go."""

SUM_TOLERANCE = 1e-2
"""How far the channels of a softmax target may sum from 1: bfloat16 targets round by 0.4 %."""


def check_values(target: FlatTarget, activation: str) -> None:
    """Refuse labels out of range, and per-channel values outside [0, 1].

    Ignored and masked voxels may hold anything.

    Raises:
        ValueError: Naming the values, and how many voxels hold them.
    """
    if target.is_labels:
        _check_labels(target, activation)
    else:
        _check_channels(target, activation)


def _check_labels(target: FlatTarget, activation: str) -> None:
    labels = target.values
    if labels.numel() == 0:
        return
    highest = max(max(classes) for classes in target.channel_classes)
    if _all_within(labels, highest):
        return
    wrong = (labels < 0) | (labels > min(highest, torch.iinfo(labels.dtype).max))
    if target.ignored:
        wrong &= ~is_any_of(labels, target.ignored)
    valid = validity(target._replace(ignored=()), exclusive=activation == "softmax")
    if valid.voxel is not None:
        wrong &= valid.voxel
    if valid.mask is not None:
        wrong &= valid.mask.any(1)
    if bool(wrong.any()):
        kind, cure = "are neither classes nor ignored", "Correct the labels"
        if target.has_regions:
            kind, cure = "lie beyond those of the regions", "Set a class of no region to 0"
        elif len(target.channel_classes) == 1:
            cure = "Set the labels to 1 in the channel and 0 outside"
        raise ValueError(
            f"target holds labels that {kind}: expected 0 to {highest}, "
            f"got {count_values(labels[wrong])}. {cure}, or name the value in ignore_index."
        )


def _all_within(labels: Tensor, highest: int) -> bool:
    """Whether every label lies in [0, highest]."""
    if labels.device.type != "cpu" or not labels.is_contiguous():
        smallest, largest = (int(end) for end in torch.aminmax(labels))
        return smallest >= 0 and largest <= highest
    # Read without its sign a negative number is a large one: one pass, which numpy vectorises.
    values = labels.numpy().reshape(-1)
    unsigned = values.view(f"u{values.itemsize}")
    largest_of = []

    def look(first: int, last: int) -> None:
        largest_of.append(int(unsigned[first * _PIECE : last * _PIECE].max()))

    share_out(look, -(-unsigned.size // _PIECE))
    return max(largest_of) <= highest


def _check_channels(target: FlatTarget, activation: str) -> None:
    values = target.values
    if values.dtype == torch.bool and activation == "sigmoid":
        return
    valid = validity(target, exclusive=activation == "softmax")
    for channel in range(values.shape[1]):
        inside = _selected(values[:, channel], valid.of_channel(channel))
        wrong = inside[~((inside >= 0) & (inside <= 1))]
        if wrong.numel():
            raise ValueError(
                f"a target with one value per channel must lie in [0, 1]: channel {channel} holds "
                f"{count_values(wrong)}. Pass integer labels, or probabilities."
            )
    if activation == "softmax":
        sums = _selected(values.sum(1, dtype=torch.float32), valid.voxel)
        wrong = sums[(sums - 1).abs() > SUM_TOLERANCE]
        if wrong.numel():
            raise ValueError(
                f"under softmax every voxel belongs to one class, so a target's channels must sum "
                f"to 1: got a sum of {count_values(wrong)}. Pass mask= for voxels without a class, "
                f"or use sigmoid for classes that overlap."
            )


def _selected(values: Tensor, where: Tensor | None) -> Tensor:
    return values.flatten() if where is None else values[where]


def count_values(values: Tensor) -> str:
    """`7 (12 voxels), 9 (1 voxel)`, the first five values; NaN counts as one."""
    is_nan = values != values
    found, counts = torch.unique(values[~is_nan], return_counts=True)
    pairs = list(zip(found[:5].tolist(), counts[:5].tolist(), strict=True))
    if num_nan := int(is_nan.sum()):
        pairs.append((math.nan, num_nan))
    shown = [f"{value:g} ({count} voxel{'s' if count > 1 else ''})" for value, count in pairs]
    more = [f"{found.numel() - 5} more"] if found.numel() > 5 else []
    return ", ".join(shown + more)
