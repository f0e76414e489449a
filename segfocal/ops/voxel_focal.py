"""The per-voxel op, for `reduction="none"`: the focal loss before it is summed.

Shapes: B batch, C channels, S flattened voxels; BS is one number a voxel, BCS one per channel too.
"""

import torch
from torch import Tensor

from segfocal.checks import Activation, ClassNumbers, IgnoreIndex, Regions
from segfocal.ops import reference
from segfocal.ops.differentiable import make_differentiable
from segfocal.ops.elementwise import accumulation_dtype
from segfocal.ops.flat_arguments import flatten, make_formula, make_target
from segfocal.ops.target_values import check_values


def voxel_focal(
    logits: Tensor,
    target: Tensor,
    weights: Tensor,
    *,
    activation: Activation = "softmax",
    gamma: ClassNumbers = 2.0,
    label_smoothing: float = 0.0,
    ignore_index: IgnoreIndex = None,
    mask: Tensor | None = None,
    regions: Regions = None,
    check_target: bool = False,
) -> Tensor:
    """The weighted focal loss of every voxel and channel.

    Summed over its voxels it is `weights[0] * focal_pos + weights[1] * focal_neg` of `class_sums`,
    whose other arguments, validity and errors are the same.

    Args:
        logits: `(B, C, *S)`, floating point.
        target: As for `class_sums`.
        weights: `(2, C)` on the logits' device: the weight of each channel's positives, and of its
            negatives (unused under softmax).
        activation: "softmax" or "sigmoid".
        gamma: Focusing exponent >= 0, one number or one per channel.
        label_smoothing: Share of each voxel that is spread, as for `class_sums`.
        ignore_index: Label or labels whose voxels do not count.
        mask: Bool, True where a voxel counts, `(B, 1, *S)` or `(B, C, *S)`.
        regions: Class indices that make up each channel.
        check_target: Check the target's values on every device, not on the CPU alone.

    Returns:
        `(B, C, *S)`, float64 for float64 logits, else float32; 0 where a voxel does not count.
        Under softmax a voxel's loss stands in its own class's channel, that of each share in the
        share's.

    Raises:
        ValueError: As `class_sums`.
        RuntimeError: If the gradient is differentiated again.

    Example:
        >>> loss = voxel_focal(torch.zeros(1, 2, 1), torch.tensor([[1]]), torch.ones(2, 2), gamma=0)
        >>> [round(value, 4) for value in loss.flatten().tolist()]
        [0.0, 0.6931]
    """
    flat = flatten(
        logits,
        target,
        activation=activation,
        gamma=gamma,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        mask=mask,
        regions=regions,
        check_target=check_target,
    )
    tensors = flat.logits, flat.target, flat.mask, flat.class_gamma
    weights = weights.to(accumulation_dtype(logits))
    return _apply(*tensors, weights, *flat.settings).view(logits.shape)


@torch.library.custom_op("segfocal::voxel_focal", mutates_args=())
def _voxel_focal(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    class_gamma: Tensor | None,
    weights: Tensor,
    activation: str,
    gamma: float,
    label_smoothing: float,
    ignored: list[int],
    classes: list[int],
    class_counts: list[int],
    check_target: bool,
) -> Tensor:
    flat_target = make_target(target, mask, ignored, classes, class_counts)
    if check_target or logits.device.type == "cpu":
        check_values(flat_target, activation)
    formula = make_formula(activation, gamma, class_gamma, label_smoothing)
    return reference.voxel_focal(logits, flat_target, formula, weights)


@torch.library.custom_op("segfocal::voxel_focal_backward", mutates_args=())
def _voxel_focal_backward(
    upstream: Tensor,
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    class_gamma: Tensor | None,
    weights: Tensor,
    activation: str,
    gamma: float,
    label_smoothing: float,
    ignored: list[int],
    classes: list[int],
    class_counts: list[int],
    check_target: bool,  # noqa: ARG001 - one list of settings for both ops
) -> Tensor:
    flat_target = make_target(target, mask, ignored, classes, class_counts)
    formula = make_formula(activation, gamma, class_gamma, label_smoothing)
    return reference.voxel_focal_backward(upstream, logits, flat_target, formula, weights)


@_voxel_focal.register_fake
def _fake_voxel_focal(logits: Tensor, *_rest: object) -> Tensor:
    return torch.empty_like(logits, dtype=accumulation_dtype(logits))


@_voxel_focal_backward.register_fake
def _fake_voxel_focal_backward(_upstream: Tensor, logits: Tensor, *_rest: object) -> Tensor:
    return torch.empty_like(logits)


_apply = make_differentiable("voxel_focal", num_samples=3, num_tensors=5)
