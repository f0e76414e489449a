"""Focal loss around an existing `BCEWithLogitsLoss`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segfocal import checks
from segfocal.checks import plain_tensor
from segfocal.ops.differentiable import is_transformed


class FocalBCEWithLogitsLoss(nn.Module):
    r"""Turns a `torch.nn.BCEWithLogitsLoss` into a focal loss.

    .. math:: FL = \alpha_t (1 - p_t)^\gamma BCE(x, t)

    with p_t = t p + (1 - t) (1 - p), alpha_t = alpha t + (1 - alpha) (1 - t) and BCE as the given
    instance has it: its `weight`, its `pos_weight` and its reduction are kept, and the instance is
    not changed. Without those two it is `FocalLoss(alpha=alpha, gamma=gamma)`, which needs less
    memory.

    Args:
        loss_fcn: The instance.
        gamma: Focusing exponent >= 0.
        alpha: Weight of positives in [0, 1]; negatives weigh 1 - alpha. None for 1 and 1.

    Raises:
        ValueError: If a number is out of range, or at call a target on the CPU.
        TypeError: If `loss_fcn` is not a `BCEWithLogitsLoss`.

    Example:
        >>> loss = FocalBCEWithLogitsLoss(nn.BCEWithLogitsLoss(), gamma=2.0, alpha=0.75)
        >>> round(loss(torch.zeros(2, 3), torch.ones(2, 3)).item(), 4)
        0.13
    """

    def __init__(
        self, loss_fcn: nn.BCEWithLogitsLoss, gamma: float = 1.5, alpha: float | None = 0.25
    ) -> None:
        super().__init__()
        if not isinstance(loss_fcn, nn.BCEWithLogitsLoss):
            raise TypeError(
                f"loss_fcn must be a torch.nn.BCEWithLogitsLoss: got {type(loss_fcn).__name__}."
            )
        checks.check_non_negative("gamma", gamma)
        if alpha is not None:
            checks.check_number("alpha", alpha)
            checks.check_alpha(alpha, "sigmoid")
        self.loss_fcn = loss_fcn
        self.gamma = gamma
        self.alpha = alpha

    def forward(
        self,
        input: Tensor,  # noqa: A002 - torch's name
        target: Tensor,
    ) -> Tensor:
        """The loss of logits and targets of one shape, targets in [0, 1] (checked on the CPU)."""
        logits, target = plain_tensor("input", input), plain_tensor("target", target)
        _check_target(target)
        bce = F.binary_cross_entropy_with_logits(
            logits,
            target,
            weight=self.loss_fcn.weight,
            pos_weight=self.loss_fcn.pos_weight,
            reduction="none",
        )
        loss = bce * self._focus(logits, target)
        if self.alpha is not None:
            loss = loss * (self.alpha * target + (1 - self.alpha) * (1 - target))
        if self.loss_fcn.reduction == "none":
            return loss
        return loss.sum() if self.loss_fcn.reduction == "sum" else loss.mean()

    def _focus(self, logits: Tensor, target: Tensor) -> Tensor:
        """(1 - p_t)^gamma by way of its logarithm, which has a slope where 1 - p_t is 0."""
        log_wrong = torch.logaddexp(
            target.log() + F.logsigmoid(-logits), (-target).log1p() + F.logsigmoid(logits)
        )
        return (self.gamma * log_wrong).exp()


def _check_target(target: Tensor) -> None:
    """Refuse what is not in [0, 1]: 1 - p_t would be negative, and its power NaN."""
    is_read = target.device.type == "cpu" and not torch.compiler.is_compiling()
    if not is_read or is_transformed() or target.numel() == 0:
        return
    low, high = (end.item() for end in torch.aminmax(target))
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"target must be in [0, 1]: got {low:g} to {high:g}. Pass probabilities, or 0 and 1."
        )
