"""Soft Dice and Jaccard loss for N-d volumes, softmax and sigmoid."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from segfocal import checks
from segfocal.checks import Activation, ClassNumbers, IgnoreIndex, Regions
from segfocal.functional.class_weights import check_class_options, per_channel
from segfocal.functional.focal import REDUCTIONS, Reduction
from segfocal.ops.class_sums import ClassSums, class_sums

Absent = Literal["smooth", "skip"]

ABSENT = ("smooth", "skip")


def dice_loss(
    logits: Tensor,
    target: Tensor,
    *,
    activation: Activation = "softmax",
    weight: ClassNumbers | None = None,
    include_background: bool = True,
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
) -> Tensor:
    r"""Dice loss of each sample and class, averaged.

    With nothing ignored it is MONAI's `DiceLoss` on the same one-hot target.

    .. math:: D = 1 - \frac{2 \sum p t + s_{nr}}{\sum p + \sum t + s_{dr}}

    over the valid voxels; with `jaccard` the denominator is `2 (sum p + sum t - sum pt) + s_dr`.

    Args:
        logits: `(B, C, *S)`, floating point, any number of spatial axes, none included.
        target: Integer labels `(B, *S)` or `(B, 1, *S)`; or `(B, C, *S)`, 0 and 1 or shares
            between them. With shares the loss is linear in them, and smallest where p is 0 or 1.
        activation: "softmax" or "sigmoid".
        weight: Weight >= 0 of each class; one number or `(C,)`. The mean is not divided by it.
        include_background: Whether channel 0 counts. Where it does not, the softmax still runs over
            all channels, and a sequence for weight may leave the background out.
        squared_pred: Sum p squared in the denominator in place of p; t, 0 or 1, is its own square.
        jaccard: Jaccard index in place of Dice.
        batch: Sum over the batch before dividing: one Dice per class.
        smooth_nr: Added to the numerator, >= 0.
        smooth_dr: Added to the denominator, >= 0. A class that is neither there nor predicted has
            loss 0 where both are 0.
        absent: For a class that the target does not hold, "smooth" leaves its loss to the smoothing
            terms, "skip" leaves it out of the mean.
        reduction: "mean", "sum", or "none" for a value per sample and class.
        ignore_index: Label or labels whose voxels do not count. Integer labels only.
        mask: Bool, True where a voxel counts, `(B, 1, *S)` or `(B, C, *S)`.
        regions: Class indices that make up each channel. Sigmoid and integer labels only.
        check_target: Check the target's values on every device, not on the CPU alone.
        backend: "auto", or a name from `segfocal.ops.backends()`.

    Returns:
        A scalar. A class without any valid voxel is not part of the mean; where nothing is left the
        loss is 0. For `reduction="none"` shape `(B, C, 1, ...)` with as many axes as the logits
        (`(1, C, 1, ...)` with `batch`), without the background channel where it is left out.

    Raises:
        ValueError: If shapes, dtypes, devices, options or the target's values do not fit.

    Reference:
        Milletari et al., V-Net, 2016, arXiv:1606.04797.

    Example:
        >>> logits = torch.tensor([[[9.0, -9.0], [-9.0, 9.0]]])
        >>> round(dice_loss(logits, torch.tensor([[0, 1]])).item(), 4)
        0.0
        >>> round(dice_loss(logits, torch.tensor([[1, 1]])).item(), 4)
        0.6667
    """
    num_channels = checks.check_logits(logits, activation)
    check_dice_options(smooth_nr, smooth_dr, absent, reduction)
    check_class_options(
        num_channels,
        activation=activation,
        weight=weight,
        include_background=include_background,
        has_regions=regions is not None,
    )
    sums = class_sums(
        logits,
        target,
        activation=activation,
        gamma=0.0,
        ignore_index=ignore_index,
        mask=mask,
        regions=regions,
        check_target=check_target,
        backend=backend,
    )
    loss = dice_from_sums(
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
    return append_axes(loss, logits) if reduction == "none" else loss


def check_dice_options(smooth_nr: float, smooth_dr: float, absent: str, reduction: str) -> None:
    """Refuse negative smoothing and unknown words.

    Raises:
        ValueError: Naming the argument.
    """
    checks.check_non_negative("smooth_nr", smooth_nr)
    checks.check_non_negative("smooth_dr", smooth_dr)
    checks.check_word("absent", absent, ABSENT)
    checks.check_word("reduction", reduction, REDUCTIONS)


def dice_from_sums(
    sums: ClassSums,
    *,
    weight: ClassNumbers | None,
    include_background: bool,
    squared_pred: bool,
    jaccard: bool,
    batch: bool,
    smooth_nr: float,
    smooth_dr: float,
    absent: Absent,
    reduction: Reduction,
) -> Tensor:
    """The Dice loss of a batch, from its sums `(B, C)`; for "none" `(B, C)` or `(1, C)`."""
    num_channels = sums.t.shape[1]
    first = 0 if include_background else 1
    tp, p, p_sq, t, n_valid = (
        field[:, first:].sum(0, keepdim=True) if batch else field[:, first:]
        for field in (sums.tp, sums.p, sums.p_sq, sums.t, sums.n_valid)
    )
    predicted = p_sq if squared_pred else p
    union = 2 * (predicted + t - tp) if jaccard else predicted + t
    denominator = union + smooth_dr
    empty = denominator == 0
    loss = 1 - (2 * tp + smooth_nr) / torch.where(empty, 1, denominator)
    counted = n_valid > 0
    if absent == "skip":
        counted = counted & (t > 0)
    loss = torch.where(counted & ~empty, loss, 0)
    if weight is not None:
        loss = loss * per_channel(weight, num_channels, loss)[first:]
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    return loss.sum() / counted.sum().clamp(min=1)


def append_axes(loss: Tensor, logits: Tensor) -> Tensor:
    """`(B, C)` as `(B, C, 1, ...)`, which broadcasts against the logits."""
    return loss.view(*loss.shape, *(1,) * (logits.ndim - 2))
