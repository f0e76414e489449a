"""What a target says of each voxel, and which voxels count: one reading for every backend.

Shapes: B batch, C channels, S flattened voxels; BS is one number a voxel, BCS one per channel too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class FlatTarget(NamedTuple):
    """A target with its validity, spatial axes flattened.

    Attributes:
        values: Integer labels `(B, S)`, or one number per channel `(B, C, S)`: bool, integers 0
            and 1, or floating point between them.
        mask: True where a voxel counts, `(B, 1, S)` or `(B, C, S)`; None where all do.
        channel_classes: For labels, the class indices that make up each channel.
        ignored: Labels that say nothing about their voxel.
    """

    values: Tensor
    mask: Tensor | None
    channel_classes: tuple[tuple[int, ...], ...]
    ignored: tuple[int, ...]

    @property
    def is_labels(self) -> bool:
        """Whether `values` holds labels rather than one number per channel."""
        return self.values.ndim == 2

    @property
    def has_regions(self) -> bool:
        """Whether the channels are regions, rather than each the label of its own number."""
        return self.channel_classes != plain_classes(len(self.channel_classes))

    @property
    def is_hard(self) -> bool:
        """Whether each voxel is wholly in a channel or wholly out of it."""
        return not self.values.is_floating_point()


class Validity(NamedTuple):
    """Which voxels enter the sums. None stands for all of them.

    Attributes:
        voxel: True where the voxel counts at all, `(B, S)`.
        mask: True where it counts for a channel, on top of that, `(B, C, S)`.
    """

    voxel: Tensor | None
    mask: Tensor | None

    @property
    def each(self) -> Tensor | None:
        """Validity `(B, 1, S)`, or `(B, C, S)` where the channels differ."""
        return both(None if self.voxel is None else self.voxel.unsqueeze(1), self.mask)

    def of_channel(self, channel: int) -> Tensor | None:
        """Validity `(B, S)` for one channel."""
        if self.mask is None:
            return self.voxel
        return both(self.voxel, self.mask[:, channel])


def plain_classes(num_channels: int) -> tuple[tuple[int, ...], ...]:
    """The classes of each channel where they are no regions: its own number; 1 of a single one."""
    return ((1,),) if num_channels == 1 else tuple((channel,) for channel in range(num_channels))


def both(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Elementwise and, where None stands for all True."""
    if first is None or second is None:
        return second if first is None else first
    return first & second


def membership(target: FlatTarget, channel: int) -> Tensor:
    """How much each voxel belongs to a channel `(B, S)`: bool for hard targets, else 0 to 1."""
    if target.is_labels:
        return is_any_of(target.values, target.channel_classes[channel])
    values = target.values[:, channel]
    return values if values.dtype == torch.bool or not target.is_hard else values != 0


def is_any_of(labels: Tensor, wanted: Sequence[int]) -> Tensor:
    """True where a label is one of `wanted`.

    A value that the labels' dtype cannot hold matches nothing. Compared naively it would wrap:
    in uint8, 255 equals -1.
    """
    limits = torch.iinfo(labels.dtype)
    within = [value for value in wanted if limits.min <= value <= limits.max]
    if not within:
        return torch.zeros_like(labels, dtype=torch.bool)
    found = labels == within[0]
    for value in within[1:]:
        found |= labels == value
    return found


def validity(target: FlatTarget, *, exclusive: bool) -> Validity:
    """Which voxels count: not ignored, let in by the mask, and of a class that is let in.

    Args:
        target: The target and its mask.
        exclusive: Whether the channels exclude each other (softmax). Then a voxel whose own class
            is masked out says nothing about the other classes either, and is left out of all.
    """
    voxel = None
    if target.is_labels and target.ignored:
        voxel = ~is_any_of(target.values, target.ignored)
    if target.mask is None:
        return Validity(voxel, None)
    if target.mask.shape[1] == 1:
        return Validity(both(voxel, target.mask[:, 0]), None)
    if exclusive:
        voxel = both(voxel, target.mask.any(1))
        for channel in range(target.mask.shape[1]):
            belongs = membership(target, channel) != 0
            voxel = both(voxel, ~belongs | target.mask[:, channel])
    return Validity(voxel, target.mask)
