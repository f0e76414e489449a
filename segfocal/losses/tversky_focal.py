"""Tversky plus focal loss as a module."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from segfocal.checks import ClassNumbers, IgnoreIndex, Regions
from segfocal.functional.across_ranks import Group
from segfocal.functional.compound import check_lambdas
from segfocal.functional.focal import Normalizer
from segfocal.functional.overlap import Absent
from segfocal.functional.tversky import TverskyOptions
from segfocal.functional.voxel_options import Reduction
from segfocal.losses.base import Alpha, chosen_activation
from segfocal.losses.overlap_focal import OverlapFocalLoss


class TverskyFocalTerms(NamedTuple):
    """The two terms of a Tversky-focal loss, before their lambdas."""

    tversky: Tensor
    focal: Tensor


class TverskyFocalLoss(OverlapFocalLoss):
    """Tversky plus focal loss, both of one pass.

    `segfocal.functional.tversky_loss` and `focal_loss` explain the arguments. `alpha` and `gamma`
    are the focal term's, as in `DiceFocalLoss`; those of the Tversky term are `tversky_alpha`,
    `tversky_beta` and `tversky_gamma`. `alpha`, `weight` and a per-class `gamma` are buffers, and
    so in the `state_dict`.

    Args:
        include_background: Whether channel 0 counts.
        to_onehot_y: Integer labels are recognised without it; True refuses a one-hot target.
        sigmoid: Each channel is its own yes-or-no question.
        softmax: The channels exclude each other.
        tversky_alpha: Tversky term: weight >= 0 of false positives.
        tversky_beta: Tversky term: weight >= 0 of false negatives.
        tversky_gamma: Tversky term: exponent >= 1 of its focal form.
        reduction: "mean", "sum" or "none".
        smooth_nr: Added to the overlap's numerator, >= 0.
        smooth_dr: Added to the overlap's denominator, >= 0.
        batch: Sum the overlap over the batch before dividing.
        gamma: Focal term: exponent >= 0, one number or one per channel.
        weight: Weight >= 0 in both terms, one number or one per channel.
        lambda_tversky: Weight >= 0 of the Tversky term.
        lambda_focal: Weight >= 0 of the focal term.
        alpha: Focal term: balance, one number or one per channel, or the record that
            `segfocal.statistics` derives.
        soft_label: Overlap min(p, t), for targets between 0 and 1.
        ignore_index: Label or labels whose voxels do not count, in either term.
        regions: Class indices that make up each channel.
        label_smoothing: Share in [0, 1) of each target that is spread over the classes.
        normalizer: What the focal mean divides by: "valid", "positives", "alpha" or "none".
        top_k: Per cent of the valid voxels that count, those with the largest loss.
        absent: For a class that the target does not hold: "smooth", "skip" or "penalise".
        process_group: Ranks that share the batch: a group, or "world".
        check_target: Check the target's values on every device, not on the CPU alone.
        focal_include_background: Whether channel 0 counts in the focal term; None is
            `include_background`.
        backend: "auto", or a name from `segfocal.ops.backends()`.

    Raises:
        ValueError: At construction or call, if an argument does not fit.

    Example:
        >>> import torch
        >>> loss = TverskyFocalLoss(
        ...     softmax=True, tversky_alpha=0.3, tversky_beta=0.7, ignore_index=255
        ... )
        >>> labels = torch.tensor([[[0, 1, 255]]], dtype=torch.uint8)
        >>> round(loss(torch.zeros(1, 2, 3), labels).item(), 4)
        0.6733
    """

    lambda_names = ("lambda_tversky", "lambda_focal")

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        *,
        tversky_alpha: float = 0.5,
        tversky_beta: float = 0.5,
        tversky_gamma: float = 1.0,
        reduction: Reduction = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        gamma: ClassNumbers = 2.0,
        weight: ClassNumbers | None = None,
        lambda_tversky: float = 1.0,
        lambda_focal: float = 1.0,
        alpha: Alpha | None = None,
        soft_label: bool = False,
        ignore_index: IgnoreIndex = None,
        regions: Regions = None,
        label_smoothing: float = 0.0,
        normalizer: Normalizer = "valid",
        top_k: float | None = None,
        absent: Absent = "smooth",
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
        self.tversky_alpha = tversky_alpha
        self.tversky_beta = tversky_beta
        self.tversky_gamma = tversky_gamma
        self.smooth_nr = smooth_nr
        self.smooth_dr = smooth_dr
        self.batch = batch
        self._hold_gamma(gamma)
        self.lambda_tversky = lambda_tversky
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
    ) -> TverskyFocalTerms:
        """The two terms before their lambdas, for a log; one pass, as `forward`."""
        return TverskyFocalTerms(*self._terms(input, target, mask, voxel_weight))

    def overlap_options(self) -> TverskyOptions:
        """The overlap term's arguments."""
        return TverskyOptions(
            alpha=self.tversky_alpha,
            beta=self.tversky_beta,
            gamma=self.tversky_gamma,
            weight=self.weight,
            include_background=self.include_background,
            soft_label=self.soft_label,
            batch=self.batch,
            smooth_nr=self.smooth_nr,
            smooth_dr=self.smooth_dr,
            absent=self.absent,
            reduction=self.reduction,
            process_group=self.process_group,
        )
