"""Focal loss as a module."""

from __future__ import annotations

from torch import Tensor

from segfocal.checks import ClassNumbers, IgnoreIndex, Regions
from segfocal.functional.focal import Normalizer, Reduction, check_focal_options, focal_loss
from segfocal.losses.base import LogitsLoss


class FocalLoss(LogitsLoss):
    """Focal loss: `segfocal.functional.focal_loss` with its arguments held.

    The arguments are explained there; the names are those of MONAI's `FocalLoss`. `alpha`,
    `weight` and a per-class `gamma` are buffers, and so in the `state_dict`.

    Args:
        include_background: Whether channel 0 counts.
        to_onehot_y: Integer labels are recognised without it; True refuses a one-hot target.
        gamma: Focusing exponent >= 0, one number or one per channel.
        alpha: Balance, one number or one per channel.
        weight: Weight >= 0, one number or one per channel.
        reduction: "mean", "sum" or "none".
        use_softmax: Softmax over the channels; otherwise a sigmoid on each.
        ignore_index: Label or labels whose voxels do not count.
        regions: Class indices that make up each channel.
        normalizer: What the mean divides by: "valid", "positives", "alpha" or "none".
        check_target: Check the target's values on every device, not on the CPU alone.
        backend: "auto", or a name from `segfocal.ops.backends()`.

    Raises:
        ValueError: At construction or call, if an argument does not fit.

    Example:
        >>> import torch
        >>> loss = FocalLoss(use_softmax=True, alpha=[0.5, 1.5], ignore_index=255)
        >>> labels = torch.tensor([[[0, 1, 255]]], dtype=torch.uint8)
        >>> round(loss(torch.zeros(1, 2, 3), labels).item(), 4)
        0.1733
    """

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        gamma: ClassNumbers = 2.0,
        alpha: ClassNumbers | None = None,
        weight: ClassNumbers | None = None,
        reduction: Reduction = "mean",
        use_softmax: bool = False,
        ignore_index: IgnoreIndex = None,
        *,
        regions: Regions = None,
        normalizer: Normalizer = "valid",
        check_target: bool = False,
        backend: str = "auto",
    ) -> None:
        check_focal_options(normalizer, reduction)
        super().__init__(
            activation="softmax" if use_softmax else "sigmoid",
            include_background=include_background,
            to_onehot_y=to_onehot_y,
            weight=weight,
            reduction=reduction,
            ignore_index=ignore_index,
            regions=regions,
            check_target=check_target,
            backend=backend,
        )
        self.normalizer: Normalizer = normalizer
        self._hold_gamma(gamma)
        self._hold_alpha(alpha)

    def forward(
        self,
        input: Tensor,  # noqa: A002 - MONAI's name
        target: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The loss of logits `(B, C, *S)` on the voxels that `mask` lets in."""
        logits, target, mask = self._plain(input, target, mask)
        return focal_loss(
            logits,
            target,
            activation=self.activation,
            gamma=self.gamma,
            alpha=self.alpha,
            weight=self.weight,
            include_background=self.include_background,
            normalizer=self.normalizer,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
            mask=mask,
            regions=self.regions,
            check_target=self.check_target,
            backend=self.backend,
        )
