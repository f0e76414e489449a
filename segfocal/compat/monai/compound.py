"""`DiceFocalLoss` and `DiceCELoss` with MONAI's numbers."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from segfocal.compat.monai.dice import DiceLoss
from segfocal.compat.monai.focal import FocalLoss
from segfocal.compat.monai.options import (
    ClassWeight,
    OtherActivation,
    check_channels,
    check_lambda,
    reduction_word,
    warn_of_single_channel,
)
from segfocal.compat.monai.overlap import keeps_float32
from segfocal.compat.monai.pair import Pair


class DiceFocalLoss(_Loss):
    """Dice plus **sigmoid** focal loss, as `monai.losses.DiceFocalLoss`.

    With `softmax=True` the Dice term alone takes a softmax. With `sigmoid=True` both terms come
    from one pass over the voxels.

    Args:
        include_background: Both terms: whether channel 0 counts.
        to_onehot_y: The target holds labels `(B, 1, *S)`.
        sigmoid: Dice term: take the sigmoid of the input.
        softmax: Dice term: take the softmax of the input.
        other_act: Dice term: another activation.
        squared_pred: Dice term: square probability and target in the denominator.
        jaccard: Dice term: Jaccard index in place of Dice.
        reduction: "mean", "sum", or "none", where the Dice term is broadcast over the voxels.
        smooth_nr: Dice term: added to the numerator.
        smooth_dr: Dice term: added to the denominator.
        batch: Dice term: sum over the batch before dividing.
        gamma: Focal term: exponent.
        weight: Both terms: weight >= 0, one number or one per class that counts.
        lambda_dice: Weight >= 0 of the Dice term.
        lambda_focal: Weight >= 0 of the focal term.
        alpha: Focal term: balance.

    Raises:
        TypeError: If `other_act` is not callable.
        ValueError: If options, weights or shapes do not fit.
        AssertionError: At the call, if the spatial shapes differ.

    Example:
        >>> import torch
        >>> loss = DiceFocalLoss(to_onehot_y=True, softmax=True)
        >>> round(loss(torch.zeros(1, 2, 3), torch.tensor([[[0, 1, 1]]])).item(), 4)
        0.6876
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
        gamma: float = 2.0,
        weight: ClassWeight = None,
        lambda_dice: float = 1.0,
        lambda_focal: float = 1.0,
        alpha: float | None = None,
    ) -> None:
        super().__init__()
        self.dice = DiceLoss(
            include_background=include_background,
            sigmoid=sigmoid,
            softmax=softmax,
            other_act=other_act,
            squared_pred=squared_pred,
            jaccard=jaccard,
            reduction=reduction,
            smooth_nr=smooth_nr,
            smooth_dr=smooth_dr,
            batch=batch,
            weight=weight,
        )
        self.focal = FocalLoss(
            include_background=include_background,
            gamma=gamma,
            alpha=alpha,
            weight=weight,
            reduction=reduction,
        )
        self.lambda_dice = check_lambda("lambda_dice", lambda_dice)
        self.lambda_focal = check_lambda("lambda_focal", lambda_focal)
        self.to_onehot_y = to_onehot_y

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
        pair = Pair(input, target, to_onehot=self.to_onehot_y, gamma=self.focal.gamma)
        if self.to_onehot_y and pair.num_classes == 1:
            warn_of_single_channel("to_onehot_y=True")
        dice = self.dice.of(pair)
        return self.lambda_dice * dice + self.lambda_focal * self.focal.of(pair)


