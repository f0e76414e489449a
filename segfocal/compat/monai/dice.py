"""`DiceLoss` and `MaskedDiceLoss` with MONAI's numbers."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from segfocal.checks import plain_tensor
from segfocal.compat.monai.options import (
    ClassWeight,
    OtherActivation,
    check_activation,
    warn_of_single_channel,
)
from segfocal.compat.monai.overlap import OverlapLoss, activate
from segfocal.compat.monai.pair import Pair


class DiceLoss(OverlapLoss):
    """Dice loss of each sample and class, averaged, as `monai.losses.DiceLoss`.

    Args:
        include_background: Whether channel 0 counts.
        to_onehot_y: The target holds labels `(B, 1, *S)`.
        sigmoid: Take the sigmoid of the input.
        softmax: Take the softmax of the input.
        other_act: Another activation; with none the input holds probabilities.
        squared_pred: Square probability and target in the denominator.
        jaccard: Jaccard index in place of Dice.
        reduction: "mean", "sum" or "none".
        smooth_nr: Added to the numerator.
        smooth_dr: Added to the denominator.
        batch: Sum over the batch before dividing.
        weight: Weight >= 0, one number or one per class that counts.
        soft_label: The semimetric form, for targets between 0 and 1.
        ignore_index: A label that does not count.

    Raises:
        TypeError: If `other_act` is not callable.
        ValueError: If options or weights do not fit.
        AssertionError: At the call, if the shapes differ.

    Example:
        >>> loss = DiceLoss(to_onehot_y=True, softmax=True, include_background=False)
        >>> round(loss(torch.zeros(1, 2, 3), torch.tensor([[[0, 1, 1]]])).item(), 4)
        0.4286
    """

    class_weight: Tensor | None

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: OtherActivation = None,
        squared_pred: bool = False,
        jaccard: bool = False,
        reduction: str = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        weight: ClassWeight = None,
        soft_label: bool = False,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(
            include_background=include_background,
            to_onehot_y=to_onehot_y,
            sigmoid=sigmoid,
            softmax=softmax,
            other_act=other_act,
            reduction=reduction,
            smooth_nr=smooth_nr,
            smooth_dr=smooth_dr,
            batch=batch,
            soft_label=soft_label,
        )
        self.squared_pred = squared_pred
        self.jaccard = jaccard
        self.ignore_index = ignore_index
        self.register_buffer("class_weight", None if weight is None else torch.as_tensor(weight))

    def of(self, pair: Pair) -> Tensor:
        """The loss of a pair, which a compound loss shares among its terms."""
        tp, fp, fn, _ = self._overlap(pair, order=2 if self.squared_pred else 1)
        if not self.jaccard:
            fp, fn = fp * 0.5, fn * 0.5
        loss = 1 - (2 * tp + self.smooth_nr) / (2 * (tp + fp + fn) + self.smooth_dr)
        num_classes = pair.num_classes
        if not self.include_background and num_classes > 1:
            num_classes -= 1
        if self.class_weight is not None and num_classes > 1:
            loss = loss * self._checked_weight(self.class_weight, num_classes).to(loss)
        return self._reduce(loss, pair.logits.ndim)

    @staticmethod
    def _checked_weight(weight: Tensor, num_classes: int) -> Tensor:
        if weight.ndim > 0 and weight.shape[0] != num_classes:
            raise ValueError(
                "The length of the `weight` sequence should be the same as the number of classes. "
                "If `include_background=False`, the weight should not include the background "
                "category class 0."
            )
        if weight.min() < 0:
            raise ValueError("the value/values of the `weight` should be no less than 0.")
        return weight


class MaskedDiceLoss(DiceLoss):
    """`DiceLoss` of input and target multiplied by a mask, as `monai.losses.MaskedDiceLoss`.

    With `to_onehot_y` a masked label becomes label 0, whose voxels count as background. The
    arguments are those of `DiceLoss`.

    Example:
        >>> loss = MaskedDiceLoss(sigmoid=True)
        >>> target = torch.tensor([[[0.0, 1.0, 1.0]]])
        >>> round(loss(torch.zeros(1, 1, 3), target, torch.tensor([[[1, 1, 0]]])).item(), 4)
        0.5
    """

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: OtherActivation = None,
        squared_pred: bool = False,
        jaccard: bool = False,
        reduction: str = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        weight: ClassWeight = None,
        soft_label: bool = False,
    ) -> None:
        check_activation(sigmoid, softmax, other_act)
        super().__init__(
            include_background=include_background,
            to_onehot_y=to_onehot_y,
            squared_pred=squared_pred,
            jaccard=jaccard,
            reduction=reduction,
            smooth_nr=smooth_nr,
            smooth_dr=smooth_dr,
            batch=batch,
            weight=weight,
            soft_label=soft_label,
        )
        self.pre_sigmoid = sigmoid
        self.pre_softmax = softmax
        self.pre_other_act = other_act

    def forward(
        self,
        input: Tensor,  # noqa: A002 - MONAI's name
        target: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The loss where `mask`, `(B, 1, *S)` or `(1, 1, *S)`, is 1.

        Raises:
            ValueError: If the mask has another batch size, or several channels.
        """
        logits, target = plain_tensor("input", input), plain_tensor("target", target)
        if self.pre_softmax and logits.shape[1] == 1:
            warn_of_single_channel("softmax=True")
        probs = activate(logits, self.pre_sigmoid, self.pre_softmax, self.pre_other_act)
        if mask is None:
            warnings.warn("No mask value specified for the MaskedLoss.", stacklevel=2)
            return super().forward(probs, target)
        mask = plain_tensor("mask", mask)
        _check_mask(probs, target, mask)
        return super().forward(probs * mask, target * mask)


def _check_mask(probs: Tensor, target: Tensor, mask: Tensor) -> None:
    if probs.ndim != mask.ndim:
        warnings.warn(
            f"Dim of input ({probs.shape}) is different from mask ({mask.shape}).", stacklevel=3
        )
    if mask.shape[0] not in (1, probs.shape[0]):
        raise ValueError(
            f"Batch size of mask ({mask.shape}) must be one or equal to input ({probs.shape})."
        )
    if target.ndim > 1:
        if mask.shape[1] != 1:
            raise ValueError(f"Mask ({mask.shape}) must have only one channel.")
        if probs.shape[2:] != mask.shape[2:]:
            warnings.warn(
                f"Spatial size of input ({probs.shape}) is different from mask ({mask.shape}).",
                stacklevel=3,
            )
