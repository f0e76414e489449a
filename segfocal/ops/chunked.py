"""The chunked backend: plain torch in blocks that fit the cache, on any device and in any dtype.

The volume is walked block by block, all channels of a block at once. No temporary is larger than a
block, and nothing of the logits' size is allocated but the gradient. The blocks depend on the shape
alone and are added up in their order.

Shapes: B samples of a block, C channels, N voxels of a block; BN is one number a voxel.
"""

from __future__ import annotations

from collections.abc import Iterator
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

BLOCK_ELEMENTS = {"cpu": 2**16}
"""Logits of a block by device type: 256 KiB of float32, so that ten temporaries fit a cache."""
OTHER_DEVICE_ELEMENTS = 2**22
"""Elsewhere a block has to keep a whole device busy."""


def class_sums(logits: Tensor, target: FlatTarget, formula: Formula) -> Tensor:
    """The sums `(B, 7, C)` of `ClassSums`, in the accumulation dtype."""
    batch, channels, _voxels = logits.shape
    sums = logits.new_zeros((batch, 7, channels), dtype=accumulation_dtype(logits))
    for block in _blocks(logits, target, formula):
        at, sides = block.at, block.sides
        focal_sides = smoothed(sides, formula, channels)
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
        sums[block.samples] += torch.stack(fields, 1)
    return sums


def class_sums_backward(
    upstream: Tensor, logits: Tensor, target: FlatTarget, formula: Formula
) -> Tensor:
    """Gradient with respect to the logits `(B, C, S)`, given that of the sums `(B, 7, C)`."""
    gradient = torch.empty_like(logits)
    upstream = upstream.to(accumulation_dtype(logits)).unsqueeze(-1)
    for block in _blocks(logits, target, formula):
        above = Upstream(*upstream[block.samples, :5].unbind(1))
        backward = _softmax_gradient if formula.activation == "softmax" else _sigmoid_gradient
        gradient[block.samples, :, block.voxels] = backward(above, block, formula)
    return gradient


class _Block(NamedTuple):
    """A part of the volume: where it lies, and what its logits and its target say.

    `log_total` is -log p of a channel whose logit is the largest, `(B, 1, N)`; softmax only.
    """

    samples: slice
    voxels: slice
    at: Channel
    sides: Sides
    gamma: float | Tensor
    log_total: Tensor


def _blocks(logits: Tensor, target: FlatTarget, formula: Formula) -> Iterator[_Block]:
    batch, channels, voxels = logits.shape
    if logits.numel() == 0:
        return
    elements = BLOCK_ELEMENTS.get(logits.device.type, OTHER_DEVICE_ELEMENTS)
    width = max(1, min(voxels, elements // channels))
    height = max(1, elements // (channels * width))
    gamma = formula.gamma
    gamma = gamma.unsqueeze(-1) if isinstance(gamma, Tensor) else gamma
    exclusive = formula.activation == "softmax"
    read = _softmax if exclusive else _sigmoid
    plain = tuple((channel,) for channel in range(channels))
    is_plain = target.is_labels and target.channel_classes == plain
    for row in range(0, batch, height):
        for column in range(0, voxels, width):
            samples, span = slice(row, row + height), slice(column, column + width)
            z, part = logits[samples, :, span], _part(target, samples, span)
            valid = validity(part, exclusive=exclusive)
            at, log_total = read(z, valid)
            belongs = _classes_of(part, channels) if is_plain else _members(part, channels)
            sides = sides_of(belongs, _inside(valid), at.p.dtype)
            yield _Block(samples, span, at, sides, gamma, log_total)


def _part(target: FlatTarget, samples: slice, voxels: slice) -> FlatTarget:
    mask = None if target.mask is None else target.mask[samples, :, voxels]
    return target._replace(values=target.values[samples, ..., voxels], mask=mask)


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
