"""The op that makes a loss of a batch's sums in one step, with its slopes.

With plain operations and their autograd a Dice-focal loss starts some fifty kernels of a few
numbers each after the voxels have been summed. Here the slopes are written out beside the loss: one
kernel computes all of it, and the backward pass multiplies once.

The Triton backend alone has such a kernel. Elsewhere, and for what it does not know, a loss is made
by `segfocal.functional` in plain torch, which is also what the kernel is tested against.

Shapes: B batch, C channels.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segfocal.ops import triton_backend
from segfocal.ops.loss_formula import (
    FocalFormula,
    Loss,
    LossFormula,
    OverlapFormula,
    OverlapNumbers,
    TermWeights,
)

MOST_SUMS = 4096
"""Samples times channels, each rounded up to a power of two, that one program can hold."""


def fits(sums: Tensor) -> bool:
    """Whether sums `(B, 7, C)` are few enough for `loss_of_sums`."""
    num_samples, _fields, num_channels = sums.shape
    return 0 < _padded(num_samples) * _padded(num_channels) <= MOST_SUMS


def loss_of_sums(sums: Tensor, formula: LossFormula, weights: TermWeights) -> Loss:
    """The loss of a batch, differentiable with respect to the sums, once.

    Args:
        sums: `(B, 7, C)`, the fields of `ClassSums` along the second axis; `fits` tells how many at
            most. The last two, `t` and `n_valid`, get no gradient.
        formula: What to compute.
        weights: The classes' numbers, of the sums' dtype and on their device. They get no gradient.

    Returns:
        Scalars of the sums' dtype. The same sums give the same bits.
    """
    apply: Callable[..., tuple[Tensor, Tensor]] = _LossOfSums.apply
    total, terms = apply(sums, *weights, *flat_formula(formula))
    return Loss(total, *terms.unbind(0))


class FlatFormula(NamedTuple):
    """A formula as the op takes it, which costs the host less than a setting each.

    Attributes:
        numbers: What is a float, the overlap term's first; none of a term that is not there.
        choices: What is an integer or a bool, in the same order.
        absent: The overlap term's, "" for no such term.
        normalizer: The voxelwise term's, "" for no such term.
    """

    numbers: list[float]
    choices: list[int]
    absent: str
    normalizer: str


def flat_formula(formula: LossFormula) -> FlatFormula:
    """The formula in a few lists and words."""
    overlap, focal = formula
    numbers: list[float] = []
    choices: list[int] = []
    if overlap is not None:
        numbers += overlap.numbers
        choices += [overlap.first, overlap.over_batch, overlap.is_mean]
    if focal is not None:
        numbers.append(focal.share)
        choices += [focal.first, focal.has_negatives]
    absent = "" if overlap is None else overlap.absent
    return FlatFormula(numbers, choices, absent, "" if focal is None else focal.normalizer)


def whole_formula(flat: FlatFormula) -> LossFormula:
    """The formula that lists and words stand for."""
    overlap, focal = None, None
    if flat.absent:
        numbers = OverlapNumbers(*flat.numbers[: len(OverlapNumbers._fields)])
        first, over_batch, is_mean = flat.choices[:3]
        overlap = OverlapFormula(numbers, first, bool(over_batch), flat.absent, bool(is_mean))
    if flat.normalizer:
        first, has_negatives = flat.choices[-2:]
        focal = FocalFormula(flat.numbers[-1], first, flat.normalizer, bool(has_negatives))
    return LossFormula(overlap, focal)


@torch.library.custom_op("segfocal::loss_of_sums", mutates_args=())
def _loss_of_sums(
    sums: Tensor,
    overlap_weight: Tensor | None,
    alpha: Tensor | None,
    focal_weight: Tensor | None,
    numbers: list[float],
    choices: list[int],
    absent: str,
    normalizer: str,
) -> tuple[Tensor, Tensor, Tensor]:
    formula = whole_formula(FlatFormula(numbers, choices, absent, normalizer))
    weights = TermWeights(overlap_weight, alpha, focal_weight)
    return triton_backend.loss_of_sums(sums, formula, weights)


@_loss_of_sums.register_fake
def _fake_loss_of_sums(sums: Tensor, *_rest: object) -> tuple[Tensor, Tensor, Tensor]:
    return sums.new_empty(()), sums.new_empty(2), sums.new_empty(sums.shape)


class _LossOfSums(torch.autograd.Function):
    """The op with its gradient; a formula that the op carries would cost the host far more."""

    @staticmethod
    def forward(ctx: Any, sums: Tensor, *constants: Any) -> tuple[Tensor, Tensor]:
        total, terms, slopes = torch.ops.segfocal.loss_of_sums.default(sums, *constants)
        ctx.save_for_backward(slopes)
        ctx.mark_non_differentiable(terms)
        ctx.num_constants = len(constants)
        return total, terms

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        (slopes,) = ctx.saved_tensors
        return (slopes * upstream[0], *(None,) * ctx.num_constants)


def _padded(size: int) -> int:
    return 1 << (size - 1).bit_length() if size else 0
