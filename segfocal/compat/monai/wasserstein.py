"""`GeneralizedWassersteinDiceLoss` with MONAI's numbers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.loss import _Loss

from segfocal.checks import plain_tensor
from segfocal.compat.monai.options import reduction_word


class GeneralizedWassersteinDiceLoss(_Loss):
    """Dice loss with a distance between classes, as `monai.losses.GeneralizedWassersteinDiceLoss`.

    Args:
        dist_matrix: `(C, C)` distances between the classes; divided by the largest.
        weighting_mode: "default", where the foreground weighs 1 and the background 0, or "GDL",
            where a class weighs 1 / (its size + 1).
        reduction: "mean", "sum" or "none" for `(B,)`.
        smooth_nr: Added to the numerator.
        smooth_dr: Added to the denominator.

    Raises:
        ValueError: If options do not fit.

    Reference:
        Fidon et al., Generalised Wasserstein Dice Score, 2017, arXiv:1707.00478.

    Example:
        >>> loss = GeneralizedWassersteinDiceLoss(np.array([[0.0, 1.0], [1.0, 0.0]]))
        >>> round(loss(torch.zeros(1, 2, 3), torch.tensor([[[0, 1, 1]]])).item(), 4)
        0.4286
    """

    def __init__(
        self,
        dist_matrix: npt.NDArray[np.floating] | Tensor,
        weighting_mode: str = "default",
        reduction: str = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
    ) -> None:
        super().__init__(reduction=reduction_word(reduction))
        if dist_matrix.shape[0] != dist_matrix.shape[1]:
            raise ValueError(
                f"dist_matrix must be C x C, got {dist_matrix.shape[0]} x {dist_matrix.shape[1]}."
            )
        if weighting_mode not in ("default", "GDL"):
            raise ValueError(
                f"weighting_mode must be either 'default' or 'GDL', got {weighting_mode}."
            )
        matrix = dist_matrix if isinstance(dist_matrix, Tensor) else torch.from_numpy(dist_matrix)
        self.m: Tensor = matrix if matrix.max() == 1 else matrix / matrix.max()
        self.alpha_mode = weighting_mode
        self.num_classes = self.m.shape[0]
        self.smooth_nr = float(smooth_nr)
        self.smooth_dr = float(smooth_dr)

    def forward(
        self,
        input: Tensor,  # noqa: A002 - MONAI's name
        target: Tensor,
    ) -> Tensor:
        """The loss of logits `(B, C, *S)` and labels `(B, *S)` or `(B, 1, *S)`."""
        logits, target = plain_tensor("input", input), plain_tensor("target", target)
        probs = logits.flatten(2).softmax(1)
        labels = target.reshape(target.shape[0], 1, -1).long()
        dtype = torch.promote_types(self.m.dtype, probs.dtype)
        distances = self.m.to(probs.device, dtype) @ probs.to(dtype)  # from each class, (B, C, S)
        of_voxel = labels.expand(probs.shape[0], -1, probs.shape[2])
        distance = distances.gather(1, of_voxel)[:, 0]
        weight = self._weights(labels, probs.device).gather(1, labels[:, 0])
        right = (weight * (1 - distance)).sum(1)
        if self.alpha_mode == "GDL":
            total = (weight * (2 - distance)).sum(1)
        else:
            total = 2 * right + distance.sum(1)
        loss = 1 - (2 * right + self.smooth_nr) / (total + self.smooth_dr)
        if self.reduction == "none":
            return loss
        return loss.mean() if self.reduction == "mean" else loss.sum()

    def _weights(self, labels: Tensor, device: torch.device) -> Tensor:
        """Weight of each class `(B, C)`."""
        if self.alpha_mode == "GDL":
            sizes = F.one_hot(labels[:, 0], self.num_classes).sum(1)
            return 1 / (sizes.float() + 1)
        weights = torch.ones(labels.shape[0], self.num_classes, device=device)
        weights[:, 0] = 0
        return weights
