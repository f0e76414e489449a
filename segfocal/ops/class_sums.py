"""The op behind every loss: sums over the valid voxels, for each sample and class.

Shapes: B batch, C channels, S flattened voxels; BS is one number a voxel, BCS one per channel too.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from segfocal.checks import Activation, ClassNumbers, IgnoreIndex, Overlap, Regions, check_word
from segfocal.ops.backend_choice import BACKENDS, choose_backend
from segfocal.ops.differentiable import make_differentiable
from segfocal.ops.elementwise import accumulation_dtype
from segfocal.ops.flat_arguments import flatten, make_formula, make_request, make_target
from segfocal.ops.target_values import check_values


class ClassSums(NamedTuple):
    """Sums over the valid voxels, `(B, C)` each: float64 for float64 logits, else float32.

    Attributes:
        focal_pos: Focal loss of the channel's positives, `(1 - p)^gamma * -log p`.
        focal_neg: Focal loss of its negatives, `p^gamma * -log(1 - p)`; 0 under softmax.
        tp: Sum of p over the positives; with `overlap="minimum"` of the lesser of p and t.
        p: Sum of p.
        p_sq: Sum of p squared.
        t: Number of positives.
        n_valid: Number of valid voxels.
    """

    focal_pos: Tensor
    focal_neg: Tensor
    tp: Tensor
    p: Tensor
    p_sq: Tensor
    t: Tensor
    n_valid: Tensor


def class_sums(
    logits: Tensor,
    target: Tensor,
    *,
    activation: Activation = "softmax",
    gamma: ClassNumbers = 2.0,
    label_smoothing: float = 0.0,
    overlap: Overlap = "product",
    ignore_index: IgnoreIndex = None,
    mask: Tensor | None = None,
    regions: Regions = None,
    check_target: bool = False,
    backend: str = "auto",
) -> ClassSums:
    """Sums of focal loss, probability and positives for each sample and channel.

    Differentiable with respect to the logits, once; `t` and `n_valid` are constants. A voxel that
    does not count is left out by selection: whatever its logits hold, NaN included, its gradient
    is 0.

    Args:
        logits: `(B, C, *S)`, floating point, any number of spatial axes, none included.
        target: Integer labels `(B, *S)` or `(B, 1, *S)`, any integer dtype; or one value per
            channel `(B, C, *S)`, 0 and 1 or a share between them. Under softmax the shares of a
            voxel sum to 1. With a single channel integer labels are 0 and 1.
        activation: "softmax" (channels exclude each other) or "sigmoid" (each its own question).
        gamma: Focusing exponent >= 0, one number or one per channel.
        label_smoothing: Share e in [0, 1) of each voxel that `focal_pos` and `focal_neg` spread.
            Under softmax class c gets (1 - e) t + e / C, as in `F.cross_entropy`; what would go to
            a class that is masked out is dropped. Under sigmoid t becomes (1 - e) t + e / 2. The
            other sums see the target as it is. A logit of minus infinity then costs infinity.
        overlap: What `tp` sums: the "product" p t, or the "minimum" of p and t, whose Dice is
            best at p = t (arXiv:2303.16296). They differ for targets with shares alone.
        ignore_index: Label or labels whose voxels do not count. Integer labels only.
        mask: Bool, True where a voxel counts, `(B, 1, *S)` or `(B, C, *S)`. A channel that is
            masked out gets no gradient there. Under softmax it also leaves the softmax there, and
            a voxel whose own class is masked out is left out of every channel.
        regions: Class indices that make up each channel, such as `((1, 2, 3), (2, 3), (3,))`.
            Sigmoid and integer labels only. A label in no region is a negative everywhere, as 0 is,
            if it is less than the highest that is in one; above that it is an error.
        check_target: Check the values inside the target on every device. On the CPU they are
            always checked; elsewhere the check waits for the device.
        backend: "auto", or a name from `segfocal.ops.backends()`.

    Returns:
        The sums. The same input gives the same bits on the same device.

    Raises:
        ValueError: If shapes, dtypes, devices or options do not fit, or a target's value is out of
            range and not ignored.
        RuntimeError: If the gradient is differentiated again.

    Example:
        >>> logits = torch.tensor([[[0.0, 0.0], [0.0, 100.0]]])
        >>> sums = class_sums(logits, torch.tensor([[0, 1]], dtype=torch.uint8))
        >>> sums.tp.tolist(), sums.t.tolist()
        ([[0.5, 1.0]], [[1.0, 1.0]])
    """
    sums, _chosen = sums_with_backend(
        logits,
        target,
        activation=activation,
        gamma=gamma,
        label_smoothing=label_smoothing,
        overlap=overlap,
        ignore_index=ignore_index,
        mask=mask,
        regions=regions,
        check_target=check_target,
        backend=backend,
    )
    return as_fields(sums)


def as_fields(sums: Tensor) -> ClassSums:
    """Sums `(B, 7, C)` by name; what does not depend on the logits is constant."""
    fields = ClassSums(*sums.unbind(1))
    return fields._replace(t=fields.t.detach(), n_valid=fields.n_valid.detach())


def sums_with_backend(
    logits: Tensor,
    target: Tensor,
    *,
    activation: Activation,
    gamma: ClassNumbers,
    label_smoothing: float,
    overlap: Overlap,
    ignore_index: IgnoreIndex,
    mask: Tensor | None,
    regions: Regions,
    check_target: bool,
    backend: str,
) -> tuple[Tensor, str]:
    """The sums of `class_sums` in one tensor `(B, 7, C)`, and the backend that computed them."""
    check_word("overlap", overlap, ("product", "minimum"))
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
    chosen = choose_backend(backend, make_request(flat, overlap))
    tensors = flat.logits, flat.target, flat.mask, flat.class_gamma
    return _apply(*tensors, *flat.settings, overlap, chosen), chosen


@torch.library.custom_op("segfocal::class_sums", mutates_args=())
def _class_sums(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    class_gamma: Tensor | None,
    activation: str,
    gamma: float,
    label_smoothing: float,
    ignored: list[int],
    classes: list[int],
    class_counts: list[int],
    check_target: bool,
    overlap: str,
    backend: str,
) -> Tensor:
    flat_target = make_target(target, mask, ignored, classes, class_counts)
    if check_target or logits.device.type == "cpu":
        check_values(flat_target, activation)
    formula = make_formula(activation, gamma, class_gamma, label_smoothing, overlap)
    return BACKENDS[backend].class_sums(logits, flat_target, formula)


@torch.library.custom_op("segfocal::class_sums_backward", mutates_args=())
def _class_sums_backward(
    upstream: Tensor,
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    class_gamma: Tensor | None,
    activation: str,
    gamma: float,
    label_smoothing: float,
    ignored: list[int],
    classes: list[int],
    class_counts: list[int],
    check_target: bool,  # noqa: ARG001 - one list of settings for both ops
    overlap: str,
    backend: str,
) -> Tensor:
    flat_target = make_target(target, mask, ignored, classes, class_counts)
    formula = make_formula(activation, gamma, class_gamma, label_smoothing, overlap)
    return BACKENDS[backend].class_sums_backward(upstream, logits, flat_target, formula)


@_class_sums.register_fake
def _fake_class_sums(logits: Tensor, *_rest: object) -> Tensor:
    shape = (logits.shape[0], len(ClassSums._fields), logits.shape[1])
    return logits.new_empty(shape, dtype=accumulation_dtype(logits))


@_class_sums_backward.register_fake
def _fake_class_sums_backward(_upstream: Tensor, logits: Tensor, *_rest: object) -> Tensor:
    return torch.empty_like(logits)


_apply = make_differentiable("class_sums", num_samples=3, num_tensors=4)
