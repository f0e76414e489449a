"""The chunked backend for any target and option, on any device: the formulas over a block at once.

Shapes: B samples of a block, C channels, N voxels of a block; BN is one number a voxel.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from segfocal.ops.elementwise import (
    Channel,
    Sides,
    Upstream,
    accumulation_dtype,
    binary_focal,
    binary_steepness,
    on_each_side,
    overlap,
    p_slope,
    sides_of,
    smoothed,
    softmax_steepness,
    weigh,
)
from segfocal.ops.flat_target import FlatTarget, Validity, both, membership, validity
from segfocal.ops.formula import Formula


class AnyTarget:
    """Sums and gradient whatever the target holds."""

    breadth = 1

    def __init__(self, _logits: Tensor, formula: Formula) -> None:
        self._formula = formula

    def sums(self, logits: Tensor, target: FlatTarget) -> Tensor:
        """The sums `(B, 7, C)` of a block."""
        return _block_sums(_read(logits, target, self._formula), self._formula)

    def gradient(self, above: Upstream, logits: Tensor, target: FlatTarget, out: Tensor) -> None:
        """Write the gradient of a block."""
        backward = _softmax_gradient if self._formula.activation == "softmax" else _sigmoid_gradient
        out.copy_(backward(above, _read(logits, target, self._formula), self._formula))


class _Block(NamedTuple):
    """What the logits and the target of a part of the volume say.

    `log_total` is -log p of a channel whose logit is the largest, `(B, 1, N)`; softmax only.
    """

    at: Channel
    sides: Sides
    gamma: float | Tensor
    log_total: Tensor


def _block_sums(block: _Block, formula: Formula) -> Tensor:
    """Sums `(B, 7, C)`."""
    at, sides = block.at, block.sides
    focal_sides = smoothed(sides, formula, at.p.shape[1])
    if formula.activation == "softmax":
        loss = at.q.pow(block.gamma) * (block.log_total - at.z)
        focal_pos = weigh(loss, focal_sides.positive, focal_sides).sum(-1)
        focal_neg = torch.zeros_like(focal_pos)
    else:
        both_sides = on_each_side(binary_focal, at.z, focal_sides, block.gamma)
        focal_pos, focal_neg = (loss.sum(-1) for loss in both_sides)
    p = at.p if sides.valid is None else at.p * sides.valid
    fields = (
        focal_pos,
        focal_neg,
        overlap(formula, at, sides).sum(-1),
        p.sum(-1),
        p.square().sum(-1),
        sides.positive.sum(-1),
        (sides.positive + sides.negative).sum(-1),
    )
    return torch.stack(fields, 1)


def _read(logits: Tensor, target: FlatTarget, formula: Formula) -> _Block:
    channels = logits.shape[1]
    gamma = formula.gamma
    gamma = gamma.unsqueeze(-1) if isinstance(gamma, Tensor) else gamma
    exclusive = formula.activation == "softmax"
    read = _softmax if exclusive else _sigmoid
    plain = tuple((channel,) for channel in range(channels))
    is_plain = target.is_labels and target.channel_classes == plain
    valid = validity(target, exclusive=exclusive)
    at, log_total = read(logits, valid)
    belongs = _classes_of(target, channels) if is_plain else _members(target, channels)
    return _Block(at, sides_of(belongs, _inside(valid), at.p.dtype), gamma, log_total)


def _inside(valid: Validity) -> Tensor | None:
    """Validity of every channel, `(B, C, N)` or `(B, 1, N)`."""
    voxel = None if valid.voxel is None else valid.voxel.unsqueeze(1)
    return both(voxel, valid.mask)


def _classes_of(target: FlatTarget, channels: int) -> Tensor:
    """Membership `(B, C, N)` where channel c is class c."""
    classes = torch.arange(channels, device=target.values.device)
    return target.values.unsqueeze(1) == classes.unsqueeze(-1)


def _members(target: FlatTarget, channels: int) -> Tensor:
    """Membership `(B, C, N)`: bool for hard targets, else 0 to 1."""
    if not target.is_labels:
        return target.values if target.values.is_floating_point() else target.values != 0
    return torch.stack([membership(target, channel) for channel in range(channels)], 1)


def _softmax(logits: Tensor, valid: Validity) -> tuple[Channel, Tensor]:
    """The channels' probabilities, and log_total. Masked channels stand at minus infinity.

    `rest` is the sum of all e but one that is 1; the fractions of e are e but for those.
    """
    z = logits.to(accumulation_dtype(logits))
    if valid.mask is not None:
        z = z.masked_fill(~valid.mask, -torch.inf)
    z = z - z.amax(1, keepdim=True)
    if valid.voxel is not None:
        z = torch.where(valid.voxel.unsqueeze(1), z, 0)
    e = z.exp()
    small = e.frac().sum(1, keepdim=True)
    tops = (e.sum(1, keepdim=True) - small).round()
    rest = small + (tops - 1)
    share = 1 / (1 + rest)
    return Channel(z, p=e * share, q=(rest + (1 - e)) * share), rest.log1p()


def _sigmoid(logits: Tensor, valid: Validity) -> tuple[Channel, Tensor]:
    z, inside = logits.to(accumulation_dtype(logits)), _inside(valid)
    z = z if inside is None else torch.where(inside, z, 0)
    return Channel(z, p=z.sigmoid(), q=(-z).sigmoid()), z


def _softmax_gradient(above: Upstream, block: _Block, formula: Formula) -> Tensor:
    at, sides = block.at, block.sides
    share = smoothed(sides, formula, at.p.shape[1]).positive
    focal = softmax_steepness(at, block.log_total, block.gamma) * share * -above.focal_pos
    slope = p_slope(formula, above, at, sides)
    focal_total, slope_total = focal.sum(1, keepdim=True), slope.sum(1, keepdim=True)
    gradient = focal * at.q - at.p * (focal_total - focal) + slope - at.p * slope_total
    return gradient if sides.valid is None else gradient * sides.valid


def _sigmoid_gradient(above: Upstream, block: _Block, formula: Formula) -> Tensor:
    at, sides = block.at, block.sides
    focal_sides = smoothed(sides, formula, at.p.shape[1])
    steep_pos, steep_neg = on_each_side(binary_steepness, at.z, focal_sides, block.gamma)
    slope = p_slope(formula, above, at, sides)
    return above.focal_neg * steep_neg - above.focal_pos * steep_pos + slope * at.q
