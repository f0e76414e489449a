"""The chunked softmax for labels on the CPU: a voxel has one class, and so one focal term.

What regards a voxel's own class is taken out of the block and computed once a voxel. In the block
its place holds 0, so that the sum of the others is q of the own class without a subtraction.

Shapes: B samples of a block, C channels, N voxels of a block; B1N is one number a voxel. `groups`
are runs of channels of a block `(B, C, N)`, as many as one operation takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from segfocal.ops.chunked_blocks import LOG2_E, Scratch, operation_elements, unless_all
from segfocal.ops.elementwise import (
    Channel,
    Gamma,
    Upstream,
    accumulation_dtype,
    as_weight,
    softmax_steepness,
)
from segfocal.ops.flat_target import FlatTarget, validity
from segfocal.ops.formula import Formula

FEW = 12
"""Up to so many classes, comparing every label with every class beats counting by label."""


class _Block(NamedTuple):
    """A block's softmax.

    Attributes:
        all: e of every class but a voxel's own, which is 0; times `share` it is p.
        groups: The same by groups.
        share: One over the sum of all e, B1N; 0 where a voxel does not count.
        own: z, p and q of the own class, B1N.
        log_total: -log p of a channel whose logit is the largest, B1N.
        labels: `(B, N)`, 0 where a voxel does not count.
        rows: Index of the own class among the `B * C` rows of the block, `(B * N,)`.
        places: Index of the own class among all elements of the block, `(B * N,)`.
        valid: Weight of each voxel, B1N; None where all count.
    """

    all: Tensor
    groups: tuple[Tensor, ...]
    share: Tensor
    own: Channel
    log_total: Tensor
    labels: Tensor
    rows: Tensor
    places: Tensor
    valid: Tensor | None


class LabelSoftmax:
    """Sums and gradient where channel c is class c, and a voxel counts for all or for none."""

    breadth = 4

    def __init__(self, logits: Tensor, formula: Formula) -> None:
        self._gamma: Gamma = formula.gamma
        self._scratch = Scratch(accumulation_dtype(logits))
        self._width = operation_elements(logits.device)
        self._index = torch.empty(0, 0, dtype=torch.int64)

    def sums(self, logits: Tensor, target: FlatTarget) -> Tensor:
        """The sums `(B, 7, C)` of a block."""
        batch, channels, voxels = logits.shape
        block = self._read(logits, target)
        own, share = block.own, block.share
        fields = share.new_zeros(batch, 7, channels)
        focal_pos, _focal_neg, tp, p, p_sq, t, n_valid = fields.unbind(1)
        width = block.groups[0].shape[1]
        for group, p_part, p_sq_part in zip(
            block.groups, torch.split(p, width, 1), torch.split(p_sq, width, 1), strict=True
        ):
            torch.sum(group.mul_(share), -1, out=p_part)
            torch.sum(group.square_(), -1, out=p_sq_part)
        focal = own.q.pow(self._own_gamma(block, channels)).mul_(block.log_total - own.z)
        own_p_sq = torch.empty_like(tp)
        values, sums = (focal, own.p, own.p.square()), (focal_pos, tp, own_p_sq)
        if channels <= FEW and bool(focal.sum().isfinite()):
            self._compare(block, values, (*sums, t))
        else:
            _count(block, values, (*sums, t))
        p += tp
        p_sq += own_p_sq
        n_valid += voxels if block.valid is None else block.valid.sum(-1)
        return fields

    def gradient(self, above: Upstream, logits: Tensor, target: FlatTarget, out: Tensor) -> None:
        """Write the gradient of a block."""
        block = self._read(logits, target)
        p, q = block.own.p, block.own.q
        gamma = self._own_gamma(block, logits.shape[1])
        focal = softmax_steepness(block.own, block.log_total, gamma)
        focal.mul_(_own(above.focal_pos, block)).neg_()
        slope = _own(above.p + above.tp, block)
        if bool(above.p_sq.any()):
            slope.addcmul_(_own(above.p_sq, block), p, value=2)
        slope.mul_(p)
        total = slope.clone()
        for group in block.groups:
            group.mul_(block.share)
        for group, worth, room in self._worths(block, above):
            total += _total(torch.mul(worth, group, out=room))
        own = slope.addcmul_(p, total, value=-1).addcmul_(focal, q)
        total += focal
        for group, worth, room in self._worths(block, above):
            group.mul_(torch.sub(worth, total, out=room))
        block.all.view(-1).scatter_(0, block.places, own.view(-1))
        written = torch.split(out, block.groups[0].shape[1], 1)
        for part, group in zip(written, block.groups, strict=True):
            part.copy_(group)

    def _read(self, logits: Tensor, target: FlatTarget) -> _Block:
        """The softmax of a block, but for the factor `share` of the groups."""
        batch, channels, voxels = logits.shape
        valid = unless_all(validity(target, exclusive=True).voxel)
        labels = target.values if valid is None else target.values.masked_fill(~valid, 0)
        e = self._scratch("e", (batch, channels, voxels))
        groups = torch.split(e, max(1, self._width // (batch * voxels)), 1)
        self._shift(logits, groups, valid)
        rows = labels.long()
        if batch > 1:
            rows = rows + channels * torch.arange(batch).unsqueeze(1)
        places = torch.add(self._voxels(batch, voxels), rows, alpha=voxels).reshape(-1)
        z = e.view(-1).index_select(0, places).view(batch, 1, voxels)
        for group in groups:
            group.mul_(LOG2_E).exp2_()
        p = e.view(-1).index_select(0, places).view_as(z)
        e.view(-1).scatter_(0, places, torch.zeros_like(p).view(-1))
        q = reduce(torch.add, map(_total, groups))
        log_total = (p - 1).add_(q).log1p_()
        share = (p + q).reciprocal_()
        weight = None if valid is None else as_weight(valid, e.dtype).unsqueeze(1)
        if weight is not None:
            share.mul_(weight)
            log_total.mul_(weight)
        own = Channel(z, p.mul_(share), q.mul_(share))
        return _Block(e, groups, share, own, log_total, labels, rows.reshape(-1), places, weight)

    def _shift(self, logits: Tensor, groups: tuple[Tensor, ...], valid: Tensor | None) -> None:
        """Fill the groups with the logits less the largest of their voxel."""
        parts = torch.split(logits, groups[0].shape[1], 1)
        if logits.dtype != groups[0].dtype:
            parts = tuple(group.copy_(part) for part, group in zip(parts, groups, strict=True))
        top = reduce(torch.maximum, map(_largest, parts))
        for part, group in zip(parts, groups, strict=True):
            torch.sub(part, top, out=group)
            if valid is not None:
                group.masked_fill_(~valid.unsqueeze(1), 0)

    def _worths(self, block: _Block, above: Upstream) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """What p is worth to `p` and `p_sq`, by groups: the group, its worth, room for a product.

        The worth may lie in that room.
        """
        width = block.groups[0].shape[1]
        has_squares = bool(above.p_sq.any())
        for group, worth, square in zip(
            block.groups,
            torch.split(above.p, width, 1),
            torch.split(above.p_sq, width, 1),
            strict=True,
        ):
            room = self._scratch("worth", block.groups[0].shape)[:, : group.shape[1]]
            if has_squares:
                worth = torch.addcmul(worth, square, group, value=2, out=room)
            yield group, worth, room

    def _own_gamma(self, block: _Block, channels: int) -> Gamma:
        """Gamma of each voxel's own class, or of all."""
        if not isinstance(self._gamma, Tensor):
            return self._gamma
        batch = block.share.shape[0]
        return _own(self._gamma.view(1, channels, 1).expand(batch, channels, 1), block)

    def _compare(self, block: _Block, values: tuple[Tensor, ...], sums: tuple[Tensor, ...]) -> None:
        """As `_count`, by comparing the labels with each class. The groups are written over."""
        labels = block.labels.to(block.share.dtype).unsqueeze(1)
        width = block.groups[0].shape[1]
        classes = torch.arange(sums[0].shape[1], dtype=labels.dtype).view(-1, 1)
        parts = zip(*(torch.split(total, width, 1) for total in sums), strict=True)
        for group, these, totals in zip(
            block.groups, torch.split(classes, width), parts, strict=True
        ):
            is_own = self._scratch("worth", block.groups[0].shape)[:, : group.shape[1]]
            torch.eq(labels, these, out=is_own)
            if block.valid is not None:
                is_own.mul_(block.valid)
            torch.sum(is_own, -1, out=totals[-1])
            for value, total in zip(values, totals[:-1], strict=True):
                torch.sum(torch.mul(is_own, value, out=group), -1, out=total)

    def _voxels(self, batch: int, voxels: int) -> Tensor:
        """0 to N - 1 for each sample, kept for the next block of that size."""
        if self._index.shape != (batch, voxels):
            self._index = torch.arange(voxels).expand(batch, voxels)
        return self._index


def _largest(group: Tensor) -> Tensor:
    """The largest channel B1N, itself where it is the only one: torch takes long over one."""
    return group if group.shape[1] == 1 else group.amax(1, keepdim=True)


def _total(group: Tensor) -> Tensor:
    """The sum of the channels, likewise."""
    return group if group.shape[1] == 1 else group.sum(1, keepdim=True)


def _own(table: Tensor, block: _Block) -> Tensor:
    """The own class's number B1N, from one for each class `(B, C, 1)`."""
    return table.reshape(-1).index_select(0, block.rows).view_as(block.share)


def _count(block: _Block, values: tuple[Tensor, ...], sums: tuple[Tensor, ...]) -> None:
    """Add up values by the voxels' own classes into `(B, C)` each, and last the voxels."""
    num_rows = sums[0].numel()
    for value, total in zip((*values, block.valid), sums, strict=True):
        weight = None if value is None else value.reshape(-1).double()
        counted = torch.bincount(block.rows, weight, minlength=num_rows)
        total.copy_(counted.view_as(total))
