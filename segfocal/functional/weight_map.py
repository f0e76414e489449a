"""A weight for each voxel, as far as the voxel counts."""

from __future__ import annotations

import torch
from torch import Tensor

from segfocal.functional.voxel_options import Voxels, valid_voxels
from segfocal.ops.differentiable import is_transformed
from segfocal.ops.elementwise import accumulation_dtype
from segfocal.ops.target_values import count_values


def counted_weights(voxels: Voxels, voxel_weight: Tensor) -> Tensor:
    """The weights where a voxel counts and 0 elsewhere, whatever stands there.

    Args:
        voxels: What the weights are for.
        voxel_weight: `(B, 1, *S)` or `(B, C, *S)`.

    Returns:
        `(B, 1, *S)`, or `(B, C, *S)` where the weights or the voxels that count differ by channel.

    Raises:
        ValueError: If a weight that counts is negative, infinite or NaN; found on the CPU always,
            elsewhere with `check_target`.
    """
    valid = valid_voxels(voxels)
    weights = voxel_weight.to(accumulation_dtype(voxels.logits))
    if valid is not None:
        weights = torch.where(valid, weights, 0)
    is_read = voxels.options.check_target or weights.device.type == "cpu"
    if is_read and not torch.compiler.is_compiling() and not is_transformed():
        _check_values(weights)
    return weights


def _check_values(weights: Tensor) -> None:
    wrong = weights[~((weights >= 0) & weights.isfinite())]
    if wrong.numel():
        raise ValueError(
            f"voxel_weight must be finite and >= 0 where a voxel counts: got "
            f"{count_values(wrong)}. Pass mask= for voxels that do not count."
        )
