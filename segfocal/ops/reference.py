"""The reference backend: eager formulas for any device and dtype, and the truth of every test.

One channel at a time, so that nothing of the logits' size is allocated but the gradient. The
formulas are derived in `segfocal/ops/README.md`.

Shapes: B batch, C channels, S flattened voxels; BS is one number a voxel, BCS one per channel too.
Names: p the probability of a channel, q = 1 - p, nll = -log p.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from segfocal.ops.flat_target import FlatTarget, Validity, membership, validity
from segfocal.ops.formula import Formula

Gamma = float | Tensor


class Upstream(NamedTuple):
    """Gradient of the loss with respect to each sum, `(B, C, 1)`, or to each voxel, `(B, C, S)`."""

    focal_pos: Tensor
    focal_neg: Tensor
    tp: Tensor
    p: Tensor
    p_sq: Tensor


def accumulation_dtype(logits: Tensor) -> torch.dtype:
    """float64 for float64 logits, float32 for all others."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


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
        focal_sides = _smoothed(sides, formula, logits.shape[1])
        focal_pos, focal_neg = model.focal(at, focal_sides, _of(formula.gamma, channel))
        p = at.p if sides.valid is None else at.p * sides.valid
        fields = [
            focal_pos.sum(-1),
            focal_neg.sum(-1),
            _overlap(formula, at, sides).sum(-1),
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
        sides = _smoothed(_sides(target, channel, model), formula, logits.shape[1])
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


class _Channel(NamedTuple):
    """A channel of every voxel, `(B, S)` each, finite but for `z`.

    `z` is the logit, less the largest one under softmax; `q` is 1 - p without its cancellation.
    """

    z: Tensor
    p: Tensor
    q: Tensor


class _Sides(NamedTuple):
    """Weight of each voxel among a channel's positives and negatives, `(B, S)`; 0 if not valid.

    `valid` is their sum, None where that is 1 everywhere; `is_hard` tells that all are 0 or 1.
    """

    positive: Tensor
    negative: Tensor
    valid: Tensor | None
    is_hard: bool


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

    def at(self, channel: int) -> _Channel:
        z = self._shifted(channel)
        e = z.exp()
        return _Channel(z, p=e / self.total_BS, q=(self.rest_BS + (1 - e)) / self.total_BS)

    def focal(self, at: _Channel, sides: _Sides, gamma: Gamma) -> tuple[Tensor, Tensor]:
        """Focal loss of the positives and of the negatives, which have none here."""
        loss = _weigh(at.q.pow(gamma) * (self.log_total_BS - at.z), sides.positive, sides)
        return loss, torch.zeros_like(loss)

    def gradient(self, upstream: Upstream, target: FlatTarget) -> Tensor:
        """Two passes: what each p_c is worth, then the softmax's Jacobian."""
        num_channels = self.logits_BCS.shape[1]
        grad_BCS = torch.empty_like(self.logits_BCS, dtype=self.dtype)
        focal_total, slope_total = torch.zeros_like(self.top_BS), torch.zeros_like(self.top_BS)
        for channel in range(num_channels):
            at, sides = self.at(channel), _sides(target, channel, self)
            steepness = self._steepness(at, _of(self.formula.gamma, channel))
            share = _smoothed(sides, self.formula, num_channels).positive
            focal = -upstream.focal_pos[:, channel] * (steepness * share)
            grad_BCS[:, channel] = focal
            focal_total += focal
            slope_total += _p_slope(self.formula, upstream, channel, at, sides)
        for channel in range(num_channels):
            at, sides, focal = self.at(channel), _sides(target, channel, self), grad_BCS[:, channel]
            slope = _p_slope(self.formula, upstream, channel, at, sides)
            grad = focal * at.q - at.p * (focal_total - focal) + slope - at.p * slope_total
            grad_BCS[:, channel] = grad if sides.valid is None else grad * sides.valid
        return grad_BCS

    def _steepness(self, at: _Channel, gamma: Gamma) -> Tensor:
        """A in dFL_c/dz_j = -A (delta_cj - p_j): q^gamma (1 + gamma p nll / q).

        p nll / q tends to 1 as q does to 0, and `tiny` decides nothing else.
        """
        tiny = torch.finfo(self.dtype).tiny
        ratio = (_times_nll(at.p, self.log_total_BS - at.z) + tiny) / (at.q + tiny)
        return at.q.pow(gamma) * (1 + gamma * ratio)

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

    def at(self, channel: int) -> _Channel:
        z, inside = self.logits_BCS[:, channel].to(self.dtype), self.valid.of_channel(channel)
        z = z if inside is None else torch.where(inside, z, 0)
        return _Channel(z, p=z.sigmoid(), q=(-z).sigmoid())

    def focal(self, at: _Channel, sides: _Sides, gamma: Gamma) -> tuple[Tensor, Tensor]:
        """Focal loss of the positives and of the negatives."""
        return self._on_each_side(_binary_focal, at, sides, gamma)

    def gradient(self, upstream: Upstream, target: FlatTarget) -> Tensor:
        """One pass: the channels do not touch each other."""
        grad_BCS = torch.empty_like(self.logits_BCS, dtype=self.dtype)
        for channel in range(self.logits_BCS.shape[1]):
            at, sides = self.at(channel), _sides(target, channel, self)
            focal_sides = _smoothed(sides, self.formula, self.logits_BCS.shape[1])
            steep_pos, steep_neg = self._on_each_side(
                _binary_steepness, at, focal_sides, _of(self.formula.gamma, channel)
            )
            grad_BCS[:, channel] = (
                upstream.focal_neg[:, channel] * steep_neg
                - upstream.focal_pos[:, channel] * steep_pos
                + _p_slope(self.formula, upstream, channel, at, sides) * at.q
            )
        return grad_BCS

    @staticmethod
    def _on_each_side(
        term: Callable[[Tensor, Gamma], Tensor], at: _Channel, sides: _Sides, gamma: Gamma
    ) -> tuple[Tensor, Tensor]:
        """The term at z for positives and at -z for negatives; at once where none is both."""
        if sides.is_hard:
            towards = at.z * (2 * sides.positive - 1)
            at_positive = at_negative = term(towards, gamma)
        else:
            at_positive, at_negative = term(at.z, gamma), term(-at.z, gamma)
        return (
            _weigh(at_positive, sides.positive, sides),
            _weigh(at_negative, sides.negative, sides),
        )


def _model(logits: Tensor, target: FlatTarget, formula: Formula) -> _Softmax | _Sigmoid:
    if formula.activation == "softmax":
        return _Softmax(logits, validity(target, exclusive=True), formula)
    return _Sigmoid(logits, validity(target, exclusive=False), formula)


def _sides(target: FlatTarget, channel: int, model: _Softmax | _Sigmoid) -> _Sides:
    inside = model.valid.of_channel(channel)
    belongs = membership(target, channel)
    positive = _as_weight(belongs, model.dtype)
    if inside is None:
        return _Sides(positive, 1 - positive, None, target.is_hard)
    valid = _as_weight(inside, model.dtype)
    positive = torch.where(inside, positive, 0) if not target.is_hard else positive * valid
    return _Sides(positive, valid - positive, valid, target.is_hard)


def _smoothed(sides: _Sides, formula: Formula, num_channels: int) -> _Sides:
    """The sides as the focal fields see them: each valid voxel leaves a part to every side.

    Under softmax the sides are those of different channels, and the negatives mean nothing.
    """
    if formula.label_smoothing == 0:
        return sides
    kept, floor = 1 - formula.label_smoothing, formula.smoothing_floor(num_channels)
    spread = floor if sides.valid is None else floor * sides.valid
    positive, negative = kept * sides.positive + spread, kept * sides.negative + spread
    return _Sides(positive, negative, sides.valid, is_hard=False)


def _as_weight(values: Tensor, dtype: torch.dtype) -> Tensor:
    """As floating point; bool by way of uint8, which torch converts several times faster."""
    return (values.view(torch.uint8) if values.dtype == torch.bool else values).to(dtype)


def _binary_focal(x: Tensor, gamma: Gamma) -> Tensor:
    """(1 - p)^gamma * -log p with p = sigmoid(x)."""
    return (-x).sigmoid().pow(gamma) * -F.logsigmoid(x)


def _binary_steepness(x: Tensor, gamma: Gamma) -> Tensor:
    """A in d(focal)/dx = -A: q^gamma (q + gamma p nll), with p = sigmoid(x)."""
    q = (-x).sigmoid()
    return q.pow(gamma) * (q + gamma * _times_nll(x.sigmoid(), -F.logsigmoid(x)))


def _times_nll(p: Tensor, nll: Tensor) -> Tensor:
    """The product p * -log p, which is 0 at p = 0."""
    return p * nll.clamp(max=torch.finfo(nll.dtype).max)


def _p_slope(
    formula: Formula, upstream: Upstream, channel: int, at: _Channel, sides: _Sides
) -> Tensor:
    """Product of p and the gradient with respect to p, as far as `tp`, `p` and `p_sq` go."""
    worth = upstream.p[:, channel] + 2 * upstream.p_sq[:, channel] * at.p
    worth = worth if sides.valid is None else worth * sides.valid
    return at.p * (worth + upstream.tp[:, channel] * _overlap_slope(formula, at, sides))


def _overlap(formula: Formula, at: _Channel, sides: _Sides) -> Tensor:
    """What `tp` sums. For hard sides the minimum of p and t is their product."""
    if formula.overlap == "product" or sides.is_hard:
        return at.p * sides.positive
    return torch.minimum(at.p, sides.positive)


def _overlap_slope(formula: Formula, at: _Channel, sides: _Sides) -> Tensor:
    """Derivative of the overlap by p.

    At p = t the minimum has a corner, where 1/2 is taken. At the ends p comes from one side only:
    1 at p = t = 1, and 0 at p = t = 0.
    """
    share = sides.positive
    if formula.overlap == "product" or sides.is_hard:
        return share
    at_corner = (share.floor() + share.ceil()) / 2
    return torch.where(at.p == share, at_corner, _as_weight(at.p < share, share.dtype))


def _weigh(values: Tensor, weight: Tensor, sides: _Sides) -> Tensor:
    """`values * weight`, and 0 where the weight is 0 even if the value there is infinite."""
    weighted = values if sides.is_hard else values * weight
    return torch.where(weight > 0, weighted, 0)


def _of(gamma: Gamma, channel: int) -> Gamma:
    return gamma[channel] if isinstance(gamma, Tensor) else gamma
