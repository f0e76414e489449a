"""One-vs-rest focal loss as a module."""

from __future__ import annotations

from torch import Tensor

from segfocal.checks import ClassNumbers, IgnoreIndex
from segfocal.functional.focal import FocalOptions, check_focal_numbers
from segfocal.functional.one_vs_rest import check_p_smoothing, one_vs_rest_focal_loss
from segfocal.functional.voxel_options import Reduction
from segfocal.losses.base import Alpha, LogitsLoss


class OneVsRestFocalLoss(LogitsLoss):
    """One-vs-rest focal loss: `segfocal.functional.one_vs_rest_focal_loss`, arguments held.

    The arguments are explained there. `alpha` and a per-class `gamma` are buffers, and so in the
    `state_dict`.

    Args:
        gamma: Focusing exponent >= 0, one number or one per class.
        alpha: Weight of positives, one number or one per class.
        reduction: "mean", "sum" or "none".
        ignore_index: Label or labels whose voxels do not count; -100 as torch has it.
        p_smoothing: Smoothing in [0, 1) of the probability inside the focusing factor.
        check_target: Check the labels on every device, not on the CPU alone.
        backend: "auto", or a name from `segfocal.ops.backends()`.

    Raises:
        ValueError: At construction or call, if an argument does not fit.

    Example:
        >>> import torch
        >>> loss = OneVsRestFocalLoss(alpha=None)
        >>> round(loss(torch.zeros(2, 3), torch.tensor([2, -100])).item(), 4)
        0.1733
    """

    def __init__(
        self,
        gamma: ClassNumbers = 2.0,
        alpha: Alpha | None = 0.25,
        reduction: Reduction = "mean",
        ignore_index: IgnoreIndex = -100,
        p_smoothing: float = 0.0,
        *,
        check_target: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            activation="sigmoid",
            reduction=reduction,
            ignore_index=ignore_index,
            check_target=check_target,
            backend=backend,
        )
        self._hold_gamma(gamma)
        self.p_smoothing = p_smoothing
        self._hold_alpha(alpha)
        self.check_numbers()

    def check_numbers(self) -> None:
        """Refuse a number out of range.

        Raises:
            ValueError: Naming it.
        """
        super().check_numbers()
        check_p_smoothing(self.p_smoothing)
        options = FocalOptions(gamma=self.gamma, alpha=self.alpha, reduction=self.reduction)
        check_focal_numbers(options, self.activation)

    def forward(
        self,
        input: Tensor,  # noqa: A002 - torch's name
        target: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The loss of logits `(B, C, *S)` and integer labels."""
        voxels = self._voxels(input, target, mask)
        return one_vs_rest_focal_loss(
            voxels.logits,
            voxels.target,
            gamma=self.gamma,
            alpha=self.alpha,
            p_smoothing=self.p_smoothing,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
            mask=voxels.mask,
            check_target=self.check_target,
            backend=self.backend,
        )
