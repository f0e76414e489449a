"""Focal loss for N-d volumes, softmax and sigmoid; with gamma 0 cross-entropy."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from segfocal import checks
from segfocal.checks import Activation, ClassNumbers, IgnoreIndex, Regions
from segfocal.functional.across_ranks import Group, check_group, sum_over_ranks
from segfocal.functional.class_weights import FocalWeights, focal_weights
from segfocal.functional.one_step import is_one_number, loss_in_one_step
from segfocal.functional.top_k import hardest
from segfocal.functional.voxel_options import (
    REDUCTIONS,
    Reduction,
    VoxelOptions,
    Voxels,
    append_axes,
    check_class_options,
    plain_voxels,
    safe_ratio,
    sum_voxels,
    sum_voxels_together,
    valid_voxels,
)
from segfocal.functional.weight_map import counted_weights
from segfocal.ops.class_sums import ClassSums
from segfocal.ops.elementwise import accumulation_dtype
from segfocal.ops.loss_formula import FocalFormula
from segfocal.ops.voxel_focal import voxel_focal

Normalizer = Literal["valid", "positives", "alpha", "none"]

NORMALIZERS = ("valid", "positives", "alpha", "none")


class FocalOptions(NamedTuple):
    """What a focal term is; `focal_loss` explains each. Holds for cross-entropy with gamma 0."""

    gamma: ClassNumbers = 2.0
    alpha: ClassNumbers | None = None
    weight: ClassNumbers | None = None
    include_background: bool = True
    label_smoothing: float = 0.0
    normalizer: Normalizer = "valid"
    top_k: float | None = None
    reduction: Reduction = "mean"
    process_group: Group = None

    @property
    def is_even(self) -> bool:
        """Whether every class weighs 1."""
        return self.alpha is None and self.weight is None


def focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    activation: Activation = "softmax",
    gamma: ClassNumbers = 2.0,
    alpha: ClassNumbers | None = None,
    weight: ClassNumbers | None = None,
    include_background: bool = True,
    label_smoothing: float = 0.0,
    normalizer: Normalizer = "valid",
    top_k: float | None = None,
    reduction: Reduction = "mean",
    ignore_index: IgnoreIndex = None,
    mask: Tensor | None = None,
    voxel_weight: Tensor | None = None,
    regions: Regions = None,
    process_group: Group = None,
    check_target: bool = False,
    backend: str = "auto",
) -> Tensor:
    r"""Focal loss.

    `focal_loss(logits, target, gamma=0)` is `F.cross_entropy(logits, target)`, and under
    `activation="sigmoid"` it is `F.binary_cross_entropy_with_logits`.

    .. math:: FL = -\alpha_y (1 - p_y)^\gamma \log p_y

    for softmax, with y the voxel's class; for sigmoid the same for each channel, with p_t = p for
    positives and 1 - p for negatives, weighted alpha and 1 - alpha.

    Args:
        logits: `(B, C, *S)`, floating point, any number of spatial axes, none included.
        target: Integer labels `(B, *S)` or `(B, 1, *S)`; or `(B, C, *S)`, 0 and 1 or shares
            between them, where the loss is the share-weighted sum of the classes' losses.
        activation: "softmax" or "sigmoid".
        gamma: Focusing exponent >= 0, one number or one per channel.
        alpha: Balance. One number in [0, 1]: under softmax class 0 weighs 1 - alpha and all others
            alpha, under sigmoid positives weigh alpha and negatives 1 - alpha. A sequence has one
            number per channel: any weight >= 0 under softmax, in [0, 1] under sigmoid.
        weight: Weight >= 0 of each channel, positives and negatives alike; one number or `(C,)`.
        include_background: Whether channel 0 counts. Where it does not, the softmax still runs over
            all channels, and a sequence for alpha or weight may leave the background out.
        label_smoothing: Share in [0, 1) of each voxel's target that is spread evenly over the
            classes, as `F.cross_entropy` does; under sigmoid over yes and no.
        normalizer: What the mean divides by: "valid" voxels (under sigmoid valid voxels of each
            channel, as a mean over all elements), "positives" (voxels of a class other than 0, or
            the channels' positives; at least 1), "alpha" (the sum of the weights of all terms, as
            `F.cross_entropy` with `weight` on labels), or "none" (1).
        top_k: Per cent of the valid voxels (sigmoid: of the valid elements), those with the largest
            loss over the whole batch, that count; None for all. Their mean divides by their number.
        reduction: "mean", "sum", or "none" for a value per voxel and channel.
        ignore_index: Label or labels whose voxels do not count. Integer labels only.
        mask: Bool, True where a voxel counts, `(B, 1, *S)` or `(B, C, *S)`.
        voxel_weight: Weight >= 0 of each voxel, `(B, 1, *S)` or `(B, C, *S)`; the mean is divided
            by it with `normalizer="alpha"` only. It gets no gradient, and what it holds where a
            voxel does not count has no say.
        regions: Class indices that make up each channel. Sigmoid and integer labels only.
        process_group: Ranks that share the batch: a group of `torch.distributed`, or "world". The
            gradient under `DistributedDataParallel` is then that of one process with all of it.
        check_target: Check the target's values on every device, not on the CPU alone.
        backend: "auto", or a name from `segfocal.ops.backends()`. Values per voxel (`voxel_weight`,
            `top_k`, `reduction="none"`) come from the reference formulas; no other name is taken
            with them.

    Returns:
        A scalar: 0 where nothing counts. For `reduction="none"` the weighted terms
        `(B, C, *S)`, without the background channel where it is left out; under softmax a voxel's
        loss stands in its own class's channel. float64 for float64 logits, else float32.

    Raises:
        ValueError: If shapes, dtypes, devices, options or the target's values do not fit.

    Reference:
        Lin et al., Focal Loss for Dense Object Detection, 2017, arXiv:1708.02002.

    Example:
        >>> logits = torch.tensor([[[2.0, 0.0], [0.0, 0.0]]])
        >>> labels = torch.tensor([[0, 255]], dtype=torch.uint8)
        >>> loss = focal_loss(logits, labels, gamma=0.0, ignore_index=255)
        >>> round(loss.item(), 4)
        0.1269
    """
    options = FocalOptions(
        gamma=gamma,
        alpha=checks.optional_class_numbers("alpha", alpha),
        weight=checks.optional_class_numbers("weight", weight),
        include_background=include_background,
        label_smoothing=label_smoothing,
        normalizer=normalizer,
        top_k=top_k,
        reduction=reduction,
        process_group=process_group,
    )
    read = VoxelOptions(activation, ignore_index, regions, check_target, backend)
    voxels = plain_voxels(logits, target, mask, read)
    return focal_of_voxels(voxels, options, checks.optional_plain("voxel_weight", voxel_weight))


def focal_of_voxels(
    voxels: Voxels, options: FocalOptions, voxel_weight: Tensor | None = None
) -> Tensor:
    """`focal_loss`, its arguments in records."""
    check_focal(voxels, options, voxel_weight)
    if needs_voxels(options, voxel_weight):
        named = voxels.options.backend
        checks.check_word("backend for values per voxel", named, ("auto", "reference"))
        return focal_per_voxel(voxels, options, voxel_weight)
    summed = sum_voxels_together(
        voxels, gamma=options.gamma, label_smoothing=options.label_smoothing
    )
    formula = focal_formula(voxels, options)
    if formula is not None:
        loss = loss_in_one_step(
            summed, focal=formula, alpha=options.alpha, focal_weight=options.weight
        )
        if loss is not None:
            return loss.total
    return focal_of_sums(summed.fields, voxels, options)


def focal_formula(voxels: Voxels, options: FocalOptions, share: float = 1.0) -> FocalFormula | None:
    """The term as numbers, where sums suffice; None for what no formula of them can say."""
    if not is_one_number(options.reduction, options.process_group):
        return None
    return FocalFormula(
        share=share,
        first=0 if options.include_background else 1,
        normalizer="none" if options.reduction == "sum" else options.normalizer,
        has_negatives=voxels.options.activation == "sigmoid",
    )


def check_focal_options(options: FocalOptions) -> None:
    """Refuse unknown words and numbers out of range, without any voxel.

    Raises:
        ValueError: Naming the argument.
    """
    checks.check_word("normalizer", options.normalizer, NORMALIZERS)
    checks.check_word("reduction", options.reduction, REDUCTIONS)
    checks.check_label_smoothing(options.label_smoothing)
    check_group(options.process_group)
    if options.top_k is None:
        return
    checks.check_number("top_k", options.top_k)
    if not 0 < options.top_k <= 100:
        raise ValueError(f"top_k must be a per cent in (0, 100]: got {options.top_k:g}.")
    if options.normalizer != "valid":
        raise ValueError(
            f"top_k divides by the number of voxels that it keeps: expected normalizer='valid', "
            f"got {options.normalizer!r}."
        )
    if options.reduction == "none":
        raise ValueError("top_k keeps some voxels: use reduction='mean' or 'sum', not 'none'.")
    if options.process_group is not None:
        raise ValueError("top_k chooses among the voxels of one process: leave process_group out.")


def check_focal_numbers(options: FocalOptions, activation: Activation) -> None:
    """`check_focal_options`, and the numbers of the classes.

    Raises:
        ValueError: Naming the argument.
    """
    checks.check_gamma(options.gamma)
    checks.check_alpha(options.alpha, activation)
    check_focal_options(options)


def check_focal(voxels: Voxels, options: FocalOptions, voxel_weight: Tensor | None) -> None:
    """Refuse options that do not fit each other or the voxels.

    Raises:
        ValueError: Naming the argument.
    """
    check_focal_options(options)
    check_class_options(
        voxels,
        alpha=options.alpha,
        weight=options.weight,
        include_background=options.include_background,
    )
    checks.check_voxel_weight(voxels.logits, voxel_weight)


def needs_voxels(options: FocalOptions, voxel_weight: Tensor | None) -> bool:
    """Whether sums per class do not suffice."""
    return voxel_weight is not None or options.top_k is not None or options.reduction == "none"


def focal_of_sums(sums: ClassSums, voxels: Voxels, options: FocalOptions) -> Tensor:
    """The focal loss of a batch from its sums, for "mean" and "sum"."""
    weights = _weights(voxels, options, sums.t)
    each = sums.focal_pos if options.is_even else sums.focal_pos * weights.positive
    if voxels.options.activation == "sigmoid":
        negatives = sums.focal_neg if options.is_even else sums.focal_neg * weights.negative
        each = each + negatives
    if not options.include_background:
        each = each[:, 1:]
    total = sum_over_ranks(each.sum(), options.process_group)
    if options.reduction == "sum" or options.normalizer == "none":
        return total
    return _mean(total, _count(sums, weights, voxels.options.activation, options), options)


def focal_per_voxel(voxels: Voxels, options: FocalOptions, voxel_weight: Tensor | None) -> Tensor:
    """The focal loss where single voxels matter: weight maps, top-k, `reduction="none"`."""
    first = 0 if options.include_background else 1
    weights = _weights(voxels, options, _scalar_beside(voxels.logits))
    if voxel_weight is not None:
        voxel_weight = counted_weights(voxels, voxel_weight)
    each = _weighed_terms(
        voxels, weights, gamma=options.gamma, label_smoothing=options.label_smoothing
    )
    if voxel_weight is not None:
        each = each * voxel_weight
    each = each[:, first:]
    if options.reduction == "none":
        return each
    if options.top_k is not None:
        total, count = _hardest(each, voxels, options.top_k, first)
    else:
        total = sum_over_ranks(each.sum(), options.process_group)
        count = _voxel_count(voxels, weights, options, voxel_weight)
    if options.reduction == "sum" or options.normalizer == "none":
        return total
    return _mean(total, count, options)


def _mean(total: Tensor, count: Tensor, options: FocalOptions) -> Tensor:
    count = sum_over_ranks(count, options.process_group)
    return safe_ratio(total, count.clamp(min=1) if options.normalizer == "positives" else count)


def _weights(voxels: Voxels, options: FocalOptions, like: Tensor) -> FocalWeights:
    return focal_weights(
        voxels.num_channels,
        like,
        activation=voxels.options.activation,
        alpha=options.alpha,
        weight=options.weight,
    )


def _scalar_beside(logits: Tensor) -> Tensor:
    """Of the dtype and device of the logits' losses; under vmap one for all, not one for each."""
    return torch.empty((), dtype=accumulation_dtype(logits), device=logits.device)


