"""Dice plus cross-entropy as a module."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from segfocal.checks import ClassNumbers, IgnoreIndex, Regions
from segfocal.functional.across_ranks import Group
from segfocal.functional.compound import OverlapTerm, check_lambdas
from segfocal.functional.dice import DiceOptions
from segfocal.functional.focal import Normalizer
from segfocal.functional.overlap import Absent
from segfocal.functional.voxel_options import Reduction
from segfocal.losses.base import chosen_activation
from segfocal.losses.overlap_focal import OverlapFocalLoss


class DiceCETerms(NamedTuple):
    """The two terms of a Dice-cross-entropy loss, before their lambdas."""

    dice: Tensor
    ce: Tensor


class DiceCELoss(OverlapFocalLoss):
    """Dice loss plus cross-entropy, both of one pass.

    `segfocal.functional.dice_loss` explains the Dice term; the other is `F.cross_entropy` (with
    `sigmoid` binary cross-entropy of each channel) over the voxels that count. The names are those
    of MONAI's `DiceCELoss`; the cross-entropy sees the background whatever `include_background`
    says, as there.

    Args:
        include_background: Whether channel 0 counts.
        to_onehot_y: Integer labels are recognised without it; True refuses a one-hot target.
        sigmoid: Each channel is its own yes-or-no question.
        softmax: The channels exclude each other.
        squared_pred: Sums of squares in Dice's denominator.
        jaccard: Jaccard index in place of Dice.
        reduction: "mean", "sum" or "none".
        smooth_nr: Added to the overlap's numerator, >= 0.
        smooth_dr: Added to the overlap's denominator, >= 0.
        batch: Sum the overlap over the batch before dividing.
        weight: Weight >= 0 in both terms, one number or one per channel.
        lambda_dice: Weight >= 0 of the Dice term.
        lambda_ce: Weight >= 0 of the cross-entropy.
        soft_label: Overlap min(p, t), for targets between 0 and 1.
        ignore_index: Label or labels whose voxels do not count, in either term.
        regions: Class indices that make up each channel.
        label_smoothing: Share in [0, 1) of each target that is spread over the classes.
        normalizer: What the mean of the cross-entropy divides by; "alpha", the sum of the weights,
            is `F.cross_entropy`'s of labels. Of one-hot targets with a `weight` that one divides by
            the voxels, as MONAI's then does; here they are the labels that they stand for.
        top_k: Per cent of the valid voxels that count, those with the largest loss. Set
            `normalizer="valid"` with it.
        absent: For a class that the target does not hold: "smooth", "skip" or "penalise".
        process_group: Ranks that share the batch: a group, or "world".
        check_target: Check the target's values on every device, not on the CPU alone.
        ce_include_background: Whether channel 0 counts in the cross-entropy; None is
            `include_background`.
        backend: "auto", or a name from `segfocal.ops.backends()`.

    Raises:
        ValueError: At construction or call, if an argument does not fit.

    Example:
        >>> import torch
        >>> loss = DiceCELoss(softmax=True, ignore_index=255)
        >>> labels = torch.tensor([[[0, 1, 255]]], dtype=torch.uint8)
        >>> round(loss(torch.zeros(1, 2, 3), labels).item(), 4)
        1.1931
    """

    lambda_names = ("lambda_dice", "lambda_ce")
    background_name = "ce_include_background"

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
        weight: ClassNumbers | None = None,
        lambda_dice: float = 1.0,
        lambda_ce: float = 1.0,
        soft_label: bool = False,
        ignore_index: IgnoreIndex = None,
        regions: Regions = None,
        label_smoothing: float = 0.0,
        normalizer: Normalizer = "alpha",
        top_k: float | None = None,
        absent: Absent = "smooth",
        process_group: Group = None,
        check_target: bool = False,
        ce_include_background: bool | None = True,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            activation=chosen_activation(sigmoid=sigmoid, softmax=softmax),
            include_background=include_background,
            to_onehot_y=to_onehot_y,
            weight=weight,
            reduction=reduction,
            ignore_index=ignore_index,
            regions=regions,
            process_group=process_group,
            check_target=check_target,
            backend=backend,
        )
        self.squared_pred = squared_pred
        self.jaccard = jaccard
        self.smooth_nr = smooth_nr
        self.smooth_dr = smooth_dr
        self.batch = batch
        self.lambda_dice = lambda_dice
        self.lambda_ce = lambda_ce
        self.soft_label = soft_label
        self.label_smoothing = label_smoothing
        self.normalizer: Normalizer = normalizer
        self.top_k = top_k
        self.absent: Absent = absent
        self.ce_include_background = ce_include_background
        self._hold_gamma(0.0)
        self._hold_alpha(None)
        self.check_numbers()
        check_lambdas(self.lambdas(), self.lambda_names)

    def terms(
        self,
        input: Tensor,  # noqa: A002 - MONAI's name
        target: Tensor,
        mask: Tensor | None = None,
        voxel_weight: Tensor | None = None,
    ) -> DiceCETerms:
        """The two terms before their lambdas, for a log; one pass, as `forward`."""
        return DiceCETerms(*self._terms(input, target, mask, voxel_weight))

    def overlap_options(self) -> OverlapTerm:
        """The overlap term's arguments."""
        return self._options(DiceOptions)
