"""Unified focal loss for N-d volumes: focal and focal Tversky from one pair of numbers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from segfocal import checks
from segfocal.checks import Activation, IgnoreIndex, Regions
from segfocal.functional.across_ranks import Group, sum_over_ranks
from segfocal.functional.overlap import Absent, Overlaps, overlaps, reduce_classes
from segfocal.functional.tversky import (
    TverskyOptions,
    check_tversky_options,
    raised,
    tversky_index,
)
from segfocal.functional.voxel_options import (
    VoxelOptions,
    Voxels,
    plain_voxels,
    safe_ratio,
    sum_voxels,
)
from segfocal.ops.class_sums import ClassSums
from segfocal.ops.elementwise import numbers_on


class UnifiedOptions(NamedTuple):
    """What a unified focal loss is; `unified_focal_loss` explains each."""

    asymmetric: bool = True
    weight: float = 0.5
    delta: float = 0.6
    gamma: float = 0.5
    batch: bool = False
    smooth_nr: float = 1e-5
    smooth_dr: float = 1e-5
    absent: Absent = "smooth"
    process_group: Group = None


class UnifiedTerms(NamedTuple):
    """The two terms, before `weight`."""

    focal: Tensor
    tversky: Tensor


def unified_focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    activation: Activation = "softmax",
    asymmetric: bool = True,
    weight: float = 0.5,
    delta: float = 0.6,
    gamma: float = 0.5,
    batch: bool = False,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    absent: Absent = "smooth",
    ignore_index: IgnoreIndex = None,
    mask: Tensor | None = None,
    regions: Regions = None,
    process_group: Group = None,
    check_target: bool = False,
    backend: str = "auto",
) -> Tensor:
    r"""Unified focal loss, from logits, for any number of classes.

    `weight * focal + (1 - weight) * tversky`, where class 0 is the background and all others are
    rare:

    .. math::
        focal = \frac{1}{N} \sum_v d_y (1 - p_y)^{g_y} (-\log p_y), \quad
        tversky = \frac{1}{C} \sum_c (1 - TI_c)^{h_c}

    with d = delta for rare classes and 1 - delta for the background, and TI the Tversky index that
    weighs false negatives delta and false positives 1 - delta. Symmetric: g = gamma and
    h = 1 - gamma for every class. Asymmetric: rare classes are not focused away (g = 0) and the
    background is not enhanced (h = 1). Under "sigmoid" each channel is a rare class against its own
    background.

    Args:
        logits: `(B, C, *S)`, floating point.
        target: As for `focal_loss`.
        activation: "softmax" or "sigmoid".
        asymmetric: Which of the two forms.
        weight: Share of the focal term, in [0, 1]; the paper's lambda.
        delta: Weight of rare classes and of false negatives, in [0, 1].
        gamma: In [0, 1): suppresses easy background in one term and enhances hard classes in the
            other.
        batch: As for `dice_loss`, in the Tversky term.
        smooth_nr: As for `dice_loss`, in the Tversky term.
        smooth_dr: As for `dice_loss`, in the Tversky term.
        absent: As for `dice_loss`, in the Tversky term.
        ignore_index: Label or labels whose voxels do not count. Integer labels only.
        mask: Bool, True where a voxel counts, `(B, 1, *S)` or `(B, C, *S)`.
        regions: Class indices that make up each channel. Sigmoid and integer labels only.
        process_group: As for `dice_loss`.
        check_target: Check the target's values on every device, not on the CPU alone.
        backend: "auto", or a name from `segfocal.ops.backends()`.

    Returns:
        A scalar: 0 where nothing counts.

    Raises:
        ValueError: If shapes, dtypes, devices, options or the target's values do not fit.

    Reference:
        Yeung et al., Unified Focal Loss, 2022, arXiv:2102.04525. The exponents are those of the
        authors' code; the paper's symmetric form has them the other way round, which is the same
        at its gamma of 0.5.

    Example:
        >>> logits = torch.tensor([[[9.0, -9.0], [-9.0, 9.0]]])
        >>> round(unified_focal_loss(logits, torch.tensor([[0, 1]])).item(), 4)
        0.0
    """
    read = VoxelOptions(activation, ignore_index, regions, check_target, backend)
    options = UnifiedOptions(
        asymmetric=asymmetric,
        weight=weight,
        delta=delta,
        gamma=gamma,
        batch=batch,
        smooth_nr=smooth_nr,
        smooth_dr=smooth_dr,
        absent=absent,
        process_group=process_group,
    )
    terms = unified_terms(plain_voxels(logits, target, mask, read), options)
    return weight * terms.focal + (1 - weight) * terms.tversky


def check_unified_options(options: UnifiedOptions) -> None:
    """Refuse numbers out of range and unknown words.

    Raises:
        ValueError: Naming the argument.
    """
    for name, value in (("weight", options.weight), ("delta", options.delta)):
        checks.check_number(name, value)
        if not 0 <= value <= 1:
            raise ValueError(f"{name} of a unified focal loss must be in [0, 1]: got {value:g}.")
    checks.check_number("gamma", options.gamma)
    if not 0 <= options.gamma < 1:
        raise ValueError(
            f"gamma of a unified focal loss must be in [0, 1): got {options.gamma:g}. It is the "
            f"focal loss's exponent and 1 minus the Tversky loss's."
        )
    check_tversky_options(_tversky_options(options))


def unified_terms(voxels: Voxels, options: UnifiedOptions) -> UnifiedTerms:
    """The terms of `unified_focal_loss`, its arguments in records."""
    check_unified_options(options)
    checks.check_logits(voxels.logits, voxels.options.activation)
    of_activation = _softmax if voxels.options.activation == "softmax" else _sigmoid
    return of_activation(voxels, options)


def _softmax(voxels: Voxels, options: UnifiedOptions) -> UnifiedTerms:
    rare = voxels.num_channels - 1
    sums = sum_voxels(voxels, gamma=[options.gamma, *[_rare_gamma(options)] * rare])
    each_delta = [1 - options.delta, *[options.delta] * rare]
    delta = numbers_on(sums.t.device, sums.t.dtype, each_delta)
    focal = _mean((sums.focal_pos * delta).sum(), sums.t.sum(), options)
    each = overlaps(sums, _tversky_options(options))
    losses = _tversky(each, options)
    background = losses[:, :1] if options.asymmetric else _enhanced(losses[:, :1], options)
    losses = torch.cat([background, _enhanced(losses[:, 1:], options)], 1)
    return UnifiedTerms(focal, reduce_classes(losses, each, _tversky_options(options)))


def _sigmoid(voxels: Voxels, options: UnifiedOptions) -> UnifiedTerms:
    sums = sum_voxels(voxels, gamma=options.gamma)
    positive = sum_voxels(voxels, gamma=0.0) if options.asymmetric else sums
    each_side = options.delta * positive.focal_pos + (1 - options.delta) * sums.focal_neg
    focal = _mean(each_side.sum(), sums.n_valid.sum(), options)
    both = [_side(sums, options, rare=rare) for rare in (True, False)]
    return UnifiedTerms(focal, torch.stack(both).mean())


def _side(sums: ClassSums, options: UnifiedOptions, *, rare: bool) -> Tensor:
    """The Tversky term of each channel, or of each channel's background."""
    read = _tversky_options(options)
    each = overlaps(sums, read)
    if not rare:
        outside = each.n_valid - each.t
        correct = outside - each.p + each.tp
        each = each._replace(tp=correct, p=each.n_valid - each.p, t=outside)
    losses = _tversky(each, options)
    if rare or not options.asymmetric:
        losses = _enhanced(losses, options)
    return reduce_classes(losses, each, read)


def _tversky(each: Overlaps, options: UnifiedOptions) -> Tensor:
    """`1 - TI` of each class."""
    return 1 - tversky_index(
        each.tp,
        each.p - each.tp,
        each.t - each.tp,
        1 - options.delta,
        options.delta,
        options.smooth_nr,
        options.smooth_dr,
    )


def _enhanced(losses: Tensor, options: UnifiedOptions) -> Tensor:
    return raised(losses, 1 - options.gamma)


def _rare_gamma(options: UnifiedOptions) -> float:
    return 0.0 if options.asymmetric else options.gamma


def _mean(total: Tensor, count: Tensor, options: UnifiedOptions) -> Tensor:
    group = options.process_group
    return safe_ratio(sum_over_ranks(total, group), sum_over_ranks(count, group))


def _tversky_options(options: UnifiedOptions) -> TverskyOptions:
    return TverskyOptions(
        alpha=1 - options.delta,
        beta=options.delta,
        batch=options.batch,
        smooth_nr=options.smooth_nr,
        smooth_dr=options.smooth_dr,
        absent=options.absent,
        process_group=options.process_group,
    )
