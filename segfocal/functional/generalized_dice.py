"""Generalized Dice loss for N-d volumes, softmax and sigmoid."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from segfocal import checks
from segfocal.checks import Activation, ClassNumbers, IgnoreIndex, Regions
from segfocal.functional.across_ranks import Group, sum_over_ranks
from segfocal.functional.class_weights import is_single, per_channel
from segfocal.functional.overlap import Absent, Overlaps, check_overlap_options, overlaps
from segfocal.functional.voxel_options import (
    Reduction,
    VoxelOptions,
    Voxels,
    append_axes,
    check_class_options,
    plain_voxels,
    safe_ratio,
    sum_voxels,
)
from segfocal.ops.class_sums import ClassSums

VolumeWeight = Literal["square", "simple", "uniform"]

VOLUME_WEIGHTS = ("square", "simple", "uniform")


class GeneralizedDiceOptions(NamedTuple):
    """What a Generalized Dice term is; `generalized_dice_loss` explains each."""

    w_type: VolumeWeight = "square"
    weight: ClassNumbers | None = None
    include_background: bool = True
    soft_label: bool = False
    batch: bool = False
    smooth_nr: float = 1e-5
    smooth_dr: float = 1e-5
    absent: Absent = "penalise"
    reduction: Reduction = "mean"
    process_group: Group = None


def generalized_dice_loss(
    logits: Tensor,
    target: Tensor,
    *,
    activation: Activation = "softmax",
    w_type: VolumeWeight = "square",
    weight: ClassNumbers | None = None,
    include_background: bool = True,
    soft_label: bool = False,
    batch: bool = False,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    absent: Absent = "penalise",
    reduction: Reduction = "mean",
    ignore_index: IgnoreIndex = None,
    mask: Tensor | None = None,
    regions: Regions = None,
    process_group: Group = None,
    check_target: bool = False,
    backend: str = "auto",
) -> Tensor:
    r"""Generalized Dice loss: one Dice over all classes, each weighed by its volume.

    With nothing ignored, no smoothing and a class in every sample it is MONAI's
    `GeneralizedDiceLoss` on the same one-hot target. The weights are relative to that of the rarest
    class, so that the smoothing terms are in voxels of it: beside MONAI's 1 / t^2 of a large
    volume, 1e-5 is not small.

    .. math::
        D = 1 - \frac{2 \sum_c w_c \sum p t + s_{nr}}{\sum_c w_c \sum (p + t) + s_{dr}}, \quad
        w_c \propto 1 / (\sum t)^2

    Args:
        logits: `(B, C, *S)`, floating point.
        target: As for `dice_loss`.
        activation: "softmax" or "sigmoid".
        w_type: Weight of a class of t voxels: "square" 1 / t^2, "simple" 1 / t, "uniform" 1.
        weight: Factor >= 0 of each class on top of that, `(C,)`. One number for all would cancel.
        include_background: As for `dice_loss`.
        soft_label: As for `dice_loss`.
        batch: Weights and sums over the batch in place of each sample.
        smooth_nr: Added to the numerator, >= 0.
        smooth_dr: Added to the denominator, >= 0.
        absent: A class without positives has no volume: "penalise" weighs it as the rarest class
            that is there (as MONAI does), "skip" leaves it out. "smooth" has no meaning here.
        reduction: "mean" over the samples, "sum", or "none" for a value per sample.
        ignore_index: Label or labels whose voxels do not count. Integer labels only.
        mask: Bool, True where a voxel counts, `(B, 1, *S)` or `(B, C, *S)`.
        regions: Class indices that make up each channel. Sigmoid and integer labels only.
        process_group: As for `dice_loss`.
        check_target: Check the target's values on every device, not on the CPU alone.
        backend: "auto", or a name from `segfocal.ops.backends()`.

    Returns:
        A scalar. A sample without valid voxels or without any class is not part of the mean; where
        nothing is left the loss is 0. For `reduction="none"` shape `(B, 1, 1, ...)`.

    Raises:
        ValueError: If shapes, dtypes, devices, options or the target's values do not fit.

    Reference:
        Sudre et al., Generalised Dice Overlap, 2017, arXiv:1707.03237.

    Example:
        >>> logits = torch.tensor([[[9.0, -9.0], [-9.0, 9.0]]])
        >>> round(generalized_dice_loss(logits, torch.tensor([[0, 1]])).item(), 4)
        0.0
    """
    read = VoxelOptions(activation, ignore_index, regions, check_target, backend)
    options = GeneralizedDiceOptions(
        w_type=w_type,
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
    return generalized_dice_of_voxels(plain_voxels(logits, target, mask, read), options)


def generalized_dice_of_voxels(voxels: Voxels, options: GeneralizedDiceOptions) -> Tensor:
    """`generalized_dice_loss`, its arguments in records."""
    check_generalized_dice(voxels, options)
    sums = sum_voxels(voxels, soft_label=options.soft_label)
    return generalized_dice_of_sums(sums, voxels, options)


def check_generalized_dice_options(options: GeneralizedDiceOptions) -> None:
    """Refuse numbers out of range and unknown words.

    Raises:
        ValueError: Naming the argument.
    """
    checks.check_word("w_type", options.w_type, VOLUME_WEIGHTS)
    checks.check_word("absent of a generalized Dice", options.absent, ("penalise", "skip"))
    check_overlap_options(options)


def check_volume_factors(weight: ClassNumbers | None) -> None:
    """Refuse one number for all classes, which changes nothing.

    Raises:
        ValueError: If it is one.
    """
    if is_single(weight):
        raise ValueError(
            "weight of a generalized Dice loss must be one number per class: one for all of them "
            "cancels. Leave it out."
        )


def check_generalized_dice(voxels: Voxels, options: GeneralizedDiceOptions) -> None:
    """Refuse options that do not fit each other or the voxels.

    Raises:
        ValueError: Naming the argument.
    """
    check_generalized_dice_options(options)
    check_volume_factors(options.weight)
    check_class_options(
        voxels, weight=options.weight, include_background=options.include_background
    )


def generalized_dice_of_sums(
    sums: ClassSums, voxels: Voxels, options: GeneralizedDiceOptions
) -> Tensor:
    """The generalized Dice loss of a batch from its sums."""
    each = overlaps(sums, options)
    volume_weight = _volume_weights(each, options)
    numerator = 2 * (volume_weight * each.tp).sum(1, keepdim=True) + options.smooth_nr
    denominator = (volume_weight * (each.p + each.t)).sum(1, keepdim=True) + options.smooth_dr
    counted = (volume_weight > 0).any(1, keepdim=True) & (denominator != 0)  # NaN counts
    loss = torch.where(counted, 1 - safe_ratio(numerator, denominator), 0)
    if options.reduction == "none":
        return append_axes(loss, voxels.logits)
    group = None if options.batch else options.process_group
    total = sum_over_ranks(loss.sum(), group)
    if options.reduction == "sum":
        return total
    return safe_ratio(total, sum_over_ranks(counted.sum().to(total.dtype), group))


def _volume_weights(each: Overlaps, options: GeneralizedDiceOptions) -> Tensor:
    """Weight of each class, shaped as the sums; 0 where a class does not count."""
    there = each.t > 0
    volume = torch.where(there, each.t, 1)
    power = {"square": 2, "simple": 1, "uniform": 0}[options.w_type]
    weights = torch.where(there, volume**-power, 0)
    if options.absent == "penalise":
        rarest = weights.amax(1, keepdim=True)
        weights = torch.where(there | (each.n_valid == 0), weights, rarest)
    if options.weight is not None:
        first = 0 if options.include_background else 1
        weights = weights * per_channel(options.weight, weights.shape[1] + first, weights)[first:]
    return safe_ratio(weights, weights.amax(1, keepdim=True))