class DiceCELoss(_Loss):
    """Dice plus cross-entropy, as `monai.losses.DiceCELoss`.

    Of a single channel the cross-entropy is binary, of several it is that of the softmax, whatever
    the Dice term uses. With `softmax=True` both terms come from one pass over the voxels.

    Args:
        include_background: Dice term: whether channel 0 counts.
        to_onehot_y: The target holds labels `(B, 1, *S)`.
        sigmoid: Dice term: take the sigmoid of the input.
        softmax: Dice term: take the softmax of the input.
        other_act: Dice term: another activation.
        squared_pred: Dice term: square probability and target in the denominator.
        jaccard: Dice term: Jaccard index in place of Dice.
        reduction: "mean" or "sum".
        smooth_nr: Dice term: added to the numerator.
        smooth_dr: Dice term: added to the denominator.
        batch: Dice term: sum over the batch before dividing.
        weight: Both terms: weight >= 0 of each class, of class 0 too. Of a single channel: weight
            of its positives.
        lambda_dice: Weight >= 0 of the Dice term.
        lambda_ce: Weight >= 0 of the cross-entropy.
        label_smoothing: Cross-entropy: share of the target that is spread over all classes.

    Raises:
        TypeError: If `other_act` is not callable.
        ValueError: If options, weights or shapes do not fit.
        AssertionError: At the call, if the spatial shapes differ.

    Example:
        >>> import torch
        >>> loss = DiceCELoss(to_onehot_y=True, softmax=True)
        >>> round(loss(torch.zeros(1, 2, 3), torch.tensor([[[0, 1, 1]]])).item(), 4)
        1.2074
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
        weight: Tensor | None = None,
        lambda_dice: float = 1.0,
        lambda_ce: float = 1.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        reduction = dice_ce_reduction(reduction)
        self.dice = DiceLoss(
            include_background=include_background,
            to_onehot_y=to_onehot_y,
            sigmoid=sigmoid,
            softmax=softmax,
            other_act=other_act,
            squared_pred=squared_pred,
            jaccard=jaccard,
            reduction=reduction,
            smooth_nr=smooth_nr,
            smooth_dr=smooth_dr,
            batch=batch,
            weight=weight if weight is None or include_background else weight[1:],
        )
        self.cross_entropy = nn.CrossEntropyLoss(
            weight=weight, reduction=reduction, label_smoothing=label_smoothing
        )
        self.binary_cross_entropy = nn.BCEWithLogitsLoss(pos_weight=weight, reduction=reduction)
        self.lambda_dice = check_lambda("lambda_dice", lambda_dice)
        self.lambda_ce = check_lambda("lambda_ce", lambda_ce)

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
        pair = Pair(input, target, to_onehot=self.dice.to_onehot_y)
        dice = self.dice.of(pair)
        return self.lambda_dice * dice + self.lambda_ce * self._entropy(pair)

    def ce(
        self,
        input: Tensor,  # noqa: A002 - MONAI's name
        target: Tensor,
    ) -> Tensor:
        """Cross-entropy of logits and a target of their shape, or labels `(B, 1, *S)`."""
        if input.shape[1] != 1 and target.shape[1] == 1:
            target = target.squeeze(1).long()
        elif not target.is_floating_point():
            target = target.to(input.dtype)
        entropy: Tensor = self.cross_entropy(input, target)
        return entropy

    def bce(
        self,
        input: Tensor,  # noqa: A002 - MONAI's name
        target: Tensor,
    ) -> Tensor:
        """Binary cross-entropy of logits and a target of their shape."""
        if not target.is_floating_point():
            target = target.to(input.dtype)
        entropy: Tensor = self.binary_cross_entropy(input, target)
        return entropy

    def _entropy(self, pair: Pair) -> Tensor:
        is_single = pair.num_classes == 1
        if keeps_float32(pair.logits) and _is_of_one_dtype(pair):
            entropy = self._bce_from_sums(pair) if is_single else self._ce_from_sums(pair)
            if entropy is not None:
                return entropy
        spelled_out = self.bce if is_single else self.ce
        return spelled_out(pair.logits, pair.target)

    def _ce_from_sums(self, pair: Pair) -> Tensor | None:
        weight = self.cross_entropy.weight
        fits = weight is None or (
            weight.dtype == pair.logits.dtype and weight.shape == (pair.num_classes,)
        )
        fits = fits and self.cross_entropy.label_smoothing == 0
        sums = pair.sums("softmax") if fits else None
        if sums is None:
            return None
        losses, counts = sums.focal_pos, sums.t
        if weight is not None:
            losses, counts = losses * weight, counts * weight
        if self.cross_entropy.reduction == "sum":
            return losses.sum()
        # of one-hot targets torch takes the mean over the voxels, of labels over their weights
        return losses.sum() / (counts.sum() if pair.has_labels else sums.t.sum())

    def _bce_from_sums(self, pair: Pair) -> Tensor | None:
        weight = self.binary_cross_entropy.pos_weight
        fits = weight is None or (weight.dtype == pair.logits.dtype and weight.numel() == 1)
        sums = pair.sums("sigmoid") if fits else None
        if sums is None:
            return None
        positives = sums.focal_pos if weight is None else sums.focal_pos * weight
        total = (positives + sums.focal_neg).sum()
        return total / pair.logits.numel() if self.cross_entropy.reduction == "mean" else total


def dice_ce_reduction(reduction: object) -> str:
    """The reduction as a plain word: "mean" or "sum".

    Raises:
        ValueError: If it is another.
    """
    word = getattr(reduction, "value", reduction)
    return reduction_word(word.strip() if isinstance(word, str) else word, ("mean", "sum"))


def _is_of_one_dtype(pair: Pair) -> bool:
    """Whether torch's own cross-entropy would take the target beside these logits."""
    target = pair.target
    return pair.has_labels or not target.is_floating_point() or target.dtype == pair.logits.dtype
