"""Targets on a coarser grid, for deep supervision: what is small stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from segfocal import checks
from segfocal.checks import IgnoreIndex, Regions
from segfocal.ops.flat_target import is_any_of

_MAX_POOL = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}

_WIDE = (torch.uint16, torch.uint32, torch.uint64)
"""torch cannot gather these."""

_ABOVE_ANY_COUNT = 2**40


class CoarseTarget(NamedTuple):
    """A target on a coarser grid.

    Attributes:
        target: In the form and dtype of the fine one.
        mask: Bool, True where a voxel counts; None where no mask was given.
    """

    target: Tensor
    mask: Tensor | None


def downsample_target(
    target: Tensor,
    sizes: Sequence[Sequence[int]],
    *,
    num_channels: int,
    exclusive: bool = True,
    ignore_index: IgnoreIndex = None,
    regions: Regions = None,
    mask: Tensor | None = None,
) -> list[CoarseTarget]:
    """A target at several smaller sizes, in which a lesion of one voxel is still there.

    A coarse voxel stands for a cell of fine ones: along an axis of n voxels, coarse voxel i of m
    covers `floor(i n / m)` to `ceil((i + 1) n / m)`, so that no voxel is skipped at any ratio.

    - Labels: the cell takes one of the labels in it, by priority: any class before the background,
      and among several the one with the fewest valid voxels in its sample (then the higher label).
      So the smallest structure survives even where it lies inside another. With regions, a label
      that lies in more of them comes first: where regions nest, each channel's coarse target is
      the union of its fine one. Where they do not, a cell that touches two of them keeps one.
    - One value per channel, `exclusive`: the cell takes all channels of one voxel, chosen as for
      labels by the voxel's largest channel, then by its share of foreground.
    - One value per channel, not `exclusive`: the largest value of the cell, in each channel.

    What is ignored or masked has no say: a cell is decided by its valid voxels alone, and is
    ignored (masked) where it has none. Were a single ignored voxel enough, sparse annotations would
    keep their foreground at the coarse levels but lose their background.

    Args:
        target: Integer labels `(B, *S)` or `(B, 1, *S)`, or `(B, C, *S)`; one to three spatial
            axes. With more than one channel a target `(B, 1, *S)` holds labels, whatever its dtype.
        sizes: Spatial size of each level, at most S along each axis.
        num_channels: C, the channels of the network.
        exclusive: Whether the channels of a target `(B, C, *S)` exclude each other, as under
            softmax. With labels it does not matter.
        ignore_index: Label or labels whose voxels do not count. Labels only.
        regions: Class indices that make up each channel. Labels only.
        mask: Bool, True where a voxel counts, `(B, 1, *S)` or `(B, C, *S)`. Beside labels a mask of
            C channels lets a voxel decide where any channel counts.

    Returns:
        A target and a mask for each size, of the fine target's shape but for the spatial axes.

    Raises:
        ValueError: If the target fits neither the channels nor the sizes, or a size is larger than
            the target.

    Example:
        >>> labels = torch.zeros(1, 8, 8, dtype=torch.uint8)
        >>> labels[0, 0, :4], labels[0, 3, 3], labels[0, 4:, 4:] = 1, 2, 255
        >>> coarse = downsample_target(labels, [(4, 4), (2, 2)], num_channels=3, ignore_index=255)
        >>> [level.target.tolist()[0] for level in coarse][1]
        [[2, 0], [0, 255]]
    """
    num_axes = len(sizes[0]) if sizes else target.ndim - 2
    values = target.unsqueeze(1) if target.ndim == num_axes + 1 else target
    _check_fits(target, values, sizes, num_channels)
    is_labels = values.shape[1] == 1 and (num_channels > 1 or not values.is_floating_point())
    if not (is_labels or exclusive):
        return [_largest_value(target, mask, size) for size in sizes]
    excluded = torch.zeros_like(values[:, :1], dtype=torch.bool)
    if is_labels:
        classes = values.long()
        if ignored := checks.check_ignore_index(ignore_index):
            excluded = is_any_of(classes, ignored)
        counted = None if mask is None else mask & ~excluded
        worth = _worth(num_channels, regions)
    else:
        as_numbers = values.view(torch.uint8) if values.dtype == torch.bool else values
        classes = as_numbers.argmax(1, keepdim=True)
        counted = mask
        worth = _worth(num_channels, None)
    if counted is not None:
        excluded = ~counted.any(1, keepdim=True)
    priority = _priority(classes, excluded, worth)
    if not is_labels:
        foreground = 1 - values[:, :1].to(priority.dtype)
        priority = (priority + foreground / 2).masked_fill(excluded, 0)
    coarse = []
    for size in sizes:
        taken = _take_by_priority(values, priority, size)
        shape = (*target.shape[: target.ndim - num_axes], *size)
        coarse.append(CoarseTarget(taken.view(shape), _any_counts(counted, size)))
    return coarse


def _check_fits(
    target: Tensor, values: Tensor, sizes: Sequence[Sequence[int]], num_channels: int
) -> None:
    got, num_axes = tuple(target.shape), values.ndim - 2
    if num_axes not in _MAX_POOL or values.shape[1] not in (1, num_channels):
        raise ValueError(
            f"target must hold labels (B, *S) or (B, 1, *S), or {num_channels} channels "
            f"(B, {num_channels}, *S), with one to three spatial axes: got {got}."
        )
    for size in sizes:
        fits = len(size) == num_axes and all(
            0 < coarse <= fine for coarse, fine in zip(size, values.shape[2:], strict=True)
        )
        if not fits:
            raise ValueError(
                f"a level must not be larger than the target: expected at most "
                f"{tuple(values.shape[2:])} voxels, got {tuple(size)}."
            )


def _worth(num_channels: int, regions: Regions) -> list[int]:
    """In how many foreground channels each class is a positive."""
    table = checks.check_regions(regions, "sigmoid")
    if table is None:
        return [0] + [1] * max(num_channels - 1, 1)
    highest = max(max(classes) for classes in table)
    return [sum(label in classes for classes in table) for label in range(highest + 1)]


def _priority(classes: Tensor, excluded: Tensor, worth: Sequence[int]) -> Tensor:
    """Rank of each voxel's class `(B, 1, *S)` from 1 on, float32; 0 where excluded.

    A label that is no class comes before all, so that the loss sees it and can refuse it.
    """
    num_classes = len(worth)
    counted = classes.masked_fill(excluded, -1)
    rarity = [
        of_class * _ABOVE_ANY_COUNT - (counted == label).flatten(1).sum(1)
        for label, of_class in enumerate(worth)
    ]
    order = torch.stack(rarity, dim=1).sort(dim=1, stable=True).indices
    rank = order.argsort(dim=1) + 1
    rank = torch.cat([rank, torch.full_like(rank[:, :1], num_classes + 1)], dim=1).float()
    is_class = (classes >= 0) & (classes < num_classes)
    column = torch.where(is_class, classes, num_classes)
    return rank.gather(1, column.flatten(1)).view(classes.shape).masked_fill(excluded, 0)


def _take_by_priority(values: Tensor, priority: Tensor, size: Sequence[int]) -> Tensor:
    """For each cell all channels of its voxel of highest priority, `(B, C, *size)`."""
    pool = _MAX_POOL[len(size)]
    _, voxel = pool(priority, tuple(size), return_indices=True)
    readable = values.long() if values.dtype in _WIDE else values
    index = voxel.flatten(2).expand(-1, values.shape[1], -1)
    taken = readable.flatten(2).gather(2, index).to(values.dtype)
    return taken.view(*values.shape[:2], *size)


def _largest_value(target: Tensor, mask: Tensor | None, size: Sequence[int]) -> CoarseTarget:
    numbers = target if target.is_floating_point() else target.float()
    if mask is not None:
        numbers = numbers.masked_fill(~mask, 0)
    largest = _MAX_POOL[len(size)](numbers, tuple(size)).to(target.dtype)
    return CoarseTarget(largest, _any_counts(mask, size))


def _any_counts(mask: Tensor | None, size: Sequence[int]) -> Tensor | None:
    if mask is None:
        return None
    pooled: Tensor = _MAX_POOL[len(size)](mask.float(), tuple(size))
    return pooled > 0
