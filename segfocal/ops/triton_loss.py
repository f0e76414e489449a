"""Starts the kernel of `triton_loss_kernels.py`: a loss from a batch's sums, in one program.

Shapes: B batch, C channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from segfocal.ops import triton_loss_kernels
from segfocal.ops.loss_formula import LossFormula, OverlapNumbers, TermWeights
from segfocal.ops.triton_launch import Launch

_LANES_A_WARP = 128
"""Numbers of a tile that one warp takes."""

_NO_NUMBERS = OverlapNumbers(*(0.0,) * len(OverlapNumbers._fields))


class LossForm(NamedTuple):
    """All that is compiled into the kernel.

    Attributes:
        has_overlap: Whether there is an overlap term.
        overlap_counts: Whether it is part of the loss.
        overlap_first: The first channel that counts in it.
        overlap_weight: Its weights: "none", "one", "class" or "foreground".
        over_batch: As in `OverlapFormula`.
        absent: As there.
        is_mean: As there.
        is_raised: Whether the exponent is not 1.
        has_focal: Whether there is a voxelwise term.
        focal_counts: Whether it is part of the loss.
        focal_first: The first channel that counts in it.
        focal_weight: Its weights, as above.
        alpha: Its balance, as above.
        normalizer: As in `FocalFormula`.
        has_negatives: As there.
        samples: Rows of the tile, a power of two.
        channels: Columns of the tile, a power of two.
        acc: Dtype of all arithmetic.
    """

    has_overlap: bool
    overlap_counts: bool
    overlap_first: int
    overlap_weight: str
    over_batch: bool
    absent: str
    is_mean: bool
    is_raised: bool
    has_focal: bool
    focal_counts: bool
    focal_first: int
    focal_weight: str
    alpha: str
    normalizer: str
    has_negatives: bool
    samples: int
    channels: int
    acc: tl.dtype


def loss_of_sums(
    sums: Tensor, formula: LossFormula, weights: TermWeights
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss `()`, its terms before their shares `(2,)`, and its slopes `(B, 7, C)`."""
    launch, outputs = loss_launch(sums, formula, weights)
    launch.run()
    return outputs


def loss_launch(
    sums: Tensor, formula: LossFormula, weights: TermWeights
) -> tuple[Launch, tuple[Tensor, Tensor, Tensor]]:
    """The kernel with all that it takes, and what it will write."""
    total, terms, slopes = sums.new_empty(()), sums.new_empty(2), sums.new_empty(sums.shape)
    num_samples, _fields, num_channels = sums.shape
    form = _make_form(sums, formula, weights)
    overlap, focal = formula
    arguments = {
        "sums": sums.contiguous(),
        "overlap_weight": weights.overlap,
        "alpha": weights.alpha,
        "focal_weight": weights.focal,
        "total": total,
        "terms": terms,
        "slopes": slopes,
        **(_NO_NUMBERS if overlap is None else overlap.numbers)._asdict(),
        "focal_share": 0.0 if focal is None else focal.share,
        "num_samples": num_samples,
        "num_channels": num_channels,
        "FORM": form,
    }
    num_warps = min(max(form.samples * form.channels // _LANES_A_WARP, 1), 16)
    kernel = triton_loss_kernels.loss_of_sums
    return Launch(kernel, 1, arguments, num_warps, sums.device), (total, terms, slopes)


def _make_form(sums: Tensor, formula: LossFormula, weights: TermWeights) -> LossForm:
    num_samples, _fields, num_channels = sums.shape
    overlap, focal = formula
    return LossForm(
        has_overlap=overlap is not None,
        overlap_counts=overlap is not None and overlap.numbers.share != 0,
        overlap_first=0 if overlap is None else overlap.first,
        overlap_weight=_kind(weights.overlap, num_channels),
        over_batch=overlap is not None and overlap.over_batch,
        absent="" if overlap is None else overlap.absent,
        is_mean=overlap is not None and overlap.is_mean,
        is_raised=overlap is not None and overlap.numbers.exponent != 1,
        has_focal=focal is not None,
        focal_counts=focal is not None and focal.share != 0,
        focal_first=0 if focal is None else focal.first,
        focal_weight=_kind(weights.focal, num_channels),
        alpha=_kind(weights.alpha, num_channels),
        normalizer="" if focal is None else focal.normalizer,
        has_negatives=focal is not None and focal.has_negatives,
        samples=triton.next_power_of_2(num_samples),
        channels=triton.next_power_of_2(num_channels),
        acc=tl.float64 if sums.dtype == torch.float64 else tl.float32,
    )


def _kind(numbers: Tensor | None, num_channels: int) -> str:
    if numbers is None:
        return "none"
    if numbers.ndim == 0:
        return "one"
    return "class" if numbers.shape[0] == num_channels else "foreground"
