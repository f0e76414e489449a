"""Logits whose classes stand in the last axis, for any loss."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from segfocal.checks import plain_tensor


class ChannelLast(nn.Module):
    """Calls a loss with the last axis moved to the place of the channels.

    For logits `(B, N, C)`, as detection heads and transformers have them, and in general
    `(B, *S, C)`. `(B, C)` stays as it is. Nothing is copied.

    Args:
        loss: A loss on `(B, C, *S)`.

    Example:
        >>> import torch
        >>> from segfocal.losses import FocalLoss
        >>> loss = ChannelLast(FocalLoss(use_softmax=True, gamma=0.0))
        >>> round(loss(torch.zeros(2, 5, 3), torch.ones(2, 5, dtype=torch.long)).item(), 4)
        1.0986
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(
        self,
        input: Tensor,  # noqa: A002 - MONAI's name
        target: Tensor,
        mask: Tensor | None = None,
        voxel_weight: Tensor | None = None,
    ) -> Tensor:
        """The loss of logits `(B, *S, C)`.

        Args:
            input: `(B, *S, C)`.
            target: Labels `(B, *S)`, or one value per channel `(B, *S, C)`.
            mask: Bool `(B, *S)` or `(B, *S, C)`; passed on only where given.
            voxel_weight: `(B, *S)` or `(B, *S, C)`, for a loss that takes it; passed on only where
                given.
        """
        logits, target = plain_tensor("input", input), plain_tensor("target", target)
        per_channel = target.shape == logits.shape
        arguments: list[Any] = [
            logits.movedim(-1, 1),
            target.movedim(-1, 1) if per_channel else target,
        ]
        if mask is not None:
            arguments.append(_channel_first(plain_tensor("mask", mask), logits))
        named = {}
        if voxel_weight is not None:
            weights = plain_tensor("voxel_weight", voxel_weight)
            named["voxel_weight"] = _channel_first(weights, logits)
        result: Tensor = self.loss(*arguments, **named)
        return result


def _channel_first(of_voxels: Tensor, logits: Tensor) -> Tensor:
    """`(B, *S)` as `(B, 1, *S)`, and `(B, *S, C)` as `(B, C, *S)`."""
    has_channels = of_voxels.ndim == logits.ndim
    return of_voxels.movedim(-1, 1) if has_channels else of_voxels[:, None]
