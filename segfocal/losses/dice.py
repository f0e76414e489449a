"""Dice loss as a module."""

from __future__ import annotations

from torch import Tensor

from segfocal.checks import ClassNumbers, IgnoreIndex, Regions
from segfocal.functional.across_ranks import Group
from segfocal.functional.dice import DiceOptions, check_dice_options, dice_of_voxels
from segfocal.functional.overlap import Absent
from segfocal.functional.voxel_options import Reduction
from segfocal.losses.base import LogitsLoss, chosen_activation


class DiceLoss(LogitsLoss):
    """Dice loss: `segfocal.functional.dice_loss` with its arguments held.

    The arguments are explained there; the names are those of MONAI's `DiceLoss`. It takes logits:
    one of `sigmoid` and `softmax` must be set. `weight` is a buffer, and so in the `state_dict`.

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
        weight: Weight >= 0, one number or one per channel.
        soft_label: Overlap min(p, t), for targets between 0 and 1.
        ignore_index: Label or labels whose voxels do not count.
        regions: Class indices that make up each channel.
        absent: For a class that the target does not hold: "smooth", "skip" or "penalise".
        process_group: Ranks that share the batch: a group, or "world".
        check_target: Check the target's values on every device, not on the CPU alone.
        backend: "auto", or a name from `segfocal.ops.backends()`.

    Raises:
        ValueError: At construction or call, if an argument does not fit.

    Example:
        >>> import torch
        >>> loss = DiceLoss(sigmoid=True, regions=((1, 2), (2,)), ignore_index=255)
        >>> labels = torch.tensor([[[2, 0, 255]]], dtype=torch.uint8)
        >>> round(loss(torch.zeros(1, 2, 3), labels).item(), 4)
        0.5
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
        weight: ClassNumbers | None = None,
        soft_label: bool = False,
        ignore_index: IgnoreIndex = None,
        regions: Regions = None,
        absent: Absent = "smooth",
        process_group: Group = None,
        check_target: bool = False,
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
        self.soft_label = soft_label
        self.absent: Absent = absent
        self.check_numbers()

    def check_numbers(self) -> None:
        """Refuse a number out of range.

        Raises:
            ValueError: Naming it.
        """
        super().check_numbers()
        check_dice_options(self.overlap_options())

    def overlap_options(self) -> DiceOptions:
        """The term's arguments."""
        return self._options(DiceOptions)

    def forward(
        self,
        input: Tensor,  # noqa: A002 - MONAI's name
        target: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The loss of logits `(B, C, *S)` on the voxels that `mask` lets in."""
        return dice_of_voxels(self._voxels(input, target, mask), self.overlap_options())
