"""Generalized Dice plus focal loss as a module."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from segfocal.checks import ClassNumbers, IgnoreIndex, Regions
from segfocal.functional.across_ranks import Group
from segfocal.functional.compound import OverlapTerm, check_lambdas
from segfocal.functional.focal import Normalizer
from segfocal.functional.generalized_dice import (
    GeneralizedDiceOptions,
    VolumeWeight,
)
from segfocal.functional.overlap import Absent
from segfocal.functional.voxel_options import Reduction
from segfocal.losses.base import Alpha, chosen_activation
from segfocal.losses.overlap_focal import OverlapFocalLoss


class GeneralizedDiceFocalTerms(NamedTuple):
    """The two terms of a generalized-Dice-focal loss, before their lambdas."""

    gdl: Tensor
    focal: Tensor


class GeneralizedDiceFocalLoss(OverlapFocalLoss):
    """Generalized Dice plus focal loss, both of one pass.

    `segfocal.functional.generalized_dice_loss` and `focal_loss` explain the arguments; the names
    are those of MONAI's `GeneralizedDiceFocalLoss`.

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
        gamma: Focusing exponent >= 0, one number or one per channel.
        weight: Weight >= 0 in both terms, one number (which cancels in the Dice term) or one per
            channel.
        lambda_gdl: Weight >= 0 of the generalized Dice term.
        lambda_focal: Weight >= 0 of the focal term.
        alpha: Balance, one number or one per channel, or the record that `segfocal.statistics`
            derives.
        soft_label: Overlap min(p, t), for targets between 0 and 1.
        ignore_index: Label or labels whose voxels do not count, in either term.
        regions: Class indices that make up each channel.
        label_smoothing: Share in [0, 1) of each target that is spread over the classes.
        normalizer: What the focal mean divides by: "valid", "positives", "alpha" or "none".
        top_k: Per cent of the valid voxels that count, those with the largest loss.
        absent: For a class that the target does not hold: "penalise" or "skip".
        process_group: Ranks that share the batch: a group, or "world".
        check_target: Check the target's values on every device, not on the CPU alone.
        focal_include_background: Whether channel 0 counts in the focal term; None is
            `include_background`.
        backend: "auto", or a name from `segfocal.ops.backends()`.

    Raises:
        ValueError: At construction or call, if an argument does not fit.

    Example:
        >>> import torch
        >>> loss = GeneralizedDiceFocalLoss(softmax=True, ignore_index=255)
        >>> labels = torch.tensor([[[0, 1, 255]]], dtype=torch.uint8)
        >>> round(loss(torch.zeros(1, 2, 3), labels).item(), 4)
        0.6733
    """

    lambda_names = ("lambda_gdl", "lambda_focal")

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
        gamma: ClassNumbers = 2.0,
        weight: ClassNumbers | None = None,
        lambda_gdl: float = 1.0,
        lambda_focal: float = 1.0,
        alpha: Alpha | None = None,
        soft_label: bool = False,
        ignore_index: IgnoreIndex = None,
        regions: Regions = None,
        label_smoothing: float = 0.0,
        normalizer: Normalizer = "valid",
        top_k: float | None = None,
        absent: Absent = "penalise",
        process_group: Group = None,
        check_target: bool = False,
        focal_include_background: bool | None = None,
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
        self._hold_gamma(gamma)
        self.lambda_gdl = lambda_gdl
        self.lambda_focal = lambda_focal
        self._hold_alpha(alpha)
        self.soft_label = soft_label
        self.label_smoothing = label_smoothing
        self.normalizer: Normalizer = normalizer
        self.top_k = top_k
        self.absent: Absent = absent
        self.focal_include_background = focal_include_background
        self.check_numbers()
        check_lambdas(self.lambdas(), self.lambda_names)

    def terms(
        self,
        input: Tensor,  # noqa: A002 - MONAI's name
        target: Tensor,
        mask: Tensor | None = None,
        voxel_weight: Tensor | None = None,
    ) -> GeneralizedDiceFocalTerms:
        """The two terms before their lambdas, for a log; one pass, as `forward`."""
        return GeneralizedDiceFocalTerms(*self._terms(input, target, mask, voxel_weight))

    def overlap_options(self) -> OverlapTerm:
        """The overlap term's arguments."""
        return self._options(GeneralizedDiceOptions)
