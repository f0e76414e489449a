"""One-vs-rest focal loss: many classes as so many yes-or-no questions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from segfocal import checks
from segfocal.checks import ClassNumbers, IgnoreIndex
from segfocal.functional.class_weights import focal_weights, per_channel
from segfocal.functional.focal import FocalOptions, check_focal, focal_of_voxels
from segfocal.functional.voxel_options import (
    Reduction,
    VoxelOptions,
    Voxels,
    flatten_voxels,
    plain_voxels,
    safe_ratio,
    sum_voxels,
)
from segfocal.ops.elementwise import accumulation_dtype
from segfocal.ops.flat_target import membership, validity


def one_vs_rest_focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: ClassNumbers = 2.0,
    alpha: ClassNumbers | None = 0.25,
    p_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    ignore_index: IgnoreIndex = None,
    mask: Tensor | None = None,
    check_target: bool = False,
    backend: str = "auto",
) -> Tensor:
    r"""Binary focal loss of every class against all others.

    Each voxel is a positive of its own class and a negative of every other, so the C channels need
    not exclude each other. Without smoothing it is `focal_loss(..., activation="sigmoid")` on
    integer labels. With it,

    .. math:: FL = -\alpha_t (1 - \tilde p_t)^\gamma \log p_t, \quad
        \tilde p_t = p_t (1 - s) + s / 2

    Published code smooths p so that gamma < 1 does not divide by 0. Here that needs no smoothing;
    what is left of it is a floor under the weight of easy voxels.

    Args:
        logits: `(B, C, *S)`, floating point.
        target: Integer labels `(B, *S)` or `(B, 1, *S)`, any integer dtype, C >= 2.
        gamma: Focusing exponent >= 0, one number or `(C,)`.
        alpha: Weight of positives in [0, 1], negatives weigh 1 - alpha; one number or `(C,)`. None
            for 1 and 1.
        p_smoothing: s in [0, 1). Above 0 the loss is plain torch, which holds a few tensors of the
            logits' size.
        reduction: "mean" over the elements of valid voxels, "sum", or "none" for `(B, C, *S)`.
        ignore_index: Label or labels whose voxels do not count.
        mask: Bool, True where a voxel counts, `(B, 1, *S)` or `(B, C, *S)`.
        check_target: Check the labels on every device, not on the CPU alone.
        backend: "auto", or a name from `segfocal.ops.backends()`.

    Returns:
        A scalar: 0 where nothing counts; `(B, C, *S)` for `reduction="none"`. float64 for float64
        logits, else float32.

    Raises:
        ValueError: If shapes, dtypes, devices, options or the labels do not fit.

    Example:
        >>> loss = one_vs_rest_focal_loss(torch.zeros(1, 3, 2), torch.tensor([[0, 2]]), alpha=None)
        >>> round(loss.item(), 4)
        0.1733
    """
    check_p_smoothing(p_smoothing)
    gamma = checks.class_numbers("gamma", gamma)
    alpha = checks.optional_class_numbers("alpha", alpha)
    read = VoxelOptions("sigmoid", ignore_index, None, check_target, backend)
    voxels = plain_voxels(logits, target, mask, read)
    logits, target = voxels.logits, voxels.target
    if checks.check_logits(logits, "sigmoid") < 2:
        raise ValueError(
            f"one-vs-rest needs two classes or more: got logits of shape {tuple(logits.shape)}."
        )
    if checks.check_target(logits, target) != "labels":
        raise ValueError(
            f"one-vs-rest takes integer labels: got a target of shape {tuple(target.shape)}. Use "
            f"focal_loss(activation='sigmoid') for one value per channel."
        )
    options = FocalOptions(gamma=gamma, alpha=alpha, reduction=reduction)
    if p_smoothing == 0:
        return focal_of_voxels(voxels, options)
    check_focal(voxels, options, None)
    with torch.no_grad():
        count = sum_voxels(voxels).n_valid.sum()
    each = _smoothed(voxels, options, p_smoothing)
    if reduction == "none":
        return each
    return each.sum() if reduction == "sum" else safe_ratio(each.sum(), count)


def check_p_smoothing(p_smoothing: float) -> None:
    """Refuse a smoothing outside [0, 1).

    Raises:
        ValueError: If it is, or is no number.
    """
    checks.check_number("p_smoothing", p_smoothing)
    if not 0 <= p_smoothing < 1:
        raise ValueError(f"p_smoothing must be in [0, 1): got {p_smoothing:g}.")


def _smoothed(voxels: Voxels, options: FocalOptions, p_smoothing: float) -> Tensor:
    """The loss of every element, 0 where it does not count."""
    flat = flatten_voxels(voxels)
    logits, target = flat.logits.to(accumulation_dtype(flat.logits)), flat.flat_target
    num_channels = voxels.num_channels
    positive = torch.stack([membership(target, c) for c in range(num_channels)], dim=1)
    valid = validity(target, exclusive=False).each
    towards = torch.where(positive, logits, -logits)
    if valid is not None:
        towards = torch.where(valid, towards, 0)
    wrong = (-towards).sigmoid() * (1 - p_smoothing) + p_smoothing / 2
    like = logits.detach()
    weights = focal_weights(
        num_channels, like, activation="sigmoid", alpha=options.alpha, weight=None
    )
    weight = torch.where(positive, weights.positive[:, None], weights.negative[:, None])
    gamma = per_channel(options.gamma, num_channels, like)[:, None]
    each = -weight * wrong**gamma * F.logsigmoid(towards)
    each = each if valid is None else torch.where(valid, each, 0)
    return each.view(voxels.logits.shape)
