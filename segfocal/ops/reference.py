"""The reference backend: eager formulas for any device and dtype, and the truth of every test.

One channel at a time, so that nothing of the logits' size is allocated but the gradient. The
formulas of one voxel stand in `elementwise.py`, their derivation in `segfocal/ops/README.md`.

Shapes: B batch, C channels, S flattened voxels; BS is one number a voxel, BCS one per channel too.
Names: p the probability of a channel, q = 1 - p, nll = -log p.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segfocal.ops.elementwise import (
    Channel,
    Gamma,
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
from segfocal.ops.flat_target import FlatTarget, Validity, membership, validity
from segfocal.ops.formula import Formula


def class_sums(logits: Tensor, target: FlatTarget, formula: Formula) -> Tensor:
    """The sums of `ClassSums` for each sample and channel.

    Args:
        logits: `(B, C, S)`.
        target: Labels or per-channel values of the same B and S, with their validity.
        formula: What is summed.

    Returns:
        `(B, 7, C)` in the order of `ClassSums`, in the accumulation dtype.
    """
    model = _model(logits, target, formula)
    columns = []
    for channel in range(logits.shape[1]):
        at, sides = model.at(channel), _sides(target, channel, model)
        focal_sides = smoothed(sides, formula, logits.shape[1])
        focal_pos, focal_neg = model.focal(at, focal_sides, _of(formula.gamma, channel))
        p = at.p if sides.valid is None else at.p * sides.valid
        fields = [
            focal_pos.sum(-1),
            focal_neg.sum(-1),
            overlap(formula, at, sides).sum(-1),
            p.sum(-1),
            p.square().sum(-1),
            sides.positive.sum(-1),
            (sides.positive + sides.negative).sum(-1),
        ]
        columns.append(torch.stack(fields, dim=-1))
    return torch.stack(columns, dim=-1)


def class_sums_backward(
    upstream: Tensor, logits: Tensor, target: FlatTarget, formula: Formula
) -> Tensor:
    """Gradient with respect to the logits `(B, C, S)`, given that of the sums `(B, 7, C)`."""
    fields = upstream.to(accumulation_dtype(logits)).unsqueeze(-1).unbind(1)
    return _backward(Upstream(*fields[:5]), logits, target, formula)


def voxel_focal(logits: Tensor, target: FlatTarget, formula: Formula, weights: Tensor) -> Tensor:
    """The weighted focal loss of every voxel and channel.

    Args:
        logits: `(B, C, S)`.
        target: As for `class_sums`.
        formula: What is summed.
        weights: `(2, C)`: weight of each channel's positives, and of its negatives.

    Returns:
        `(B, C, S)` in the accumulation dtype; 0 where a voxel does not count.
    """
    model = _model(logits, target, formula)
    focal_BCS = torch.empty_like(logits, dtype=model.dtype)
    for channel in range(logits.shape[1]):
        sides = smoothed(_sides(target, channel, model), formula, logits.shape[1])
        gamma = _of(formula.gamma, channel)
        focal_pos, focal_neg = model.focal(model.at(channel), sides, gamma)
        focal_BCS[:, channel] = weights[0, channel] * focal_pos + weights[1, channel] * focal_neg
    return focal_BCS


def voxel_focal_backward(
    upstream: Tensor,
    logits: Tensor,
    target: FlatTarget,
    formula: Formula,
    weights: Tensor,
) -> Tensor:
    """Gradient with respect to the logits `(B, C, S)`, given that of every voxel `(B, C, S)`."""
    upstream = upstream.to(accumulation_dtype(logits))
    zero = upstream.new_zeros(()).expand(upstream.shape)
    weight_pos, weight_neg = weights.unsqueeze(-1)
    each = Upstream(upstream * weight_pos, upstream * weight_neg, zero, zero, zero)
    return _backward(each, logits, target, formula)


def _backward(upstream: Upstream, logits: Tensor, target: FlatTarget, formula: Formula) -> Tensor:
    model = _model(logits, target, formula)
    return model.gradient(upstream, target).to(logits.dtype)


class _Softmax:
    """The channels exclude each other.

    With e_c = exp(z_c - top), which is 1 for the largest logit, `rest` is the sum of all others.
    It keeps the digits that 1 - p loses where p is close to 1.
    """

    def __init__(self, logits: Tensor, valid: Validity, formula: Formula) -> None:
        if valid.mask is not None:
            logits = logits.masked_fill(~valid.mask, -torch.inf)
        self.dtype = accumulation_dtype(logits)
        self.valid = valid
        self.formula = formula
        self.logits_BCS = logits
        self.top_BS = logits.amax(1).to(self.dtype)
        small, tops = torch.zeros_like(self.top_BS), torch.zeros_like(self.top_BS)
        for channel in range(logits.shape[1]):
            e = self._shifted(channel).exp()
            is_top = e.floor()
            small += e - is_top
            tops += is_top
        self.rest_BS = small + (tops - 1)
        self.total_BS = 1 + self.rest_BS
        self.log_total_BS = self.rest_BS.log1p()

    def at(self, channel: int) -> Channel:
        z = self._shifted(channel)
        e = z.exp()
        return Channel(z, p=e / self.total_BS, q=(self.rest_BS + (1 - e)) / self.total_BS)

    def focal(self, at: Channel, sides: Sides, gamma: Gamma) -> tuple[Tensor, Tensor]:
        """Focal loss of the positives and of the negatives, which have none here."""
        loss = weigh(at.q.pow(gamma) * (self.log_total_BS - at.z), sides.positive, sides)
        return loss, torch.zeros_like(loss)

    def gradient(self, upstream: Upstream, target: FlatTarget) -> Tensor:
        """Two passes: what each p_c is worth, then the softmax's Jacobian."""
        num_channels = self.logits_BCS.shape[1]
        grad_BCS = torch.empty_like(self.logits_BCS, dtype=self.dtype)
        focal_total, slope_total = torch.zeros_like(self.top_BS), torch.zeros_like(self.top_BS)
        for channel in range(num_channels):
            at, sides = self.at(channel), _sides(target, channel, self)
            steepness = softmax_steepness(at, self.log_total_BS, _of(self.formula.gamma, channel))
            share = smoothed(sides, self.formula, num_channels).positive
            focal = -upstream.focal_pos[:, channel] * (steepness * share)
            grad_BCS[:, channel] = focal
            focal_total += focal
            slope_total += p_slope(self.formula, _at(upstream, channel), at, sides)
        for channel in range(num_channels):
            at, sides, focal = self.at(channel), _sides(target, channel, self), grad_BCS[:, channel]
            slope = p_slope(self.formula, _at(upstream, channel), at, sides)
            grad = focal * at.q - at.p * (focal_total - focal) + slope - at.p * slope_total
            grad_BCS[:, channel] = grad if sides.valid is None else grad * sides.valid
        return grad_BCS

    def _shifted(self, channel: int) -> Tensor:
        z = self.logits_BCS[:, channel].to(self.dtype) - self.top_BS
        return z if self.valid.voxel is None else torch.where(self.valid.voxel, z, 0)


