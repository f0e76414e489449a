"""Logits whose classes stand in the last axis, for any loss."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from segfocal.losses.base import optional_plain, plain_tensor


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
    ) -> Tensor:
        """The loss of logits `(B, *S, C)`.

        Args:
            input: `(B, *S, C)`.
            target: Labels `(B, *S)`, or one value per channel `(B, *S, C)`.
            mask: Bool `(B, *S)` or `(B, *S, C)`; passed on only where given.
        """
        logits, target, mask = plain_tensor(input), plain_tensor(target), optional_plain(mask)
        per_channel = target.shape == logits.shape
        arguments: list[Any] = [
            logits.movedim(-1, 1),
            target.movedim(-1, 1) if per_channel else target,
        ]
        if mask is not None:
            arguments.append(mask.movedim(-1, 1) if mask.ndim == logits.ndim else mask[:, None])
        result: Tensor = self.loss(*arguments)
        return result
