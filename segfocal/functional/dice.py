"""Soft Dice and Jaccard loss for N-d volumes, softmax and sigmoid."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from segfocal import checks
from segfocal.checks import Activation, ClassNumbers, IgnoreIndex, Regions
from segfocal.functional.across_ranks import Group
from segfocal.functional.one_step import is_one_number, loss_in_one_step
from segfocal.functional.overlap import (
    Absent,
    Overlaps,
    check_overlap_options,
    overlaps,
    ratio_formula,
    reduce_classes,
    smallest_denominator,
    squared_target,
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


class DiceOptions(NamedTuple):
    """What a Dice term is; `dice_loss` explains each."""

    weight: ClassNumbers | None = None
    include_background: bool = True
    squared_pred: bool = False
    jaccard: bool = False
    soft_label: bool = False
    batch: bool = False
    smooth_nr: float = 1e-5
    smooth_dr: float = 1e-5
    absent: Absent = "smooth"
    reduction: Reduction = "mean"
    process_group: Group = None


def dice_loss(
    logits: Tensor,
    target: Tensor,
    *,
    activation: Activation = "softmax",
    weight: ClassNumbers | None = None,
    include_background: bool = True,
    squared_pred: bool = False,
    jaccard: bool = False,
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
    r"""Dice loss of each sample and class, averaged.

    With nothing ignored it is MONAI's `DiceLoss` on the same one-hot target.

    .. math:: D = 1 - \frac{2 \sum p t + s_{nr}}{\sum p + \sum t + s_{dr}}

    over the valid voxels; with `jaccard` the denominator is `2 (sum p + sum t - sum pt) + s_dr`.

    Args:
        logits: `(B, C, *S)`, floating point, any number of spatial axes, none included.
        target: Integer labels `(B, *S)` or `(B, 1, *S)`; or `(B, C, *S)`, 0 and 1 or shares
            between them. With shares the loss is linear in them, and smallest where p is 0 or 1,
            unless `soft_label` is set.
        activation: "softmax" or "sigmoid".
        weight: Weight >= 0 of each class; one number or `(C,)`. The mean is not divided by it.
        include_background: Whether channel 0 counts. Where it does not, the softmax still runs over
            all channels, and a sequence for weight may leave the background out.
        squared_pred: Sum p squared and t squared in the denominator in place of p and t.
        jaccard: Jaccard index in place of Dice.
        soft_label: Overlap min(p, t) = (p + t - |p - t|) / 2 in place of p t, so that the loss is
            smallest where p equals a target between 0 and 1. For targets of 0 and 1 the two are the
            same. Not with `squared_pred`, whose own form has that property already.
        batch: Sum over the batch before dividing: one Dice per class.
        smooth_nr: Added to the numerator, >= 0.
        smooth_dr: Added to the denominator, >= 0. A class that is neither there nor predicted has
            loss 0 where both are 0.
        absent: For a class that the target does not hold, "smooth" leaves its loss to the smoothing
            terms, "skip" leaves it out of the mean, and "penalise" gives it p / (p + v), with p the
            sum of its probabilities and v one hundredth of its valid voxels, or 1 where that is
            less: false positives cost about as much as those of a lesion of that size, where the
            smoothing terms let them cost 1 whether few or many.
        reduction: "mean", "sum", or "none" for a value per sample and class.
        ignore_index: Label or labels whose voxels do not count. Integer labels only.
        mask: Bool, True where a voxel counts, `(B, 1, *S)` or `(B, C, *S)`.
        regions: Class indices that make up each channel. Sigmoid and integer labels only.
        process_group: Ranks that share the batch: a group of `torch.distributed`, or "world". With
            `batch` it is one Dice over all of them. The gradient under `DistributedDataParallel` is
            that of one process with the whole batch.
        check_target: Check the target's values on every device, not on the CPU alone.
        backend: "auto", or a name from `segfocal.ops.backends()`.

    Returns:
        A scalar. A class without any valid voxel is not part of the mean; where nothing is left the
        loss is 0. For `reduction="none"` shape `(B, C, 1, ...)` with as many axes as the logits
        (`(1, C, 1, ...)` with `batch`), without the background channel where it is left out.

    Raises:
        ValueError: If shapes, dtypes, devices, options or the target's values do not fit.

    Reference:
        Milletari et al., V-Net, 2016, arXiv:1606.04797. `soft_label`: Wang et al., Dice Semimetric
        Losses, 2023, arXiv:2303.16296. `absent`: Tilborghs et al., The Dice Loss in the Context of
        Missing or Empty Labels, 2022, arXiv:2207.09521.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[[9.0, -9.0], [-9.0, 9.0]]])
        >>> round(dice_loss(logits, torch.tensor([[0, 1]])).item(), 4)
        0.0
        >>> round(dice_loss(logits, torch.tensor([[1, 1]])).item(), 4)
        0.6667
    """
    read = VoxelOptions(activation, ignore_index, regions, check_target, backend)
    options = DiceOptions(
        weight=checks.optional_class_numbers("weight", weight),
        include_background=include_background,
        squared_pred=squared_pred,
        jaccard=jaccard,
        soft_label=soft_label,
        batch=batch,
        smooth_nr=smooth_nr,
        smooth_dr=smooth_dr,
        absent=absent,
        reduction=reduction,
        process_group=process_group,
    )
    return dice_of_voxels(plain_voxels(logits, target, mask, read), options)


def dice_of_voxels(voxels: Voxels, options: DiceOptions) -> Tensor:
    """`dice_loss`, its arguments in records."""
    check_dice(voxels, options)
    summed = sum_voxels_together(voxels, soft_label=options.soft_label)
    formula = dice_formula(voxels, options)
    if formula is not None:
        loss = loss_in_one_step(summed, overlap=formula, overlap_weight=options.weight)
        if loss is not None:
            return loss.total
    return dice_of_sums(summed.fields, voxels, options)


def dice_formula(voxels: Voxels, options: DiceOptions, share: float = 1.0) -> OverlapFormula | None:
    """The term as numbers; None for what no formula of the sums can say."""
    if not is_one_number(options.reduction, options.process_group):
        return None
    if options.squared_pred and voxels.target.is_floating_point():
        return None  # the sum of t squared is not among the sums
    scale = 2.0 if options.jaccard else 1.0
    numbers = OverlapNumbers(
        share=share,
        of_overlap=2.0,
        of_tp=-2.0 if options.jaccard else 0.0,
        of_p=0.0 if options.squared_pred else scale,
        of_p_sq=scale if options.squared_pred else 0.0,
        of_t=scale,
        smooth_nr=options.smooth_nr,
        smooth_dr=options.smooth_dr,
        exponent=1.0,
    )
    return ratio_formula(numbers, options)


def check_dice_options(options: DiceOptions) -> None:
    """Refuse negative smoothing, unknown words and options that exclude each other.

    Raises:
        ValueError: Naming the argument.
    """
    check_overlap_options(options)
    if options.soft_label and options.squared_pred:
        raise ValueError(
            "soft_label and squared_pred are two remedies for one thing, targets between 0 and 1: "
            "got both. Set one of them."
        )


def check_dice(voxels: Voxels, options: DiceOptions) -> None:
    """Refuse options that do not fit each other or the voxels.

    Raises:
        ValueError: Naming the argument.
    """
    check_dice_options(options)
    check_class_options(
        voxels, weight=options.weight, include_background=options.include_background
    )


def dice_of_sums(sums: ClassSums, voxels: Voxels, options: DiceOptions) -> Tensor:
    """The Dice loss of a batch from its sums."""
    each = overlaps(sums, options)
    powers = each
    if options.squared_pred:
        powers = each._replace(p=each.p_sq, t=squared_target(sums, voxels, options))
    loss = reduce_classes(_class_losses(powers, options), each, options)
    return append_axes(loss, voxels.logits) if options.reduction == "none" else loss


def _class_losses(each: Overlaps, options: DiceOptions) -> Tensor:
    union = each.p + each.t
    if options.jaccard:
        union = 2 * (union - each.tp)
    denominator = union + options.smooth_dr
    numerator = 2 * each.tp + options.smooth_nr
    smallest = smallest_denominator(denominator.dtype)
    if options.smooth_dr >= smallest:
        return 1 - numerator / denominator
    empty = denominator < smallest
    return (1 - numerator / denominator.masked_fill(empty, 1)).masked_fill(empty, 0)
