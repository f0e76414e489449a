"""Tversky and focal Tversky loss as modules."""

from __future__ import annotations

from torch import Tensor

from segfocal.checks import ClassNumbers, IgnoreIndex, Regions
from segfocal.functional.across_ranks import Group
from segfocal.functional.overlap import Absent
from segfocal.functional.tversky import TverskyOptions, check_tversky_options, tversky_of_voxels
from segfocal.functional.voxel_options import Reduction
from segfocal.losses.base import LogitsLoss, chosen_activation


class TverskyLoss(LogitsLoss):
    """Tversky loss: `segfocal.functional.tversky_loss` with its arguments held.

    The arguments are explained there; the names are those of MONAI's `TverskyLoss`.

    Args:
        include_background: Whether channel 0 counts.
        to_onehot_y: Integer labels are recognised without it; True refuses a one-hot target.
        sigmoid: Each channel is its own yes-or-no question.
        softmax: The channels exclude each other.
        alpha: Weight >= 0 of false positives.
        beta: Weight >= 0 of false negatives.
        gamma: Exponent >= 1 of the focal form.
        reduction: "mean", "sum" or "none".
        smooth_nr: Added to the overlap's numerator, >= 0.
        smooth_dr: Added to the overlap's denominator, >= 0.
        batch: Sum the overlap over the batch before dividing.
        soft_label: Overlap min(p, t), for targets between 0 and 1.
        weight: Weight >= 0, one number or one per channel.
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
        >>> loss = TverskyLoss(softmax=True, alpha=0.3, beta=0.7)
        >>> round(loss(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 0, 1]])).item(), 4)
        0.5299
    """

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        *,
        alpha: float = 0.5,
        beta: float = 0.5,
        gamma: float = 1.0,
        reduction: Reduction = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        soft_label: bool = False,
        weight: ClassNumbers | None = None,
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
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma
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
        check_tversky_options(self.overlap_options())

    def overlap_options(self) -> TverskyOptions:
        """The term's arguments."""
        return self._options(TverskyOptions)

    def forward(
        self,
        input: Tensor,  # noqa: A002 - MONAI's name
        target: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The loss of logits `(B, C, *S)` on the voxels that `mask` lets in."""
        return tversky_of_voxels(self._voxels(input, target, mask), self.overlap_options())


class FocalTverskyLoss(TverskyLoss):
    """Focal Tversky loss: `segfocal.functional.tversky_loss` with the paper's numbers.

    Abraham and Khan, 2019, arXiv:1810.07842, who call the weight of false negatives alpha; here
    `alpha` weighs false positives and `beta` false negatives, as in `TverskyLoss`.

    Args:
        include_background: Whether channel 0 counts.
        to_onehot_y: Integer labels are recognised without it; True refuses a one-hot target.
        sigmoid: Each channel is its own yes-or-no question.
        softmax: The channels exclude each other.
        alpha: Weight >= 0 of false positives.
        beta: Weight >= 0 of false negatives.
        gamma: Exponent >= 1: the loss of each class is (1 - TI)^(1 / gamma).
        reduction: "mean", "sum" or "none".
        smooth_nr: Added to the overlap's numerator, >= 0.
        smooth_dr: Added to the overlap's denominator, >= 0.
        batch: Sum the overlap over the batch before dividing.
        soft_label: Overlap min(p, t), for targets between 0 and 1.
        weight: Weight >= 0, one number or one per channel.
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
        >>> loss = FocalTverskyLoss(softmax=True)
        >>> round(loss(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 0, 1]])).item(), 4)
        0.6196
    """

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        *,
        alpha: float = 0.3,
        beta: float = 0.7,
        gamma: float = 4 / 3,
        reduction: Reduction = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        soft_label: bool = False,
        weight: ClassNumbers | None = None,
        ignore_index: IgnoreIndex = None,
        regions: Regions = None,
        absent: Absent = "smooth",
        process_group: Group = None,
        check_target: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            include_background=include_background,
            to_onehot_y=to_onehot_y,
            sigmoid=sigmoid,
            softmax=softmax,
            alpha=alpha,
            beta=beta,
            gamma=gamma,
            reduction=reduction,
            smooth_nr=smooth_nr,
            smooth_dr=smooth_dr,
            batch=batch,
            soft_label=soft_label,
            weight=weight,
            ignore_index=ignore_index,
            regions=regions,
            absent=absent,
            process_group=process_group,
            check_target=check_target,
            backend=backend,
        )
