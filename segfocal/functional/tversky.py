"""Tversky and focal Tversky loss for N-d volumes, softmax and sigmoid."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from segfocal import checks
from segfocal.checks import Activation, ClassNumbers, IgnoreIndex, Regions
from segfocal.functional.across_ranks import Group
from segfocal.functional.one_step import is_one_number, loss_in_one_step
from segfocal.functional.overlap import (
    Absent,
    check_overlap_options,
    overlaps,
    ratio_formula,
    reduce_classes,
    smallest_denominator,
)
from segfocal.functional.voxel_options import (
    Reduction,
    VoxelOptions,
    Voxels,
    append_axes,
    check_class_options,
    plain_voxels,
    sum_voxels_together,
)
from segfocal.ops.class_sums import ClassSums
from segfocal.ops.loss_formula import OverlapFormula, OverlapNumbers


class TverskyOptions(NamedTuple):
    """What a Tversky term is; `tversky_loss` explains each."""

    alpha: float = 0.5
    beta: float = 0.5
    gamma: float = 1.0
    weight: ClassNumbers | None = None
    include_background: bool = True
    soft_label: bool = False
    batch: bool = False
    smooth_nr: float = 1e-5
    smooth_dr: float = 1e-5
    absent: Absent = "smooth"
    reduction: Reduction = "mean"
    process_group: Group = None


def tversky_loss(
    logits: Tensor,
    target: Tensor,
    *,
    activation: Activation = "softmax",
    alpha: float = 0.5,
    beta: float = 0.5,
    gamma: float = 1.0,
    weight: ClassNumbers | None = None,
    include_background: bool = True,
    soft_label: bool = False,
    batch: bool = False,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    absent: Absent = "smooth",
    reduction: Reduction = "mean",
    ignore_index: IgnoreIndex = None,
    mask: Tensor | None = None,
    regions: Regions = None,
    process_group: Group = None,
    check_target: bool = False,
    backend: str = "auto",
) -> Tensor:
    r"""Tversky loss of each sample and class; with gamma above 1 the focal Tversky loss.

    With alpha = beta = 0.5 it is the Dice loss but for the smoothing (halve both terms), with
    alpha = beta = 1 the Jaccard loss. With gamma 1 it is MONAI's `TverskyLoss` on the same one-hot
    target.

    .. math::
        TI = \frac{tp + s_{nr}}{tp + \alpha\, fp + \beta\, fn + s_{dr}}, \quad
        L = (1 - TI)^{1 / \gamma}

    with tp = sum p t, fp = sum p (1 - t) and fn = sum (1 - p) t over the valid voxels.

    Args:
        logits: `(B, C, *S)`, floating point.
        target: As for `dice_loss`.
        activation: "softmax" or "sigmoid".
        alpha: Weight >= 0 of false positives. MONAI's meaning; Abraham and Khan's alpha is `beta`.
        beta: Weight >= 0 of false negatives; above alpha, a missed voxel costs more.
        gamma: Exponent >= 1: the focal Tversky loss raises each class's loss to 1 / gamma. The
            paper takes 4/3, with false negatives weighing 0.7 and false positives 0.3.
        weight: As for `dice_loss`.
        include_background: As for `dice_loss`.
        soft_label: As for `dice_loss`.
        batch: As for `dice_loss`.
        smooth_nr: As for `dice_loss`.
        smooth_dr: As for `dice_loss`.
        absent: As for `dice_loss`.
        reduction: As for `dice_loss`.
        ignore_index: Label or labels whose voxels do not count. Integer labels only.
        mask: Bool, True where a voxel counts, `(B, 1, *S)` or `(B, C, *S)`.
        regions: Class indices that make up each channel. Sigmoid and integer labels only.
        process_group: As for `dice_loss`.
        check_target: Check the target's values on every device, not on the CPU alone.
        backend: "auto", or a name from `segfocal.ops.backends()`.

    Returns:
        As `dice_loss`.

    Raises:
        ValueError: If shapes, dtypes, devices, options or the target's values do not fit.

    Reference:
        Salehi et al., Tversky Loss, 2017, arXiv:1706.05721. Abraham and Khan, A Novel Focal Tversky
        Loss, 2019, arXiv:1810.07842.

    Example:
        >>> logits = torch.zeros(1, 2, 4)
        >>> labels = torch.tensor([[0, 0, 0, 1]])
        >>> missed_is_worse = tversky_loss(logits, labels, alpha=0.3, beta=0.7)
        >>> round(missed_is_worse.item(), 4)
        0.5299
    """
    read = VoxelOptions(activation, ignore_index, regions, check_target, backend)
    options = TverskyOptions(
        alpha=alpha,
        beta=beta,
        gamma=gamma,
        weight=checks.optional_class_numbers("weight", weight),
        include_background=include_background,
        soft_label=soft_label,
        batch=batch,
        smooth_nr=smooth_nr,
        smooth_dr=smooth_dr,
        absent=absent,
        reduction=reduction,
        process_group=process_group,
    )
    return tversky_of_voxels(plain_voxels(logits, target, mask, read), options)


def tversky_of_voxels(voxels: Voxels, options: TverskyOptions) -> Tensor:
    """`tversky_loss`, its arguments in records."""
    check_tversky(voxels, options)
    summed = sum_voxels_together(voxels, soft_label=options.soft_label)
    formula = tversky_formula(options)
    if formula is not None:
        loss = loss_in_one_step(summed, overlap=formula, overlap_weight=options.weight)
        if loss is not None:
            return loss.total
    return tversky_of_sums(summed.fields, voxels, options)


def tversky_formula(options: TverskyOptions, share: float = 1.0) -> OverlapFormula | None:
    """The term as numbers; None for what no formula of the sums can say."""
    if not is_one_number(options.reduction, options.process_group):
        return None
    numbers = OverlapNumbers(
        share=share,
        of_overlap=1.0,
        of_tp=1 - options.alpha - options.beta,
        of_p=options.alpha,
        of_p_sq=0.0,
        of_t=options.beta,
        smooth_nr=options.smooth_nr,
        smooth_dr=options.smooth_dr,
        exponent=1 / options.gamma,
    )
    return ratio_formula(numbers, options)


def check_tversky_options(options: TverskyOptions) -> None:
    """Refuse numbers out of range and unknown words.

    Raises:
        ValueError: Naming the argument.
    """
    check_overlap_options(options)
    checks.check_non_negative("alpha", options.alpha)
    checks.check_non_negative("beta", options.beta)
    checks.check_non_negative("gamma", options.gamma)
    if options.gamma < 1:
        raise ValueError(
            f"gamma of a Tversky loss must be 1 or more: the loss is (1 - TI)^(1 / gamma). Got "
            f"{options.gamma:g}."
        )


def check_tversky(voxels: Voxels, options: TverskyOptions) -> None:
    """Refuse options that do not fit each other or the voxels.

    Raises:
        ValueError: Naming the argument.
    """
    check_tversky_options(options)
    check_class_options(
        voxels, weight=options.weight, include_background=options.include_background
    )


def tversky_of_sums(sums: ClassSums, voxels: Voxels, options: TverskyOptions) -> Tensor:
    """The Tversky loss of a batch from its sums."""
    each = overlaps(sums, options)
    index = tversky_index(
        each.tp,
        each.p - each.tp,
        each.t - each.tp,
        options.alpha,
        options.beta,
        options.smooth_nr,
        options.smooth_dr,
    )
    loss = reduce_classes(raised(1 - index, 1 / options.gamma), each, options)
    return append_axes(loss, voxels.logits) if options.reduction == "none" else loss


def tversky_index(
    tp: Tensor,
    fp: Tensor,
    fn: Tensor,
    alpha: float,
    beta: float,
    smooth_nr: float,
    smooth_dr: float,
) -> Tensor:
    """`(tp + smooth_nr) / (tp + alpha fp + beta fn + smooth_dr)`, and 1 for an empty class."""
    denominator = tp + alpha * fp + beta * fn + smooth_dr
    empty = denominator < smallest_denominator(denominator.dtype)
    return torch.where(empty, 1, (tp + smooth_nr) / torch.where(empty, 1, denominator))


def raised(loss: Tensor, exponent: float) -> Tensor:
    """`loss ** exponent` for an exponent up to 1, with gradient 0 where the loss is 0.

    There the slope would be infinite, and the gradient of a perfect class NaN. A smoothing term in
    the numerator alone can bring a loss below 0; it then counts as 0 too.
    """
    if exponent == 1:
        return loss
    positive = loss > torch.finfo(loss.dtype).eps
    return torch.where(positive, torch.where(positive, loss, 1) ** exponent, 0 * loss)
