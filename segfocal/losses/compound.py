"""Dice-focal loss as a module."""

from __future__ import annotations

from torch import Tensor

from segfocal.checks import ClassNumbers, IgnoreIndex, Regions
from segfocal.functional.compound import (
    DiceFocalTerms,
    check_lambdas,
    dice_focal_terms,
    weighted_sum,
)
from segfocal.functional.dice import Absent, check_dice_options
from segfocal.functional.focal import Normalizer, Reduction, check_focal_options
from segfocal.losses.base import LogitsLoss, chosen_activation


class DiceFocalLoss(LogitsLoss):
    """Dice plus focal loss: `segfocal.functional.dice_focal_loss` with its arguments held.

    The arguments are explained there; the names are those of MONAI's `DiceFocalLoss`. Both terms
    use the activation that is set, and leave out the same voxels. `alpha`, `weight` and a
    per-class `gamma` are buffers, and so in the `state_dict`.

    Args:
        include_background: Whether channel 0 counts.
        to_onehot_y: Integer labels are recognised without it; True refuses a one-hot target.
        sigmoid: Each channel is its own yes-or-no question.
        softmax: The channels exclude each other.
        squared_pred: Sum p squared in Dice's denominator.
        jaccard: Jaccard index in place of Dice.
        reduction: "mean", "sum" or "none".
        smooth_nr: Added to Dice's numerator, >= 0.
        smooth_dr: Added to Dice's denominator, >= 0.
        batch: Sum Dice over the batch before dividing.
        gamma: Focusing exponent >= 0, one number or one per channel.
        weight: Weight >= 0 in both terms, one number or one per channel.
        lambda_dice: Weight >= 0 of the Dice term.
        lambda_focal: Weight >= 0 of the focal term.
        alpha: Balance of the focal term, one number or one per channel.
        ignore_index: Label or labels whose voxels do not count, in either term.
        regions: Class indices that make up each channel.
        normalizer: What the focal mean divides by: "valid", "positives", "alpha" or "none".
        absent: For a class that the target does not hold, in Dice: "smooth" or "skip".
        check_target: Check the target's values on every device, not on the CPU alone.
        focal_include_background: Whether channel 0 counts in the focal term; None is
            `include_background`.
        backend: "auto", or a name from `segfocal.ops.backends()`.

    Raises:
        ValueError: At construction or call, if an argument does not fit.

    Example:
        >>> import torch
        >>> loss = DiceFocalLoss(softmax=True, alpha=[0.5, 1.5], ignore_index=255)
        >>> logits = torch.zeros(1, 2, 3, requires_grad=True)
        >>> labels = torch.tensor([[[0, 1, 255]]], dtype=torch.uint8)
        >>> dice, focal = loss.terms(logits, labels)
        >>> round(dice.item(), 4), round(focal.item(), 4), round(loss(logits, labels).item(), 4)
        (0.5, 0.1733, 0.6733)
    """

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        *,
        squared_pred: bool = False,
        jaccard: bool = False,
        reduction: Reduction = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        gamma: ClassNumbers = 2.0,
        weight: ClassNumbers | None = None,
        lambda_dice: float = 1.0,
        lambda_focal: float = 1.0,
        alpha: ClassNumbers | None = None,
        ignore_index: IgnoreIndex = None,
        regions: Regions = None,
        normalizer: Normalizer = "valid",
        absent: Absent = "smooth",
        check_target: bool = False,
        focal_include_background: bool | None = None,
        backend: str = "auto",
    ) -> None:
        check_focal_options(normalizer, reduction)
        check_dice_options(smooth_nr, smooth_dr, absent, reduction)
        check_lambdas(lambda_dice, lambda_focal)
        super().__init__(
            activation=chosen_activation(sigmoid=sigmoid, softmax=softmax),
            include_background=include_background,
            to_onehot_y=to_onehot_y,
            weight=weight,
            reduction=reduction,
            ignore_index=ignore_index,
            regions=regions,
            check_target=check_target,
            backend=backend,
        )
        self.squared_pred = squared_pred
        self.jaccard = jaccard
        self.smooth_nr = smooth_nr
        self.smooth_dr = smooth_dr
        self.batch = batch
        self.focal_include_background = focal_include_background
        self.lambda_dice = lambda_dice
        self.lambda_focal = lambda_focal
        self.normalizer: Normalizer = normalizer
        self.absent: Absent = absent
        self._hold_gamma(gamma)
        self._hold_alpha(alpha)

    def forward(
        self,
        input: Tensor,  # noqa: A002 - MONAI's name
        target: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The loss of logits `(B, C, *S)` on the voxels that `mask` lets in."""
        return weighted_sum(self.terms(input, target, mask), self.lambda_dice, self.lambda_focal)

    def terms(
        self,
        input: Tensor,  # noqa: A002 - MONAI's name
        target: Tensor,
        mask: Tensor | None = None,
    ) -> DiceFocalTerms:
        """The two terms before their lambdas, for a log; one pass, as `forward`."""
        logits, target, mask = self._plain(input, target, mask)
        return dice_focal_terms(
            logits,
            target,
            activation=self.activation,
            gamma=self.gamma,
            alpha=self.alpha,
            weight=self.weight,
            include_background=self.include_background,
            focal_include_background=self.focal_include_background,
            normalizer=self.normalizer,
            squared_pred=self.squared_pred,
            jaccard=self.jaccard,
            batch=self.batch,
            smooth_nr=self.smooth_nr,
            smooth_dr=self.smooth_dr,
            absent=self.absent,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
            mask=mask,
            regions=self.regions,
            check_target=self.check_target,
            backend=self.backend,
        )