def _weighed_terms(
    voxels: Voxels, weights: FocalWeights, *, gamma: ClassNumbers, label_smoothing: float = 0.0
) -> Tensor:
    """The weighted loss of every voxel and channel, `(B, C, *S)`."""
    read = voxels.options

    def terms(positive: Tensor, negative: Tensor) -> Tensor:
        return voxel_focal(
            voxels.logits,
            voxels.target,
            torch.stack([positive, negative]),
            activation=read.activation,
            gamma=gamma,
            label_smoothing=label_smoothing,
            ignore_index=read.ignore_index,
            mask=voxels.mask,
            regions=read.regions,
            check_target=read.check_target,
        )

    positive, negative = weights
    if not (positive.requires_grad or negative.requires_grad):
        return terms(positive, negative)
    # the op has no gradient for its weights: those that learn are applied outside
    ones, zeros = torch.ones_like(positive), torch.zeros_like(positive)
    each = append_axes(positive, voxels.logits) * terms(ones, zeros)
    if read.activation == "sigmoid":
        each = each + append_axes(negative, voxels.logits) * terms(zeros, ones)
    return each


def _count(
    sums: ClassSums, weights: FocalWeights, activation: Activation, options: FocalOptions
) -> Tensor:
    """What the mean divides by."""
    first = 0 if options.include_background else 1
    if options.normalizer == "alpha":
        counts = sums.t * weights.positive
        if activation == "sigmoid":
            counts = counts + (sums.n_valid - sums.t) * weights.negative
        return counts[:, first:].sum()
    if options.normalizer == "positives":
        foreground = 1 if activation == "softmax" else first
        return sums.t[:, foreground:].sum()
    if activation == "softmax":
        return sums.t.sum()  # a voxel counts once: for its own class, whatever a mask leaves out
    return sums.n_valid[:, first:].sum()


