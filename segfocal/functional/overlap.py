"""What Dice, Tversky and their kin share: sums of a batch, absent classes, the mean over classes.

A loss of this kind is a ratio of sums for each sample and class. What a class that is absent from
the target costs, which classes are part of a mean, and what batch and ranks mean is said here once.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from segfocal import checks
from segfocal.checks import ClassNumbers
from segfocal.functional.across_ranks import Group, check_group, sum_over_ranks
from segfocal.functional.class_weights import per_channel
from segfocal.functional.voxel_options import REDUCTIONS, Reduction, Voxels, safe_ratio
from segfocal.ops.class_sums import ClassSums
from segfocal.ops.loss_formula import OverlapFormula, OverlapNumbers

Absent = Literal["smooth", "skip", "penalise"]

ABSENT = ("smooth", "skip", "penalise")

EXPECTED_SHARE = 0.01
"""Share of the valid voxels that an absent class is held against under "penalise"."""


class OverlapOptions(Protocol):
    """What every loss of this kind takes."""

    @property
    def weight(self) -> ClassNumbers | None: ...  # noqa: D102 - see `dice_loss`
    @property
    def include_background(self) -> bool: ...  # noqa: D102
    @property
    def batch(self) -> bool: ...  # noqa: D102
    @property
    def smooth_nr(self) -> float: ...  # noqa: D102
    @property
    def smooth_dr(self) -> float: ...  # noqa: D102
    @property
    def absent(self) -> Absent: ...  # noqa: D102
    @property
    def reduction(self) -> Reduction: ...  # noqa: D102
    @property
    def process_group(self) -> Group: ...  # noqa: D102


class Overlaps(NamedTuple):
    """The sums of the classes that count, `(B, C)` or, over a batch, `(1, C)`.

    Attributes:
        tp: Overlap of prediction and target.
        p: Sum of p.
        p_sq: Sum of p squared.
        t: Positives.
        n_valid: Valid voxels.
    """

    tp: Tensor
    p: Tensor
    p_sq: Tensor
    t: Tensor
    n_valid: Tensor


def check_overlap_options(options: OverlapOptions) -> None:
    """Refuse negative smoothing and unknown words.

    Raises:
        ValueError: Naming the argument.
    """
    checks.check_non_negative("smooth_nr", options.smooth_nr)
    checks.check_non_negative("smooth_dr", options.smooth_dr)
    checks.check_word("absent", options.absent, ABSENT)
    checks.check_word("reduction", options.reduction, REDUCTIONS)
    check_group(options.process_group)


def overlaps(sums: ClassSums, options: OverlapOptions) -> Overlaps:
    """The sums that count, over batch and ranks where that is asked for."""
    if options.include_background and not options.batch:
        return Overlaps(sums.tp, sums.p, sums.p_sq, sums.t, sums.n_valid)
    fields = torch.stack([sums.tp, sums.p, sums.p_sq, sums.t, sums.n_valid])
    return Overlaps(*_counted(fields, options).unbind(0))


def ratio_formula(numbers: OverlapNumbers, options: OverlapOptions) -> OverlapFormula:
    """A ratio of sums and what is to be made of it, as `reduce_classes` does."""
    return OverlapFormula(
        numbers,
        first=0 if options.include_background else 1,
        over_batch=options.batch,
        absent=options.absent,
        is_mean=options.reduction == "mean",
    )


def smallest_denominator(dtype: torch.dtype) -> float:
    """A class whose denominator is below this is neither there nor predicted.

    The slope 1 / denominator of a smaller one is infinite in the dtype, or becomes so by a weight,
    and times the 0 of a voxel that is no positive it would be NaN.
    """
    limits = torch.finfo(dtype)
    return limits.tiny / limits.eps


def squared_target(sums: ClassSums, voxels: Voxels, options: OverlapOptions) -> Tensor:
    """Sum of t squared, shaped as the fields of `overlaps`. What is 0 or 1 is its own square."""
    target, mask = voxels.target, voxels.mask
    if not target.is_floating_point():
        return _counted(sums.t, options)
    squares = target.detach().to(sums.t.dtype).square()
    if mask is not None:
        squares = torch.where(_valid(target, mask, voxels.options.activation), squares, 0)
    return _counted(squares.flatten(2).sum(-1) if squares.ndim > 2 else squares, options)


def reduce_classes(loss: Tensor, each: Overlaps, options: OverlapOptions) -> Tensor:
    """Absent classes, class weights and the reduction.

    Args:
        loss: Of each sample and class that counts, shaped as the fields of `each`.
        each: Their sums.
        options: What to do with them.

    Returns:
        A scalar; for "none" the shape of `loss`.
    """
    counted = each.n_valid > 0
    if options.absent == "skip":
        counted = counted & (each.t > 0)
    elif options.absent == "penalise":
        expected = (EXPECTED_SHARE * each.n_valid).clamp(min=1)
        loss = torch.where(each.t > 0, loss, each.p / (each.p + expected))
    loss = loss.masked_fill(~counted, 0)
    if options.weight is not None:
        first = 0 if options.include_background else 1
        loss = loss * per_channel(options.weight, loss.shape[1] + first, loss)[first:]
    if options.reduction == "none":
        return loss
    # over a batch that all ranks share, every rank holds the same classes already
    group = None if options.batch else options.process_group
    total = sum_over_ranks(loss.sum(), group)
    if options.reduction == "sum":
        return total
    return safe_ratio(total, sum_over_ranks(counted.sum().to(total.dtype), group))


def _counted(fields: Tensor, options: OverlapOptions) -> Tensor:
    """`(..., B, C)` without a background that does not count, summed over batch and ranks."""
    if not options.include_background:
        fields = fields[..., 1:]
    if not options.batch:
        return fields
    return sum_over_ranks(fields.sum(-2, keepdim=True), options.process_group)


def _valid(target: Tensor, mask: Tensor, activation: str) -> Tensor:
    """Where a soft target counts, as `segfocal.ops.flat_target.validity` reads the mask."""
    if activation == "softmax" and mask.shape[1] > 1:
        mask = mask & ((target == 0) | mask).all(1, keepdim=True)
    return mask
