"""A loss made of its sums in one step, where the backend has a kernel for that."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from segfocal.checks import ClassNumbers
from segfocal.functional.across_ranks import Group
from segfocal.functional.voxel_options import Reduction, Summed
from segfocal.ops.differentiable import is_transformed
from segfocal.ops.elementwise import numbers_on
from segfocal.ops.loss_formula import (
    FocalFormula,
    Loss,
    LossFormula,
    OverlapFormula,
    TermWeights,
)
from segfocal.ops.loss_of_sums import fits, loss_of_sums


def is_one_number(reduction: Reduction, group: Group) -> bool:
    """Whether a term is a single number of this process's own: what a formula can say."""
    return reduction != "none" and (group is None or not dist.is_initialized())


def loss_in_one_step(
    summed: Summed,
    *,
    overlap: OverlapFormula | None = None,
    overlap_weight: ClassNumbers | None = None,
    focal: FocalFormula | None = None,
    alpha: ClassNumbers | None = None,
    focal_weight: ClassNumbers | None = None,
) -> Loss | None:
    """The loss of sums that the Triton backend has computed, in one kernel.

    Args:
        summed: The sums.
        overlap: The overlap term, if there is one.
        overlap_weight: Its weights.
        focal: The voxelwise term, if there is one.
        alpha: Its balance.
        focal_weight: Its weights.

    Returns:
        None where plain operations have to do it: after another backend, for more samples and
        classes than one program holds, where the weights learn, under a transform of `torch.func`;
        and under `torch.compile`, which joins plain operations itself.
    """
    sums, numbers = summed.values, (overlap_weight, alpha, focal_weight)
    if summed.backend != "triton" or torch.compiler.is_compiling() or is_transformed():
        return None
    if not fits(sums):
        return None
    if any(isinstance(given, Tensor) and given.requires_grad for given in numbers):
        return None
    weights = TermWeights(*(_on_device(given, sums) for given in numbers))
    return loss_of_sums(sums, LossFormula(overlap, focal), weights)


def _on_device(numbers: ClassNumbers | None, like: Tensor) -> Tensor | None:
    if numbers is None:
        return None
    if isinstance(numbers, Tensor):
        return numbers.to(like).contiguous()
    if isinstance(numbers, Sequence):
        return numbers_on(like.device, like.dtype, numbers)
    return like.new_full((), float(numbers))
