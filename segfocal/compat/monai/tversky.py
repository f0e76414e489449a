"""`TverskyLoss` with MONAI's numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from segfocal.compat.monai.options import OtherActivation
from segfocal.compat.monai.overlap import OverlapLoss
from segfocal.compat.monai.pair import Pair


class TverskyLoss(OverlapLoss):
    """Tversky loss of each sample and class, averaged, as `monai.losses.TverskyLoss`.

    Args:
        include_background: Whether channel 0 counts.
        to_onehot_y: The target holds labels `(B, 1, *S)`.
        sigmoid: Take the sigmoid of the input.
        softmax: Take the softmax of the input.
        other_act: Another activation; with none the input holds probabilities.
        alpha: Weight of false positives.
        beta: Weight of false negatives.
        reduction: "mean", "sum" or "none" for `(B, C)`.
        smooth_nr: Added to the numerator.
        smooth_dr: Added to the denominator.
        batch: Sum over the batch before dividing.
        soft_label: The semimetric form, for targets between 0 and 1.
        ignore_index: A label that does not count.

    Raises:
        TypeError: If `other_act` is not callable.
        ValueError: If options do not fit.
        AssertionError: At the call, if the shapes differ.

    Example:
        >>> loss = TverskyLoss(to_onehot_y=True, softmax=True, alpha=0.3, beta=0.7)
        >>> round(loss(torch.zeros(1, 2, 3), torch.tensor([[[0, 1, 1]]])).item(), 4)
        0.5123
    """

    _masks_before_comparing = True
    _sums_errors_themselves = True
    _shapes = "ground truth has differing shape ({target}) from input ({probs})"

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: OtherActivation = None,
        alpha: float = 0.5,
        beta: float = 0.5,
        reduction: str = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
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
        self.alpha = alpha
        self.beta = beta
        self.ignore_index = ignore_index

    def of(self, pair: Pair) -> Tensor:
        """The loss of a pair of logits and target."""
        tp, fp, fn, _ = self._overlap(pair)
        fp, fn = self.alpha * fp, self.beta * fn
        loss = 1 - (tp + self.smooth_nr) / (tp + fp + fn + self.smooth_dr)
        if self.reduction == "none":
            return loss
        return torch.mean(loss) if self.reduction == "mean" else torch.sum(loss)
