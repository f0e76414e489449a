"""The chunked sigmoid for hard targets on the CPU: a voxel is on one side of each channel.

Each element is computed at `y`, its logit towards the wrong side: q = sigmoid(y), -log p =
softplus(y). The other side has no focal term.

Shapes: B samples of a block, C channels, N voxels of a block; BCN is one number an element.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segfocal.ops.chunked_blocks import LOG2_E, Scratch, unless_all
from segfocal.ops.elementwise import Gamma, Upstream, accumulation_dtype, as_weight
from segfocal.ops.flat_target import FlatTarget, both, validity
from segfocal.ops.formula import Formula

HARD_CLASSES = 2**24
"""Labels are compared as float32, which holds all integers below."""


class HardSigmoid:
    """Sums and gradient where each voxel is wholly in a channel or wholly out of it."""

    breadth = 1

    def __init__(self, logits: Tensor, formula: Formula) -> None:
        gamma = formula.gamma
        self._gamma: Gamma = gamma.unsqueeze(-1) if isinstance(gamma, Tensor) else gamma
        self._scratch = Scratch(accumulation_dtype(logits))
        self._first: Tensor | None = None

    def sums(self, logits: Tensor, target: FlatTarget) -> Tensor:
        """The sums `(B, 7, C)` of a block."""
        batch, channels, voxels = logits.shape
        z, valid = self._logits(logits, target)
        belongs = self._members(target, z)
        y = self._towards_wrong(z, belongs)
        focal, product = self._nll(y), self._scratch("product", z.shape)
        focal.mul_(y.sigmoid_().pow_(self._gamma))
        p = torch.sigmoid(z, out=y)
        if valid is not None:
            for values in (belongs, focal, p):
                values.mul_(valid)
        fields = p.new_zeros(batch, 7, channels)
        focal_pos, focal_neg, tp, p_sum, p_sq, t, n_valid = fields.unbind(1)
        positives, negatives = _split(focal, belongs, product)
        torch.sum(positives, -1, out=focal_pos)
        torch.sum(negatives, -1, out=focal_neg)
        torch.sum(torch.mul(belongs, p, out=product), -1, out=tp)
        torch.sum(p, -1, out=p_sum)
        torch.sum(p.square_(), -1, out=p_sq)
        torch.sum(belongs, -1, out=t)
        n_valid += voxels if valid is None else valid.sum(-1)
        return fields

    def gradient(self, above: Upstream, logits: Tensor, target: FlatTarget, out: Tensor) -> None:
        """Write the gradient of a block."""
        z, valid = self._logits(logits, target)
        belongs = self._members(target, z)
        y = self._towards_wrong(z, belongs)
        q = torch.sigmoid(y, out=self._scratch("q", z.shape))
        nll = self._nll(y)
        p = y.neg_().sigmoid_()
        gradient = nll.clamp_(max=torch.finfo(nll.dtype).max).mul_(p).mul_(self._gamma).add_(q)
        room = self._scratch("product", z.shape)
        gradient.mul_(torch.pow(q, self._gamma, out=room))
        slope = p.mul_(q)
        worth = torch.addcmul(above.p, belongs, above.tp, out=room)
        if bool(above.p_sq.any()):
            worth.addcmul_(torch.sigmoid(z, out=q), above.p_sq, value=2)
        slope.mul_(worth)
        weight = torch.sub(belongs, 1, out=room).mul_(above.focal_neg)
        weight.addcmul_(belongs, above.focal_pos)
        torch.addcmul(slope, gradient, weight, value=-1, out=gradient)
        out.copy_(gradient if valid is None else gradient.mul_(valid))

    def _logits(self, logits: Tensor, target: FlatTarget) -> tuple[Tensor, Tensor | None]:
        """The logits, 0 where they do not count, and the weight of each where one does not."""
        validity_ = validity(target, exclusive=False)
        voxel = None if validity_.voxel is None else validity_.voxel.unsqueeze(1)
        valid = unless_all(both(voxel, validity_.mask))
        z = logits.to(self._scratch.dtype)
        if valid is None:
            return z, None
        z = self._scratch("z", z.shape).copy_(z).masked_fill_(~valid, 0)
        return z, as_weight(valid, z.dtype)

    def _members(self, target: FlatTarget, z: Tensor) -> Tensor:
        """1 where a voxel is in the channel, else 0, BCN."""
        belongs = self._scratch("belongs", z.shape)
        if not target.is_labels:
            values = target.values
            values = values.view(torch.uint8) if values.dtype == torch.bool else values
            return belongs.copy_(values).ne_(0)
        labels = target.values.to(z.dtype)
        if self._first is None:
            first = [classes[0] for classes in target.channel_classes]
            self._first = labels.new_tensor(first).unsqueeze(-1)
        torch.eq(labels.unsqueeze(1), self._first, out=belongs)
        found = self._scratch("found", labels.shape)
        for channel, classes in zip(belongs.unbind(1), target.channel_classes, strict=True):
            for label in classes[1:]:
                torch.maximum(channel, torch.eq(labels, label, out=found), out=channel)
        return belongs

    def _towards_wrong(self, z: Tensor, belongs: Tensor) -> Tensor:
        """-z where a voxel is in the channel, else z."""
        y = self._scratch("y", z.shape)
        return torch.sub(z.new_ones(()), belongs, alpha=2, out=y).mul_(z)

    def _nll(self, y: Tensor) -> Tensor:
        """softplus(y)."""
        nll = torch.abs(y, out=self._scratch("nll", y.shape)).mul_(-LOG2_E).exp2_().log1p_()
        return nll.add_(torch.clamp(y, min=0, out=self._scratch("product", y.shape)))


def _split(focal: Tensor, belongs: Tensor, room: Tensor) -> tuple[Tensor, Tensor]:
    """The focal terms of the positives and of the negatives, 0 elsewhere; `focal` is written over.

    A product keeps no infinite or NaN term to its own side, but is several times as quick.
    """
    if bool(focal.sum().isfinite()):
        positives = torch.mul(belongs, focal, out=room)
        return positives, focal.sub_(positives)
    return torch.where(belongs > 0, focal, 0), torch.where(belongs > 0, 0, focal)