def _voxel_count(
    voxels: Voxels, weights: FocalWeights, options: FocalOptions, voxel_weight: Tensor | None
) -> Tensor:
    if options.normalizer == "alpha" and voxel_weight is not None:
        first = 0 if options.include_background else 1
        return (_term_weights(voxels, weights) * voxel_weight)[:, first:].sum()
    with torch.no_grad():
        sums = sum_voxels(voxels)
    return _count(sums, weights, voxels.options.activation, options)


def _hardest(each: Tensor, voxels: Voxels, per_cent: float, first: int) -> tuple[Tensor, Tensor]:
    """Sum and number of the hardest voxels (softmax) or elements (sigmoid)."""
    counted = valid_voxels(voxels)
    if counted is None:
        counted = torch.ones_like(voxels.logits[:, :1], dtype=torch.bool)
    if voxels.options.activation == "softmax":
        return hardest(each.sum(1), counted.any(1), per_cent)
    return hardest(each, counted.expand(voxels.logits.shape)[:, first:], per_cent)


def _term_weights(voxels: Voxels, weights: FocalWeights) -> Tensor:
    """What each voxel's term is multiplied with, `(B, C, *S)`; 0 where it does not count.

    It is read off the loss of a probability of one half, which is log 2 in each channel.
    """
    if voxels.options.activation == "softmax":
        weights = weights._replace(negative=torch.zeros_like(weights.negative))
    even = voxels._replace(
        logits=torch.zeros_like(voxels.logits),
        options=voxels.options._replace(activation="sigmoid"),
    )
    return _weighed_terms(even, weights, gamma=0.0) / math.log(2)