class _Sigmoid:
    """Each channel is its own yes-or-no question."""

    def __init__(self, logits: Tensor, valid: Validity, formula: Formula) -> None:
        self.dtype = accumulation_dtype(logits)
        self.valid = valid
        self.formula = formula
        self.logits_BCS = logits

    def at(self, channel: int) -> Channel:
        z, inside = self.logits_BCS[:, channel].to(self.dtype), self.valid.of_channel(channel)
        z = z if inside is None else torch.where(inside, z, 0)
        return Channel(z, p=z.sigmoid(), q=(-z).sigmoid())

    def focal(self, at: Channel, sides: Sides, gamma: Gamma) -> tuple[Tensor, Tensor]:
        """Focal loss of the positives and of the negatives."""
        return on_each_side(binary_focal, at.z, sides, gamma)

    def gradient(self, upstream: Upstream, target: FlatTarget) -> Tensor:
        """One pass: the channels do not touch each other."""
        grad_BCS = torch.empty_like(self.logits_BCS, dtype=self.dtype)
        for channel in range(self.logits_BCS.shape[1]):
            at, sides = self.at(channel), _sides(target, channel, self)
            focal_sides = smoothed(sides, self.formula, self.logits_BCS.shape[1])
            steep_pos, steep_neg = on_each_side(
                binary_steepness, at.z, focal_sides, _of(self.formula.gamma, channel)
            )
            grad_BCS[:, channel] = (
                upstream.focal_neg[:, channel] * steep_neg
                - upstream.focal_pos[:, channel] * steep_pos
                + p_slope(self.formula, _at(upstream, channel), at, sides) * at.q
            )
        return grad_BCS


def _model(logits: Tensor, target: FlatTarget, formula: Formula) -> _Softmax | _Sigmoid:
    if formula.activation == "softmax":
        return _Softmax(logits, validity(target, exclusive=True), formula)
    return _Sigmoid(logits, validity(target, exclusive=False), formula)


def _sides(target: FlatTarget, channel: int, model: _Softmax | _Sigmoid) -> Sides:
    return sides_of(membership(target, channel), model.valid.of_channel(channel), model.dtype)


def _of(gamma: Gamma, channel: int) -> Gamma:
    return gamma[channel] if isinstance(gamma, Tensor) else gamma


def _at(upstream: Upstream, channel: int) -> Upstream:
    return Upstream(*(field[:, channel] for field in upstream))
