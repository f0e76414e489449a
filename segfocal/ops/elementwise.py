"""The formulas of one voxel and channel, for tensors of any shape. README.md derives them.

Names: p the probability of a channel, q = 1 - p, nll = -log p.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from segfocal.ops.formula import Formula

Gamma = float | Tensor


class Upstream(NamedTuple):
    """Gradient of the loss with respect to each differentiable sum, or to each voxel."""

    focal_pos: Tensor
    focal_neg: Tensor
    tp: Tensor
    p: Tensor
    p_sq: Tensor


class Channel(NamedTuple):
    """What the logits say, finite but for `z`.

    `z` is the logit, less the largest one under softmax; `q` is 1 - p without its cancellation.
    """

    z: Tensor
    p: Tensor
    q: Tensor


class Sides(NamedTuple):
    """Weight of each voxel among a channel's positives and negatives; 0 if not valid.

    `valid` is their sum, None where that is 1 everywhere; `is_hard` tells that all are 0 or 1.
    """

    positive: Tensor
    negative: Tensor
    valid: Tensor | None
    is_hard: bool


def accumulation_dtype(logits: Tensor) -> torch.dtype:
    """float64 for float64 logits, float32 for all others."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def numbers_on(device: torch.device, dtype: torch.dtype, numbers: Sequence[float]) -> Tensor:
    """Numbers as a tensor on a device. A GPU takes them up in its own time; nobody waits."""
    if device.type != "cuda" or torch.compiler.is_compiling():
        return torch.tensor(numbers, dtype=dtype, device=device)
    return torch.tensor(numbers, dtype=dtype, pin_memory=True).to(device, non_blocking=True)


def sides_of(belongs: Tensor, inside: Tensor | None, dtype: torch.dtype) -> Sides:
    """The sides of voxels, from their membership in the channel and their validity."""
    is_hard = not belongs.is_floating_point()
    positive = as_weight(belongs, dtype)
    if inside is None:
        return Sides(positive, 1 - positive, None, is_hard)
    valid = as_weight(inside, dtype)
    positive = positive * valid if is_hard else torch.where(inside, positive, 0)
    return Sides(positive, valid - positive, valid, is_hard)


def smoothed(sides: Sides, formula: Formula, num_channels: int) -> Sides:
    """The sides as the focal fields see them: each valid voxel leaves a part to every side.

    Under softmax the sides are those of different channels, and the negatives mean nothing.
    """
    if formula.label_smoothing == 0:
        return sides
    kept, floor = 1 - formula.label_smoothing, formula.smoothing_floor(num_channels)
    spread = floor if sides.valid is None else floor * sides.valid
    positive, negative = kept * sides.positive + spread, kept * sides.negative + spread
    return Sides(positive, negative, sides.valid, is_hard=False)


def softmax_steepness(at: Channel, log_total: Tensor, gamma: Gamma) -> Tensor:
    """A in dFL_c/dz_j = -A (delta_cj - p_j): q^gamma (1 + gamma p nll / q).

    p nll / q tends to 1 as q does to 0, and `tiny` decides nothing else.
    """
    tiny = torch.finfo(at.p.dtype).tiny
    ratio = (_times_nll(at.p, log_total - at.z) + tiny) / (at.q + tiny)
    return at.q.pow(gamma) * (1 + gamma * ratio)


def binary_focal(x: Tensor, gamma: Gamma) -> Tensor:
    """(1 - p)^gamma * -log p with p = sigmoid(x)."""
    return (-x).sigmoid().pow(gamma) * -F.logsigmoid(x)


def binary_steepness(x: Tensor, gamma: Gamma) -> Tensor:
    """A in d(focal)/dx = -A: q^gamma (q + gamma p nll), with p = sigmoid(x)."""
    q = (-x).sigmoid()
    return q.pow(gamma) * (q + gamma * _times_nll(x.sigmoid(), -F.logsigmoid(x)))


def on_each_side(
    term: Callable[[Tensor, Gamma], Tensor], z: Tensor, sides: Sides, gamma: Gamma
) -> tuple[Tensor, Tensor]:
    """The weighted term at z for positives and at -z for negatives; at once where none is both."""
    if sides.is_hard:
        at_positive = at_negative = term(z * (2 * sides.positive - 1), gamma)
    else:
        at_positive, at_negative = term(z, gamma), term(-z, gamma)
    return weigh(at_positive, sides.positive, sides), weigh(at_negative, sides.negative, sides)


def overlap(formula: Formula, at: Channel, sides: Sides) -> Tensor:
    """What `tp` sums. For hard sides the minimum of p and t is their product."""
    if formula.overlap == "product" or sides.is_hard:
        return at.p * sides.positive
    return torch.minimum(at.p, sides.positive)


def p_slope(formula: Formula, upstream: Upstream, at: Channel, sides: Sides) -> Tensor:
    """Product of p and the gradient with respect to p, as far as `tp`, `p` and `p_sq` go."""
    worth = upstream.p + 2 * upstream.p_sq * at.p
    worth = worth if sides.valid is None else worth * sides.valid
    return at.p * (worth + upstream.tp * _overlap_slope(formula, at, sides))


def weigh(values: Tensor, weight: Tensor, sides: Sides) -> Tensor:
    """`values * weight`, and 0 where the weight is 0 even if the value there is infinite."""
    weighted = values if sides.is_hard else values * weight
    return torch.where(weight > 0, weighted, 0)


def as_weight(values: Tensor, dtype: torch.dtype) -> Tensor:
    """As floating point; bool by way of uint8, which torch converts several times faster."""
    return (values.view(torch.uint8) if values.dtype == torch.bool else values).to(dtype)


def _overlap_slope(formula: Formula, at: Channel, sides: Sides) -> Tensor:
    """Derivative of the overlap by p.

    At p = t the minimum has a corner, where 1/2 is taken. At the ends p comes from one side only:
    1 at p = t = 1, and 0 at p = t = 0.
    """
    share = sides.positive
    if formula.overlap == "product" or sides.is_hard:
        return share
    at_corner = (share.floor() + share.ceil()) / 2
    return torch.where(at.p == share, at_corner, as_weight(at.p < share, share.dtype))


def _times_nll(p: Tensor, nll: Tensor) -> Tensor:
    """The product p * -log p, which is 0 at p = 0."""
    return p * nll.clamp(max=torch.finfo(nll.dtype).max)
