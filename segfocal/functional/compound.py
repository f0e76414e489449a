"""Dice plus focal loss, both from one pass over the voxels."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from segfocal import checks
from segfocal.checks import Activation, ClassNumbers, IgnoreIndex, Regions
from segfocal.functional.class_weights import check_class_options, focal_weights
from segfocal.functional.dice import Absent, append_axes, check_dice_options, dice_from_sums
from segfocal.functional.focal import (
    Normalizer,
    Reduction,
    check_focal_options,
    focal_from_sums,
    focal_loss,
)
from segfocal.ops.class_sums import class_sums


class DiceFocalTerms(NamedTuple):
    """The two terms of a Dice-focal loss, before `lambda_dice` and `lambda_focal`."""

    dice: Tensor
    focal: Tensor


def dice_focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    activation: Activation = "softmax",
    gamma: ClassNumbers = 2.0,
    alpha: ClassNumbers | None = None,
    weight: ClassNumbers | None = None,
    include_background: bool = True,
    focal_include_background: bool | None = None,
    normalizer: Normalizer = "valid",
    squared_pred: bool = False,
    jaccard: bool = False,
    batch: bool = False,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    absent: Absent = "smooth",
    lambda_dice: float = 1.0,
    lambda_focal: float = 1.0,
    reduction: Reduction = "mean",
    ignore_index: IgnoreIndex = None,
    mask: Tensor | None = None,
    regions: Regions = None,
    check_target: bool = False,
    backend: str = "auto",
) -> Tensor:
    """`lambda_dice * dice_loss(...) + lambda_focal * focal_loss(...)`, in one pass.

    Both terms use the activation that was asked for and leave out the same voxels.

    Args:
        logits: `(B, C, *S)`, floating point.
        target: As for `focal_loss`.
        activation: "softmax" or "sigmoid", for both terms.
        gamma: Focal term: exponent, as for `focal_loss`.
        alpha: Focal term: balance, as for `focal_loss`.
        weight: Both terms: weight >= 0 of each channel.
        include_background: Both terms: whether channel 0 counts.
        focal_include_background: The focal term's own answer; None is `include_background`. A
            Dice term without the background beside a focal term over every voxel is
            `include_background=False, focal_include_background=True`.
        normalizer: Focal term: what its mean divides by, as for `focal_loss`.
        squared_pred: Dice term, as for `dice_loss`.
        jaccard: Dice term, as for `dice_loss`.
        batch: Dice term, as for `dice_loss`.
        smooth_nr: Dice term, as for `dice_loss`.
        smooth_dr: Dice term, as for `dice_loss`.
        absent: Dice term, as for `dice_loss`.
        lambda_dice: Weight >= 0 of the Dice term; 0 leaves it out.
        lambda_focal: Weight >= 0 of the focal term; 0 leaves it out.
        reduction: "mean", "sum", or "none", where the Dice term is broadcast over the focal term's
            voxels.
        ignore_index: Label or labels whose voxels do not count. Integer labels only.
        mask: Bool, True where a voxel counts, `(B, 1, *S)` or `(B, C, *S)`.
        regions: Class indices that make up each channel. Sigmoid and integer labels only.
        check_target: Check the target's values on every device, not on the CPU alone.
        backend: "auto", or a name from `segfocal.ops.backends()`.

    Returns:
        A scalar; `(B, C, *S)` for `reduction="none"`.

    Raises:
        ValueError: If shapes, dtypes, devices, options or the target's values do not fit.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[[9.0, -9.0], [-9.0, 9.0]]])
        >>> round(dice_focal_loss(logits, torch.tensor([[0, 1]])).item(), 4)
        0.0
    """
    check_lambdas(lambda_dice, lambda_focal)
    dice, focal = dice_focal_terms(
        logits,
        target,
        activation=activation,
        gamma=gamma,
        alpha=alpha,
        weight=weight,
        include_background=include_background,
        focal_include_background=focal_include_background,
        normalizer=normalizer,
        squared_pred=squared_pred,
        jaccard=jaccard,
        batch=batch,
        smooth_nr=smooth_nr,
        smooth_dr=smooth_dr,
        absent=absent,
        reduction=reduction,
        ignore_index=ignore_index,
        mask=mask,
        regions=regions,
        check_target=check_target,
        backend=backend,
    )
    return weighted_sum(DiceFocalTerms(dice, focal), lambda_dice, lambda_focal)


def dice_focal_terms(
    logits: Tensor,
    target: Tensor,
    *,
    activation: Activation = "softmax",
    gamma: ClassNumbers = 2.0,
    alpha: ClassNumbers | None = None,
    weight: ClassNumbers | None = None,
    include_background: bool = True,
    focal_include_background: bool | None = None,
    normalizer: Normalizer = "valid",
    squared_pred: bool = False,
    jaccard: bool = False,
    batch: bool = False,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    absent: Absent = "smooth",
    reduction: Reduction = "mean",
    ignore_index: IgnoreIndex = None,
    mask: Tensor | None = None,
    regions: Regions = None,
    check_target: bool = False,
    backend: str = "auto",
) -> DiceFocalTerms:
    """The terms of `dice_focal_loss`, for a log or a weighting of one's own.

    Takes the arguments of `dice_focal_loss` but for the two lambdas, and makes the same one pass.

    Returns:
        `(dice, focal)`: scalars; for `reduction="none"` shapes as `dice_loss` and `focal_loss`.

    Raises:
        ValueError: If shapes, dtypes, devices, options or the target's values do not fit.
    """
    num_channels = checks.check_logits(logits, activation)
    check_focal_options(normalizer, reduction)
    check_dice_options(smooth_nr, smooth_dr, absent, reduction)
    check_class_options(
        num_channels,
        activation=activation,
        alpha=alpha,
        weight=weight,
        include_background=include_background,
        has_regions=regions is not None,
    )
    focal_background = (
        include_background if focal_include_background is None else focal_include_background
    )
    if alpha is not None:
        checks.check_class_shape("alpha", alpha, num_channels, include_background=focal_background)
    sums = class_sums(
        logits,
        target,
        activation=activation,
        gamma=gamma,
        ignore_index=ignore_index,
        mask=mask,
        regions=regions,
        check_target=check_target,
        backend=backend,
    )
    dice = dice_from_sums(
        sums,
        weight=weight,
        include_background=include_background,
        squared_pred=squared_pred,
        jaccard=jaccard,
        batch=batch,
        smooth_nr=smooth_nr,
        smooth_dr=smooth_dr,
        absent=absent,
        reduction=reduction,
    )
    if reduction != "none":
        focal = focal_from_sums(
            sums,
            focal_weights(num_channels, sums.t, activation=activation, alpha=alpha, weight=weight),
            activation=activation,
            include_background=focal_background,
            normalizer=normalizer,
            reduction=reduction,
        )
        return DiceFocalTerms(dice, focal)
    focal = focal_loss(
        logits,
        target,
        activation=activation,
        gamma=gamma,
        alpha=alpha,
        weight=weight,
        include_background=focal_background,
        reduction="none",
        ignore_index=ignore_index,
        mask=mask,
        regions=regions,
        check_target=check_target,
        backend=backend,
    )
    return DiceFocalTerms(append_axes(dice, logits), focal)


def check_lambdas(lambda_dice: float, lambda_focal: float) -> None:
    """Refuse a term weight that is negative, infinite or NaN, or both 0.

    Raises:
        ValueError: Naming it.
    """
    checks.check_non_negative("lambda_dice", lambda_dice)
    checks.check_non_negative("lambda_focal", lambda_focal)
    if lambda_dice == 0 and lambda_focal == 0:
        raise ValueError(
            "lambda_dice and lambda_focal are both 0, which leaves no loss. Give one a weight."
        )


def weighted_sum(terms: DiceFocalTerms, lambda_dice: float, lambda_focal: float) -> Tensor:
    """The loss that the terms make. A term of weight 0 is left out, even if it is infinite."""
    if lambda_focal == 0:
        return lambda_dice * terms.dice
    if lambda_dice == 0:
        return lambda_focal * terms.focal
    return lambda_dice * terms.dice + lambda_focal * terms.focal
