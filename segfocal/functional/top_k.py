"""The hardest voxels of a batch: online hard example mining over what counts."""

from __future__ import annotations

import torch
from torch import Tensor


def hardest(values: Tensor, counted: Tensor, per_cent: float) -> tuple[Tensor, Tensor]:
    """Sum and number of the largest values among those that count.

    The number is `per_cent` of those that count, rounded up. It never leaves the device.

    Args:
        values: Losses >= 0, any shape.
        counted: Bool of the same shape.
        per_cent: In (0, 100].

    Returns:
        `(sum, number)`, scalars of the dtype of `values`.

    Example:
        >>> losses = torch.tensor([4.0, 1.0, 2.0, 9.0])
        >>> [part.item() for part in hardest(losses, losses < 5, 50)]
        [6.0, 2.0]
    """
    ordered = torch.where(counted, values, -1).flatten().sort(descending=True).values
    number = (counted.sum() * per_cent / 100).ceil()
    rank = torch.arange(ordered.numel(), device=ordered.device)
    kept = torch.where(rank < number, ordered, 0)
    return kept.sum(), number.to(values.dtype)
