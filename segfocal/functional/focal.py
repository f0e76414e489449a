"""Focal loss for N-d volumes, softmax and sigmoid."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from segfocal import checks
from segfocal.checks import Activation, ClassNumbers, IgnoreIndex, Regions
from segfocal.functional.class_weights import FocalWeights, check_class_options, focal_weights
from segfocal.ops.class_sums import ClassSums, class_sums
from segfocal.ops.elementwise import accumulation_dtype
from segfocal.ops.voxel_focal import voxel_focal

Normalizer = Literal["valid", "positives", "alpha", "none"]
Reduction = Literal["mean", "sum", "none"]

NORMALIZERS = ("valid", "positives", "alpha", "none")
REDUCTIONS = ("mean", "sum", "none")


def focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    activation: Activation = "softmax",
    gamma: ClassNumbers = 2.0,
    alpha: ClassNumbers | None = None,
    weight: ClassNumbers | None = None,
    include_background: bool = True,
    normalizer: Normalizer = "valid",
    reduction: Reduction = "mean",
    ignore_index: IgnoreIndex = None,
    mask: Tensor | None = None,
    regions: Regions = None,
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
        normalizer: What the mean divides by: "valid" voxels (under sigmoid valid voxels of each
            channel, as a mean over all elements), "positives" (voxels of a class other than 0, or
            the channels' positives; at least 1), "alpha" (the sum of the weights of all terms, as
            `F.cross_entropy` with `weight`), or "none" (1).
        reduction: "mean", "sum", or "none" for a value per voxel and channel.
        ignore_index: Label or labels whose voxels do not count. Integer labels only.
        mask: Bool, True where a voxel counts, `(B, 1, *S)` or `(B, C, *S)`.
        regions: Class indices that make up each channel. Sigmoid and integer labels only.
        check_target: Check the target's values on every device, not on the CPU alone.
        backend: "auto", or a name from `segfocal.ops.backends()`.

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
    num_channels = checks.check_logits(logits, activation)
    check_focal_options(normalizer, reduction)
    check_class_options(
        num_channels,
        activation=activation,
        alpha=alpha,
        weight=weight,
        include_background=include_background,
        has_regions=regions is not None,
    )
    weights = focal_weights(
        num_channels,
        logits.detach().new_empty((), dtype=accumulation_dtype(logits)),
        activation=activation,
        alpha=alpha,
        weight=weight,
    )
    if reduction == "none":
        checks.check_word("backend for reduction='none'", backend, ("auto", "reference"))
        voxels = voxel_focal(
            logits,
            target,
            torch.stack(weights),
            activation=activation,
            gamma=gamma,
            ignore_index=ignore_index,
            mask=mask,
            regions=regions,
            check_target=check_target,
        )
        return voxels if include_background else voxels[:, 1:]
    sums = class_sums(
        logits,
        target,
        activation=activation,
        gamma=gamma,
        ignore_index=ignore_index,
        mask=mask,
        regions=regions,
        check_target=check_target,
        backend=backend,
    )
    return focal_from_sums(
        sums,
        weights,
        activation=activation,
        include_background=include_background,
        normalizer=normalizer,
        reduction=reduction,
    )


def check_focal_options(normalizer: str, reduction: str) -> None:
    """Refuse an unknown normaliser or reduction.

    Raises:
        ValueError: Listing the known ones.
    """
    checks.check_word("normalizer", normalizer, NORMALIZERS)
    checks.check_word("reduction", reduction, REDUCTIONS)


def focal_from_sums(
    sums: ClassSums,
    weights: FocalWeights,
    *,
    activation: Activation,
    include_background: bool,
    normalizer: Normalizer,
    reduction: Literal["mean", "sum"],
) -> Tensor:
    """The focal loss of a batch, from its sums `(B, C)`."""
    first = 0 if include_background else 1
    positives = sums.focal_pos[:, first:] * weights.positive[first:]
    negatives = sums.focal_neg[:, first:] * weights.negative[first:]
    total = (positives + negatives).sum()
    if reduction == "sum" or normalizer == "none":
        return total
    count = _count(sums, weights, activation, first, normalizer)
    return total / torch.where(count == 0, 1, count)


def _count(
    sums: ClassSums,
    weights: FocalWeights,
    activation: Activation,
    first: int,
    normalizer: Normalizer,
) -> Tensor:
    """What the mean divides by, with the channels from `first` on."""
    if normalizer == "alpha":
        counts = sums.t * weights.positive
        if activation == "sigmoid":
            counts = counts + (sums.n_valid - sums.t) * weights.negative
        return counts[:, first:].sum()
    if normalizer == "positives":
        foreground = 1 if activation == "softmax" else first
        return sums.t[:, foreground:].sum().clamp(min=1)
    if activation == "softmax":
        return sums.t.sum()  # a voxel counts once: for its own class, whatever a mask leaves out
    return sums.n_valid[:, first:].sum()
