"""`DeepSupervisionLoss` with MONAI's numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.loss import _Loss

from segfocal.checks import plain_tensor


class DeepSupervisionLoss(_Loss):
    """Weighted sum of a loss over several resolutions, as `monai.losses.DeepSupervisionLoss`.

    The weights do not sum to 1. The target is resized to each output by nearest neighbour, which
    refuses integer targets.

    Args:
        loss: The loss of one resolution.
        weight_mode: "exp" 1, 1/2, 1/4, ... down to 1/16; "two" 1, 1/2, 1/2, ...; any other word 1.
        weights: The weights themselves; left aside where there are fewer than outputs.

    Example:
        >>> from segfocal.compat.monai import DiceLoss
        >>> loss = DeepSupervisionLoss(DiceLoss(sigmoid=True))
        >>> outputs = [torch.zeros(1, 1, 4), torch.zeros(1, 1, 2)]
        >>> round(loss(outputs, torch.tensor([[[0.0, 0.0, 1.0, 1.0]]])).item(), 4)
        0.75
    """

    def __init__(
        self, loss: _Loss, weight_mode: str = "exp", weights: list[float] | None = None
    ) -> None:
        super().__init__()
        self.loss = loss
        self.weight_mode = weight_mode
        self.weights = weights
        self.interp_mode = "nearest-exact"

    def get_weights(self, levels: int = 1) -> list[float]:
        """The weight of each of so many outputs."""
        levels = max(1, levels)
        if self.weights is not None and len(self.weights) >= levels:
            return self.weights[:levels]
        if self.weight_mode == "exp":
            return [max(0.5**level, 0.0625) for level in range(levels)]
        if self.weight_mode == "two":
            return [1.0] + [0.5] * (levels - 1)
        return [1.0] * levels

    def get_loss(
        self,
        input: Tensor,  # noqa: A002 - MONAI's name
        target: Tensor,
    ) -> Tensor:
        """The loss of one output, against a target of its size."""
        if input.shape[2:] != target.shape[2:]:
            target = F.interpolate(target, size=input.shape[2:], mode=self.interp_mode)
        loss: Tensor = self.loss(input, target)
        return loss

    def forward(
        self,
        input: Tensor | Sequence[Tensor] | None,  # noqa: A002 - MONAI's name
        target: Tensor,
    ) -> Tensor:
        """The loss of one output, or of a list of them, the largest first.

        Raises:
            ValueError: If there is none.
        """
        if input is None:
            raise ValueError("input shouldn't be None.")
        target = plain_tensor("target", target)
        if not isinstance(input, list | tuple):
            loss: Tensor = self.loss(plain_tensor("input", input).float(), target)
            return loss
        total = torch.zeros((), dtype=torch.float, device=target.device)
        for weight, output in zip(self.get_weights(len(input)), input, strict=False):
            total += weight * self.get_loss(plain_tensor("output", output).float(), target)
        return total
