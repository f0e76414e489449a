"""Generalized Dice loss as a module."""

from __future__ import annotations

from torch import Tensor

from segfocal.checks import ClassNumbers, IgnoreIndex, Regions
from segfocal.functional.across_ranks import Group
from segfocal.functional.generalized_dice import (
    GeneralizedDiceOptions,
    VolumeWeight,
    check_generalized_dice_options,
    check_volume_factors,
    generalized_dice_of_voxels,
)
from segfocal.functional.overlap import Absent
from segfocal.functional.voxel_options import Reduction
from segfocal.losses.base import LogitsLoss, chosen_activation


class GeneralizedDiceLoss(LogitsLoss):
    """Generalized Dice loss: `segfocal.functional.generalized_dice_loss` with its arguments held.

    The arguments are explained there; the names are those of MONAI's `GeneralizedDiceLoss`.

    Args:
        include_background: Whether channel 0 counts.
        to_onehot_y: Integer labels are recognised without it; True refuses a one-hot target.
        sigmoid: Each channel is its own yes-or-no question.
        softmax: The channels exclude each other.
        w_type: Weight of a class of t voxels: "square" 1 / t^2, "simple" 1 / t, "uniform" 1.
        reduction: "mean", "sum" or "none".
        smooth_nr: Added to the overlap's numerator, >= 0.
        smooth_dr: Added to the overlap's denominator, >= 0.
        batch: Sum the overlap over the batch before dividing.
        soft_label: Overlap min(p, t), for targets between 0 and 1.
        weight: Weight >= 0, one per channel. One number for all would cancel.
        ignore_index: Label or labels whose voxels do not count.
        regions: Class indices that make up each channel.
        absent: For a class that the target does not hold: "penalise" or "skip".
        process_group: Ranks that share the batch: a group, or "world".
        check_target: Check the target's values on every device, not on the CPU alone.
        backend: "auto", or a name from `segfocal.ops.backends()`.

    Raises:
        ValueError: At construction or call, if an argument does not fit.

    Example:
        >>> import torch
        >>> loss = GeneralizedDiceLoss(softmax=True)
        >>> round(loss(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 0, 1]])).item(), 4)
        0.625
    """

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        *,
        w_type: VolumeWeight = "square",
        reduction: Reduction = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        soft_label: bool = False,
        weight: ClassNumbers | None = None,
        ignore_index: IgnoreIndex = None,
        regions: Regions = None,
        absent: Absent = "penalise",
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
        self.w_type: VolumeWeight = w_type
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
        check_volume_factors(self.weight)
        check_generalized_dice_options(self.overlap_options())

    def overlap_options(self) -> GeneralizedDiceOptions:
        """The term's arguments."""
        return self._options(GeneralizedDiceOptions)

    def forward(
        self,
        input: Tensor,  # noqa: A002 - MONAI's name
        target: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The loss of logits `(B, C, *S)` on the voxels that `mask` lets in."""
        return generalized_dice_of_voxels(self._voxels(input, target, mask), self.overlap_options())
