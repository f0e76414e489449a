"""What Dice, generalised Dice and Tversky have in common: activation, target, and their overlap."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

from segfocal.checks import Activation
from segfocal.compat.monai.options import (
    OtherActivation,
    check_activation,
    reduction_word,
    warn_of_single_channel,
)
from segfocal.compat.monai.pair import Pair
from segfocal.ops.class_sums import ClassSums


class Overlap(NamedTuple):
    """Sums of each sample and class `(B, C)`, or of each class `(C,)` over the batch.

    Attributes:
        tp: Probability where the target is.
        fp: Probability where it is not.
        fn: Target that is not predicted.
        target: Sum of the target.
    """

    tp: Tensor
    fp: Tensor
    fn: Tensor
    target: Tensor


class OverlapLoss(_Loss):
    """Holds MONAI's common arguments, and takes the overlap from the op where it can."""

    ignore_index: int | None = None
    _masks_before_comparing = False
    _sums_errors_themselves = False
    _shapes = "ground truth has different shape ({target}) from input ({probs})"

    def __init__(
        self,
        *,
        include_background: bool,
        to_onehot_y: bool,
        sigmoid: bool,
        softmax: bool,
        other_act: OtherActivation,
        reduction: str,
        smooth_nr: float,
        smooth_dr: float,
        batch: bool,
        soft_label: bool,
    ) -> None:
        super().__init__(reduction=reduction_word(reduction))
        check_activation(sigmoid, softmax, other_act)
        self.include_background = include_background
        self.to_onehot_y = to_onehot_y
        self.sigmoid = sigmoid
        self.softmax = softmax
        self.other_act = other_act
        self.smooth_nr = float(smooth_nr)
        self.smooth_dr = float(smooth_dr)
        self.batch = batch
        self.soft_label = soft_label

    def forward(
        self,
        input: Tensor,  # noqa: A002 - MONAI's name
        target: Tensor,
    ) -> Tensor:
        """The loss of an input and target `(B, C, *S)`, or of labels `(B, 1, *S)`."""
        pair = Pair(input, target, to_onehot=self.to_onehot_y, ignore_index=self.ignore_index)
        return self.of(pair)

    def of(self, pair: Pair) -> Tensor:
        """The loss of a pair, which a compound loss shares among its terms."""
        raise NotImplementedError

    def _overlap(self, pair: Pair, order: int = 1) -> Overlap:
        """The overlap, with probability and target to the power of `order`."""
        if pair.num_classes == 1:
            for option, is_set in (
                ("softmax=True", self.softmax),
                ("to_onehot_y=True", self.to_onehot_y),
                ("include_background=False", not self.include_background),
            ):
                if is_set:
                    warn_of_single_channel(option)
        sums = self._sums(pair, order)
        return self._spelled_out(pair, order) if sums is None else self._of_sums(pair, sums, order)

    def _sums(self, pair: Pair, order: int) -> ClassSums | None:
        if self._activation is None or not keeps_float32(pair.logits):
            return None
        if not self._has_terms(pair, order):
            return None  # MONAI raises an error
        return pair.sums(self._activation)

    def _has_terms(self, pair: Pair, order: int) -> bool:
        """Whether torch has the operations that MONAI puts the target through."""
        if pair.ignores:
            return True  # the mask makes it floating point
        if order > 1 or self.soft_label:
            return pair.target_dtype.is_floating_point
        return not (self._sums_errors_themselves and pair.target_dtype == torch.bool)

    @property
    def _activation(self) -> Activation | None:
        if self.sigmoid:
            return "sigmoid"
        return "softmax" if self.softmax else None

    def _of_sums(self, pair: Pair, sums: ClassSums, order: int) -> Overlap:
        """For a target of 0 and 1, whatever the order, the overlap is the sum of p over it."""
        first = 0 if self.include_background or pair.num_classes == 1 else 1
        dtype = torch.promote_types(sums.tp.dtype, pair.target_dtype)
        tp, probs, target = (
            field.to(dtype)[:, first:].sum(0) if self.batch else field.to(dtype)[:, first:]
            for field in (sums.tp, sums.p if order == 1 else sums.p_sq, sums.t)
        )
        return Overlap(tp, probs - tp, target - tp, target)

    def _spelled_out(self, pair: Pair, order: int) -> Overlap:
        probs = activate(pair.logits, self.sigmoid, self.softmax, self.other_act)
        target = pair.channels
        mask = pair.mask
        if self._masks_before_comparing and mask is not None:
            probs, target = probs * mask, target * mask
        if not self.include_background and pair.num_classes > 1:
            probs, target = probs[:, 1:], target[:, 1:]
        if target.shape != probs.shape:
            raise AssertionError(self._shapes.format(target=target.shape, probs=probs.shape))
        if not self._masks_before_comparing and mask is not None:
            probs, target = probs * mask, target * mask
        axes = [*([0] if self.batch else []), *range(2, probs.ndim)]
        if order > 1 or self.soft_label:
            return _semimetric_overlap(probs, target, axes, order)
        tp, total = (probs * target).sum(axes), target.sum(axes)
        if self._sums_errors_themselves:
            fp, fn = (probs * (1 - target)).sum(axes), ((1 - probs) * target).sum(axes)
            return Overlap(tp, fp, fn, total)
        return Overlap(tp, probs.sum(axes) - tp, total - tp, total)

    def _reduce(self, loss: Tensor, num_axes: int) -> Tensor:
        if self.reduction == "mean":
            return loss.mean()
        if self.reduction == "sum":
            return loss.sum()
        return loss.view([*loss.shape[:2], *[1] * (num_axes - 2)])


def activate(logits: Tensor, sigmoid: bool, softmax: bool, other_act: OtherActivation) -> Tensor:
    """The activation that is set; a softmax over a single channel is none."""
    if sigmoid:
        return torch.sigmoid(logits)
    if softmax:
        return torch.softmax(logits, 1) if logits.shape[1] > 1 else logits
    return logits if other_act is None else other_act(logits)


def keeps_float32(logits: Tensor) -> bool:
    """Whether MONAI sums these logits in float32 or wider, as the op always does.

    In half precision it sums in half precision, and overflows; under CUDA autocast it does not.
    """
    if logits.dtype in (torch.float32, torch.float64):
        return True
    return logits.is_cuda and torch.is_autocast_enabled("cuda")


def _semimetric_overlap(probs: Tensor, target: Tensor, axes: list[int], order: int) -> Overlap:
    """The overlap of Wang et al., arXiv:2303.16296, which is right for soft targets."""

    def total(values: Tensor) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(values, ord=order, dim=axes)
        return norm.pow(order)

    # the difference last, as there: a bool target fails at its norm
    predicted, there = total(probs), total(target)
    difference = total(probs - target)
    tp = (predicted + there - difference) / 2
    return Overlap(tp, predicted - tp, there - tp, target.sum(axes))
