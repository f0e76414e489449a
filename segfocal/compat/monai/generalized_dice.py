"""`GeneralizedDiceLoss` and `GeneralizedDiceFocalLoss` with MONAI's numbers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

from segfocal.compat.monai.focal import FocalLoss
from segfocal.compat.monai.options import (
    ClassWeight,
    OtherActivation,
    check_channels,
    check_lambda,
    weight_type_word,
)
from segfocal.compat.monai.overlap import OverlapLoss
from segfocal.compat.monai.pair import Pair


class GeneralizedDiceLoss(OverlapLoss):
    """Generalised Dice loss, as `monai.losses.GeneralizedDiceLoss`.

    The overlaps of all classes are summed with weights from the size of each, where an absent
    class weighs as much as the heaviest one.

    Args:
        include_background: Whether channel 0 counts.
        to_onehot_y: The target holds labels `(B, 1, *S)`.
        sigmoid: Take the sigmoid of the input.
        softmax: Take the softmax of the input.
        other_act: Another activation; with none the input holds probabilities.
        w_type: Weight of a class: "square" 1 / size^2, "simple" 1 / size, or "uniform" 1.
        reduction: "mean", "sum" or "none".
        smooth_nr: Added to the numerator.
        smooth_dr: Added to the denominator.
        batch: Sum over the batch before dividing.
        soft_label: The semimetric form, for targets between 0 and 1.

    Raises:
        TypeError: If `other_act` is not callable.
        ValueError: If options do not fit.
        AssertionError: At the call, if the shapes differ.

    Example:
        >>> loss = GeneralizedDiceLoss(to_onehot_y=True, softmax=True)
        >>> round(loss(torch.zeros(1, 2, 3), torch.tensor([[[0, 1, 1]]])).item(), 4)
        0.5556
    """

    _shapes = "ground truth has differing shape ({target}) from input ({probs})"

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: OtherActivation = None,
        w_type: str = "square",
        reduction: str = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        soft_label: bool = False,
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
        self.w_type = weight_type_word(w_type)

    def w_func(self, grnd: Tensor) -> Tensor:
        """The weight of each class, from its size."""
        if self.w_type == "simple":
            return torch.reciprocal(grnd)
        if self.w_type == "square":
            return torch.reciprocal(grnd * grnd)
        return torch.ones_like(grnd)

    def of(self, pair: Pair) -> Tensor:
        """The loss of a pair, which a compound loss shares among its terms."""
        tp, fp, fn, target = self._overlap(pair)
        union = 2 * (tp + fp * 0.5 + fn * 0.5)
        weight = self.w_func(target.float())
        absent = torch.isinf(weight)
        present = torch.where(absent, 0, weight)
        largest = present.max() if self.batch else present.amax(1, keepdim=True)
        weight = torch.where(absent, largest, present)
        classes = 0 if self.batch else 1
        overlap = 2 * (tp * weight).sum(classes, keepdim=True) + self.smooth_nr
        total = (union * weight).sum(classes, keepdim=True) + self.smooth_dr
        return self._reduce(1 - overlap / total, pair.logits.ndim)


class GeneralizedDiceFocalLoss(_Loss):
    """Generalised Dice plus **sigmoid** focal loss, as `monai.losses.GeneralizedDiceFocalLoss`.

    Args:
        include_background: Both terms: whether channel 0 counts.
        to_onehot_y: The target holds labels `(B, 1, *S)`.
        sigmoid: Dice term: take the sigmoid of the input.
        softmax: Dice term: take the softmax of the input.
        other_act: Dice term: another activation.
        w_type: Dice term: "square", "simple" or "uniform".
        reduction: "mean", "sum" or "none".
        smooth_nr: Dice term: added to the numerator.
        smooth_dr: Dice term: added to the denominator.
        batch: Dice term: sum over the batch before dividing.
        gamma: Focal term: exponent.
        weight: Focal term: weight >= 0, one number or one per class that counts.
        lambda_gdl: Weight >= 0 of the Dice term.
        lambda_focal: Weight >= 0 of the focal term.

    Raises:
        TypeError: If `other_act` is not callable.
        ValueError: If options, weights or shapes do not fit.
        AssertionError: At the call, if the spatial shapes differ.

    Example:
        >>> loss = GeneralizedDiceFocalLoss(to_onehot_y=True, softmax=True)
        >>> round(loss(torch.zeros(1, 2, 3), torch.tensor([[[0, 1, 1]]])).item(), 4)
        0.7288
    """

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: OtherActivation = None,
        w_type: str = "square",
        reduction: str = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        gamma: float = 2.0,
        weight: ClassWeight = None,
        lambda_gdl: float = 1.0,
        lambda_focal: float = 1.0,
    ) -> None:
        super().__init__()
        self.generalized_dice = GeneralizedDiceLoss(
            include_background=include_background,
            to_onehot_y=to_onehot_y,
            sigmoid=sigmoid,
            softmax=softmax,
            other_act=other_act,
            w_type=w_type,
            reduction=reduction,
            smooth_nr=smooth_nr,
            smooth_dr=smooth_dr,
            batch=batch,
        )
        self.focal = FocalLoss(
            include_background=include_background,
            to_onehot_y=to_onehot_y,
            gamma=gamma,
            weight=weight,
            reduction=reduction,
        )
        self.lambda_gdl = check_lambda("lambda_gdl", lambda_gdl)
        self.lambda_focal = check_lambda("lambda_focal", lambda_focal)

    def forward(
        self,
        input: Tensor,  # noqa: A002 - MONAI's name
        target: Tensor,
    ) -> Tensor:
        """The loss of logits `(B, C, *S)` and a target of their shape, or of labels `(B, 1, *S)`.

        Raises:
            ValueError: If the numbers of axes differ, or the target has neither 1 nor C channels.
        """
        check_channels(input, target)
        to_onehot = self.generalized_dice.to_onehot_y
        pair = Pair(input, target, to_onehot=to_onehot, gamma=self.focal.gamma)
        dice = self.generalized_dice.of(pair)
        return self.lambda_gdl * dice + self.lambda_focal * self.focal.of(pair)
