"""`FocalLoss` with MONAI's numbers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.loss import _Loss

from segfocal.compat.monai.options import ClassWeight, reduction_word, warn_of_single_channel
from segfocal.compat.monai.pair import Pair, is_usual_gamma


class FocalLoss(_Loss):
    """Focal loss on logits, as `monai.losses.FocalLoss`.

    Its "mean" divides by all elements, classes included, and with an `ignore_index` by the voxels
    that count; its "sum" is a mean over the voxels and a sum over samples and classes.

    Args:
        include_background: Whether channel 0 counts. Under softmax it leaves the softmax too.
        to_onehot_y: The target holds labels `(B, 1, *S)`.
        gamma: Exponent.
        alpha: Balance. One number weighs positives alpha and negatives 1 - alpha, under softmax
            class 0 by 1 - alpha and the others by alpha. A sequence weighs the positives of each
            class that counts; negatives weigh 1.
        weight: Weight >= 0, one number or one per class that counts.
        reduction: "mean", "sum", or "none" for a value per voxel and class.
        use_softmax: Softmax over the channels; otherwise a sigmoid on each.
        ignore_index: A label that does not count.

    Raises:
        ValueError: If options, weights or shapes do not fit.

    Example:
        >>> loss = FocalLoss(to_onehot_y=True, gamma=0.0)
        >>> round(loss(torch.zeros(1, 2, 3), torch.tensor([[[0, 1, 1]]])).item(), 4)
        0.6931
    """

    alpha: float | Tensor | None
    class_weight: Tensor | None

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        gamma: float = 2.0,
        alpha: float | Sequence[float] | None = None,
        weight: ClassWeight = None,
        reduction: str = "mean",
        use_softmax: bool = False,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(reduction=reduction_word(reduction))
        self.include_background = include_background
        self.to_onehot_y = to_onehot_y
        self.gamma = gamma
        self.weight = weight
        self.use_softmax = use_softmax
        if alpha is None:
            self.alpha = None
        else:
            self.alpha = float(alpha) if isinstance(alpha, float | int) else torch.as_tensor(alpha)
        self.register_buffer("class_weight", None if weight is None else torch.as_tensor(weight))
        self.ignore_index = ignore_index

    def forward(
        self,
        input: Tensor,  # noqa: A002 - MONAI's name
        target: Tensor,
    ) -> Tensor:
        """The loss of logits `(B, C, *S)` and a target of their shape, or of labels `(B, 1, *S)`.

        Raises:
            ValueError: If the shapes, or the number of weights or alphas, do not fit.
        """
        return self.of(
            Pair(
                input,
                target,
                to_onehot=self.to_onehot_y,
                ignore_index=self.ignore_index,
                gamma=self.gamma,
            )
        )

    def of(self, pair: Pair) -> Tensor:
        """The loss of a pair, which a compound loss shares among its terms."""
        if pair.num_classes == 1:
            if self.to_onehot_y:
                warn_of_single_channel("to_onehot_y=True")
            if not self.include_background:
                warn_of_single_channel("include_background=False")
        terms = self._from_sums(pair)
        return self._from_voxels(pair) if terms is None else terms

    def _from_sums(self, pair: Pair) -> Tensor | None:
        """The loss as algebra on the op's sums, or None where it is not."""
        cuts_softmax = self.use_softmax and not self.include_background
        counts_in_half = pair.mask_dtype in (torch.float16, torch.bfloat16)
        if self.reduction == "none" or cuts_softmax or counts_in_half:
            return None
        if not is_usual_gamma(self.gamma):
            return None
        sums = pair.sums("softmax" if self.use_softmax else "sigmoid")
        if sums is None:
            return None
        first = 0 if self.include_background or pair.num_classes == 1 else 1
        positives, negatives = sums.focal_pos[:, first:], sums.focal_neg[:, first:]
        alphas = self._alphas(positives)
        if alphas is not None:
            positives, negatives = alphas[0] * positives, alphas[1] * negatives
        terms = self._weigh(positives + negatives)
        loss = self._reduce_terms(terms, sums.n_valid[:, :1] if pair.ignores else None, pair)
        return loss.to(torch.promote_types(torch.float32, pair.mask_dtype))

    def _reduce_terms(self, terms: Tensor, valid: Tensor | None, pair: Pair) -> Tensor:
        """The mean or sum of terms `(B, C)` over so many voxels `(B, 1)`, or over all."""
        if valid is None:
            mean_of_each = terms / pair.logits[0, 0].numel()
            return mean_of_each.mean() if self.reduction == "mean" else mean_of_each.sum()
        tiny = torch.finfo(pair.mask_dtype).eps
        if self.reduction == "mean":
            return terms.sum() / valid.sum().clamp(min=tiny)
        return (terms / valid.clamp(min=tiny)).sum()

    def _from_voxels(self, pair: Pair) -> Tensor:
        logits, target, mask = pair.logits, pair.channels, pair.mask
        if not self.include_background and pair.num_classes > 1:
            logits, target = logits[:, 1:], target[:, 1:]
        if target.shape != logits.shape:
            raise ValueError(
                f"ground truth has different shape ({target.shape}) from input ({logits.shape})"
            )
        if mask is not None:
            logits, target = logits * mask, target * mask
        logits, target = logits.float(), target.float()
        formula = _softmax_focal if self.use_softmax else _sigmoid_focal
        loss = formula(logits, target, self.gamma)
        alphas = self._alphas(loss)
        if alphas is not None:
            loss = loss * self._voxel_alpha(target, *alphas)
        if mask is not None:
            loss = loss * mask
        loss = self._weigh(loss)
        if self.reduction == "none":
            return loss
        spatial = list(range(2, target.ndim))
        if mask is None:
            return loss.mean() if self.reduction == "mean" else loss.mean(spatial).sum()
        tiny = torch.finfo(mask.dtype).eps
        if self.reduction == "mean":
            return loss.sum() / mask.sum().clamp(min=tiny)
        total, valid = loss.sum(spatial, keepdim=True), mask.sum(spatial, keepdim=True)
        return (total / valid.clamp(min=tiny)).sum()

    def _alphas(self, loss: Tensor) -> tuple[Tensor, Tensor] | None:
        """The weight of positives and of negatives, `(C,)` or `()` each, for a loss `(B, C, ...)`.

        Under softmax there is no loss at negatives.
        """
        if self.alpha is None:
            return None
        if self.use_softmax and not self.include_background and isinstance(self.alpha, float):
            warnings.warn(
                "`include_background=False`, scalar `alpha` ignored when using softmax.",
                stacklevel=2,
            )
            return None
        num_classes = loss.shape[1]
        if isinstance(self.alpha, float):
            alpha = loss.new_full((), self.alpha, dtype=torch.float32)
        else:
            alpha = self.alpha.to(loss.device, torch.float32)
        if alpha.ndim == 0 and not self.use_softmax:
            return alpha, 1 - alpha
        if alpha.ndim == 0:
            foreground = alpha.expand(num_classes - 1)
            return torch.cat([1 - alpha[None], foreground]), alpha.new_ones(())
        if alpha.shape[0] != num_classes:
            raise ValueError(
                f"The length of alpha ({alpha.shape[0]}) must match the number of classes "
                f"({num_classes})."
            )
        return alpha, alpha.new_ones(())

    def _voxel_alpha(self, target: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The weight of each voxel: in between for a soft target, where alpha is one number."""
        if positive.ndim == 0:
            return target * positive + (1 - target) * negative
        positive = positive.view(-1, *(1,) * (target.ndim - 2))
        return positive if self.use_softmax else torch.where(target == 1, positive, negative)

    def _weigh(self, loss: Tensor) -> Tensor:
        """The loss `(B, C, ...)` times the class weight."""
        if self.class_weight is None:
            return loss
        weight = self.class_weight.to(loss)
        num_classes = loss.shape[1]
        if weight.ndim > 0:
            if num_classes == 1:
                raise ValueError(
                    "Per-class class_weight is not supported for single-channel outputs."
                )
            if weight.numel() != num_classes:
                raise ValueError(
                    f"The number of class_weight ({weight.numel()}) must match the number of "
                    f"output channels ({num_classes})."
                )
            weight = weight.view(-1, *(1,) * (loss.ndim - 2))
        if (weight < 0).any():
            raise ValueError("class_weight values must be non-negative.")
        return loss * weight


def _softmax_focal(logits: Tensor, target: Tensor, gamma: float) -> Tensor:
    log_p = logits.log_softmax(1)
    return -(1 - log_p.exp()).pow(gamma) * log_p * target


def _sigmoid_focal(logits: Tensor, target: Tensor, gamma: float) -> Tensor:
    """Of a soft target t the modulation is that of a voxel at (2t - 1) z."""
    cross_entropy = logits - logits * target - F.logsigmoid(logits)
    return (gamma * F.logsigmoid(-logits * (2 * target - 1))).exp() * cross_entropy
