"""An overlap loss plus focal loss or cross-entropy, both from one pass over the voxels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from segfocal import checks
from segfocal.checks import Activation, ClassNumbers, IgnoreIndex, Regions
from segfocal.functional.across_ranks import Group
from segfocal.functional.dice import DiceOptions, check_dice_options, dice_formula, dice_of_sums
from segfocal.functional.focal import (
    FocalOptions,
    Normalizer,
    check_focal,
    focal_formula,
    focal_of_sums,
    focal_per_voxel,
    needs_voxels,
)
from segfocal.functional.generalized_dice import (
    GeneralizedDiceOptions,
    check_generalized_dice_options,
    generalized_dice_of_sums,
)
from segfocal.functional.one_step import loss_in_one_step
from segfocal.functional.overlap import Absent
from segfocal.functional.tversky import (
    TverskyOptions,
    check_tversky_options,
    tversky_formula,
    tversky_of_sums,
)
from segfocal.functional.voxel_options import (
    Reduction,
    Summed,
    VoxelOptions,
    Voxels,
    check_class_options,
    plain_voxels,
    sum_voxels_together,
)
from segfocal.ops.class_sums import ClassSums
from segfocal.ops.loss_formula import Loss, OverlapFormula

OverlapTerm = DiceOptions | TverskyOptions | GeneralizedDiceOptions


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
    label_smoothing: float = 0.0,
    normalizer: Normalizer = "valid",
    top_k: float | None = None,
    squared_pred: bool = False,
    jaccard: bool = False,
    soft_label: bool = False,
    batch: bool = False,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    absent: Absent = "smooth",
    lambda_dice: float = 1.0,
    lambda_focal: float = 1.0,
    reduction: Reduction = "mean",
    ignore_index: IgnoreIndex = None,
    mask: Tensor | None = None,
    voxel_weight: Tensor | None = None,
    regions: Regions = None,
    process_group: Group = None,
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
        label_smoothing: Focal term, as for `focal_loss`.
        normalizer: Focal term: what its mean divides by, as for `focal_loss`.
        top_k: Focal term, as for `focal_loss`.
        squared_pred: Dice term, as for `dice_loss`.
        jaccard: Dice term, as for `dice_loss`.
        soft_label: Dice term, as for `dice_loss`.
        batch: Dice term, as for `dice_loss`.
        smooth_nr: Dice term, as for `dice_loss`.
        smooth_dr: Dice term, as for `dice_loss`.
        absent: Dice term, as for `dice_loss`.
        lambda_dice: Weight >= 0 of the Dice term; 0 leaves it out.
        lambda_focal: Weight >= 0 of the focal term; 0 leaves it out.
        reduction: "mean", "sum", or "none", where the Dice term is broadcast over the focal term's
            voxels. Where one term alone leaves out the background, it is 0 in that channel.
        ignore_index: Label or labels whose voxels do not count. Integer labels only.
        mask: Bool, True where a voxel counts, `(B, 1, *S)` or `(B, C, *S)`.
        voxel_weight: Focal term: weight of each voxel, as for `focal_loss`.
        regions: Class indices that make up each channel. Sigmoid and integer labels only.
        process_group: Both terms, as for `focal_loss` and `dice_loss`.
        check_target: Check the target's values on every device, not on the CPU alone.
        backend: "auto", or a name from `segfocal.ops.backends()`: what computes the sums. Where the
            focal term needs values per voxel (`voxel_weight`, `top_k`, `reduction="none"`), these
            come from the reference formulas whatever is named.

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
    check_lambdas((lambda_dice, lambda_focal), ("lambda_dice", "lambda_focal"))
    dice, focal = _options(
        gamma=gamma,
        alpha=alpha,
        weight=weight,
        include_background=include_background,
        focal_include_background=focal_include_background,
        label_smoothing=label_smoothing,
        normalizer=normalizer,
        top_k=top_k,
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
    read = VoxelOptions(activation, ignore_index, regions, check_target, backend)
    voxels = plain_voxels(logits, target, mask, read)
    shares = lambda_dice, lambda_focal
    voxel_weight = checks.optional_plain("voxel_weight", voxel_weight)
    return overlap_and_focal_loss(voxels, dice, focal, shares, voxel_weight).total


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
    label_smoothing: float = 0.0,
    normalizer: Normalizer = "valid",
    top_k: float | None = None,
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
    voxel_weight: Tensor | None = None,
    regions: Regions = None,
    process_group: Group = None,
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
    dice, focal = _options(
        gamma=gamma,
        alpha=alpha,
        weight=weight,
        include_background=include_background,
        focal_include_background=focal_include_background,
        label_smoothing=label_smoothing,
        normalizer=normalizer,
        top_k=top_k,
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
    read = VoxelOptions(activation, ignore_index, regions, check_target, backend)
    voxels = plain_voxels(logits, target, mask, read)
    voxel_weight = checks.optional_plain("voxel_weight", voxel_weight)
    return DiceFocalTerms(*overlap_and_focal(voxels, dice, focal, voxel_weight))


def overlap_and_focal(
    voxels: Voxels,
    overlap: OverlapTerm,
    focal: FocalOptions,
    voxel_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """An overlap term and a focal term, both of one pass unless single voxels matter.

    Raises:
        ValueError: If shapes, dtypes, devices, options or the target's values do not fit.
    """
    summed = _sums_of_both(voxels, overlap, focal, voxel_weight)
    return _terms_of_sums(summed, voxels, overlap, focal, voxel_weight)


def overlap_and_focal_loss(
    voxels: Voxels,
    overlap: OverlapTerm,
    focal: FocalOptions,
    shares: tuple[float, float],
    voxel_weight: Tensor | None = None,
) -> Loss:
    """The weighted sum of `overlap_and_focal`, with its terms for a log.

    Raises:
        ValueError: As `overlap_and_focal`.
    """
    summed = _sums_of_both(voxels, overlap, focal, voxel_weight)
    are_numbers = all(isinstance(share, float | int) for share in shares)
    if are_numbers and not needs_voxels(focal, voxel_weight):
        overlap_part = overlap_formula(voxels, overlap, shares[0])
        focal_part = focal_formula(voxels, focal, shares[1])
        if overlap_part is not None and focal_part is not None:
            loss = loss_in_one_step(
                summed,
                overlap=overlap_part,
                overlap_weight=overlap.weight,
                focal=focal_part,
                alpha=focal.alpha,
                focal_weight=focal.weight,
            )
            if loss is not None:
                return loss
    terms = _terms_of_sums(summed, voxels, overlap, focal, voxel_weight)
    in_one = _on_the_same_channels(*terms, overlap, focal)
    return Loss(weighted_sum(*in_one, *shares), *(term.detach() for term in terms))


def _on_the_same_channels(
    overlap_term: Tensor, focal_term: Tensor, overlap: OverlapTerm, focal: FocalOptions
) -> tuple[Tensor, Tensor]:
    """Under "none", the terms with a 0 for the background that one of them leaves out."""
    is_per_class = not isinstance(overlap, GeneralizedDiceOptions)
    if focal.reduction != "none" or not is_per_class:
        return overlap_term, focal_term
    if focal.include_background and not overlap.include_background:
        return _with_background(overlap_term), focal_term
    if overlap.include_background and not focal.include_background:
        return overlap_term, _with_background(focal_term)
    return overlap_term, focal_term


def _with_background(each: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(each[:, :1]), each], dim=1)


def _sums_of_both(
    voxels: Voxels, overlap: OverlapTerm, focal: FocalOptions, voxel_weight: Tensor | None
) -> Summed:
    check_overlap_term(overlap)
    check_class_options(
        voxels, weight=overlap.weight, include_background=overlap.include_background
    )
    check_focal(voxels, focal, voxel_weight)
    return sum_voxels_together(
        voxels,
        gamma=focal.gamma,
        label_smoothing=focal.label_smoothing,
        soft_label=overlap.soft_label,
    )


def _terms_of_sums(
    summed: Summed,
    voxels: Voxels,
    overlap: OverlapTerm,
    focal: FocalOptions,
    voxel_weight: Tensor | None,
) -> tuple[Tensor, Tensor]:
    sums = summed.fields
    term = overlap_of_sums(sums, voxels, overlap)
    if needs_voxels(focal, voxel_weight):
        return term, focal_per_voxel(voxels, focal, voxel_weight)
    return term, focal_of_sums(sums, voxels, focal)


def check_overlap_term(overlap: OverlapTerm) -> None:
    """Refuse options of an overlap term that are out of range, without any voxel.

    Raises:
        ValueError: Naming the argument.
    """
    if isinstance(overlap, DiceOptions):
        check_dice_options(overlap)
    elif isinstance(overlap, TverskyOptions):
        check_tversky_options(overlap)
    else:
        check_generalized_dice_options(overlap)


def overlap_of_sums(sums: ClassSums, voxels: Voxels, overlap: OverlapTerm) -> Tensor:
    """The overlap term of a batch from its sums."""
    if isinstance(overlap, DiceOptions):
        return dice_of_sums(sums, voxels, overlap)
    if isinstance(overlap, TverskyOptions):
        return tversky_of_sums(sums, voxels, overlap)
    return generalized_dice_of_sums(sums, voxels, overlap)


def overlap_formula(voxels: Voxels, overlap: OverlapTerm, share: float) -> OverlapFormula | None:
    """The overlap term as numbers; None for what no formula of the sums can say."""
    if isinstance(overlap, DiceOptions):
        return dice_formula(voxels, overlap, share)
    if isinstance(overlap, TverskyOptions):
        return tversky_formula(overlap, share)
    return None


def check_lambdas(lambdas: tuple[float, float], names: tuple[str, str]) -> None:
    """Refuse weights of two terms that are negative, infinite or NaN, or both 0.

    Raises:
        ValueError: Naming them.
    """
    for name, value in zip(names, lambdas, strict=True):
        checks.check_non_negative(name, value)
    if lambdas == (0, 0):
        raise ValueError(
            f"{names[0]} and {names[1]} are both 0, which leaves no loss. Give one a weight."
        )


def weighted_sum(
    overlap: Tensor, focal: Tensor, lambda_overlap: float | Tensor, lambda_focal: float | Tensor
) -> Tensor:
    """The loss that the terms make. A term of weight 0 is left out, even if it is infinite."""
    if isinstance(lambda_focal, float | int) and lambda_focal == 0:
        return _times(lambda_overlap, overlap)
    if isinstance(lambda_overlap, float | int) and lambda_overlap == 0:
        return _times(lambda_focal, focal)
    return _times(lambda_overlap, overlap) + _times(lambda_focal, focal)


def _times(factor: float | Tensor, term: Tensor) -> Tensor:
    return term if isinstance(factor, float | int) and factor == 1 else factor * term


def _options(
    *,
    gamma: ClassNumbers,
    alpha: ClassNumbers | None,
    weight: ClassNumbers | None,
    include_background: bool,
    focal_include_background: bool | None,
    label_smoothing: float,
    normalizer: Normalizer,
    top_k: float | None,
    squared_pred: bool,
    jaccard: bool,
    soft_label: bool,
    batch: bool,
    smooth_nr: float,
    smooth_dr: float,
    absent: Absent,
    reduction: Reduction,
    process_group: Group,
) -> tuple[DiceOptions, FocalOptions]:
    """The two terms of a Dice-focal loss from its arguments."""
    weight = checks.optional_class_numbers("weight", weight)
    dice = DiceOptions(
        weight=weight,
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
    focal = FocalOptions(
        gamma=gamma,
        alpha=checks.optional_class_numbers("alpha", alpha),
        weight=weight,
        include_background=(
            include_background if focal_include_background is None else focal_include_background
        ),
        label_smoothing=label_smoothing,
        normalizer=normalizer,
        top_k=top_k,
        reduction=reduction,
        process_group=process_group,
    )
    return dice, focal
