"""`AsymmetricUnifiedFocalLoss` with MONAI's numbers."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

from segfocal.checks import plain_tensor
from segfocal.compat.monai.options import reduction_word
from segfocal.compat.monai.pair import ignore_mask, one_hot

_EPSILON = 1e-7


class AsymmetricUnifiedFocalLoss(_Loss):
    """Asymmetric unified focal loss of background and one foreground class, as in MONAI.

    `monai.losses.AsymmetricUnifiedFocalLoss` takes its input for **probabilities**, whatever its
    own documentation says of logits, and so does this. Both terms are means, so that `reduction`
    has nothing left to reduce.

    Args:
        to_onehot_y: The target holds labels `(B, 1, *S)`.
        num_classes: 2.
        weight: Share of the focal term; the focal Tversky term has the rest.
        gamma: Exponent.
        delta: Weight of the foreground and of false negatives; the rest is background's.
        reduction: "mean", "sum" or "none".
        ignore_index: A label that does not count.

    Raises:
        ValueError: If options, shapes or labels do not fit.

    Reference:
        Yeung et al., Unified Focal loss, 2022, arXiv:2102.04525.

    Example:
        >>> loss = AsymmetricUnifiedFocalLoss(to_onehot_y=True)
        >>> probs = torch.full((1, 2, 2, 2), 0.5)
        >>> round(loss(probs, torch.tensor([[[[0, 1], [1, 1]]]])).item(), 4)
        0.4207
    """

    def __init__(
        self,
        to_onehot_y: bool = False,
        num_classes: int = 2,
        weight: float = 0.5,
        gamma: float = 0.5,
        delta: float = 0.7,
        reduction: str = "mean",
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(reduction=reduction_word(reduction))
        self.to_onehot_y = to_onehot_y
        self.num_classes = num_classes
        self.gamma = gamma
        self.delta = delta
        self.weight = weight
        self.ignore_index = ignore_index

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """The loss of probabilities `(B, 2, *S)` or `(B, 1, *S)`, with two or three spatial axes.

        Raises:
            ValueError: If the shapes do not fit, or a target is larger than `num_classes - 1`.
        """
        probs, target = plain_tensor("y_pred", y_pred), plain_tensor("y_true", y_true)
        if probs.ndim not in (4, 5):
            raise ValueError(f"input shape must be 4 or 5, but got {probs.shape}")
        given = target
        probs, target = self._two_channels(probs, target)
        if self.ignore_index is None and target.max() > self.num_classes - 1:
            raise ValueError(
                f"Invalid class index found. Maximum class should be {self.num_classes - 1}"
            )
        mask = ignore_mask(given, self.ignore_index)
        if mask is not None:
            probs, target = probs * mask, target * mask
        if target.shape != probs.shape:
            raise ValueError(
                f"ground truth has different shape ({target.shape}) from input ({probs.shape})"
            )
        probs = probs.clamp(_EPSILON, 1 - _EPSILON)
        focal, tversky = self._focal(probs, target), self._focal_tversky(probs, target)
        return self.weight * focal + (1 - self.weight) * tversky

    def _two_channels(self, probs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Background and foreground, of input and target."""
        is_single = probs.shape[1] == 1
        if is_single and self.to_onehot_y:
            warnings.warn("single channel prediction, `to_onehot_y=True` ignored.", stacklevel=3)
        if is_single and self.ignore_index is not None:
            warnings.warn(
                "single channel prediction, `ignore_index` is applied to label-encoded targets.",
                stacklevel=3,
            )
        has_labels = self.to_onehot_y and not is_single
        may_differ = has_labels or (is_single and target.shape[1] == 1)
        if not may_differ and target.shape != probs.shape:
            raise ValueError(
                f"ground truth has different shape ({target.shape}) from input ({probs.shape})"
            )
        if is_single:
            probs = torch.cat([1 - probs, probs], 1)
        if has_labels:
            ignored = self.ignore_index
            if ignored is not None and not 0 <= ignored < self.num_classes:
                target = torch.where(target == ignored, torch.zeros_like(target), target)
            return probs, one_hot(target, self.num_classes)
        if target.shape[1] == 1:
            target = torch.cat([1 - target, target], 1)
        return probs, target

    def _focal(self, probs: Tensor, target: Tensor) -> Tensor:
        """Focal for the background, cross-entropy for the foreground."""
        entropy = -target * probs.log()
        background = (1 - self.delta) * (1 - probs[:, 0]) ** self.gamma * entropy[:, 0]
        return torch.stack([background, self.delta * entropy[:, 1]], 1).mean()

    def _focal_tversky(self, probs: Tensor, target: Tensor) -> Tensor:
        """Tversky for the background, focal Tversky for the foreground."""
        spatial = list(range(2, probs.ndim))
        tp = (target * probs).sum(spatial)
        fn = (target * (1 - probs)).sum(spatial)
        fp = ((1 - target) * probs).sum(spatial)
        index = (tp + _EPSILON) / (tp + self.delta * fn + (1 - self.delta) * fp + _EPSILON)
        background, foreground = 1 - index[:, 0], (1 - index[:, 1]) ** (1 - self.gamma)
        return torch.stack([background, foreground], -1).mean()
