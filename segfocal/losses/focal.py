"""Focal loss as a module."""

from __future__ import annotations

from torch import Tensor

from segfocal import checks
from segfocal.checks import ClassNumbers, IgnoreIndex, Regions
from segfocal.functional.across_ranks import Group
from segfocal.functional.focal import FocalOptions, Normalizer, check_focal_numbers, focal_of_voxels
from segfocal.functional.voxel_options import Reduction
from segfocal.losses.base import Alpha, LogitsLoss


class FocalLoss(LogitsLoss):
    """Focal loss: `segfocal.functional.focal_loss` with its arguments held.

    The arguments are explained there; the names are those of MONAI's `FocalLoss`. `alpha`,
    `weight` and a per-class `gamma` are buffers, and so in the `state_dict`: float32 whatever the
    model is cast to, float64 where a tensor of that dtype is given. Without `use_softmax` integer
    labels are one-vs-rest: a yes-or-no question for each class.

    Args:
        include_background: Whether channel 0 counts.
        to_onehot_y: Integer labels are recognised without it; True refuses a one-hot target.
        gamma: Focusing exponent >= 0, one number or one per channel.
        alpha: Balance, one number or one per channel, or the record that `segfocal.statistics`
            derives.
        weight: Weight >= 0, one number or one per channel.
        reduction: "mean", "sum" or "none".
        use_softmax: Softmax over the channels; otherwise a sigmoid on each.
        ignore_index: Label or labels whose voxels do not count.
        regions: Class indices that make up each channel.
        label_smoothing: Share in [0, 1) of each target that is spread over the classes.
        normalizer: What the focal mean divides by: "valid", "positives", "alpha" or "none".
        top_k: Per cent of the valid voxels that count, those with the largest loss.
        process_group: Ranks that share the batch: a group, or "world".
        check_target: Check the target's values on every device, not on the CPU alone.
        backend: "auto", or a name from `segfocal.ops.backends()`.

    Raises:
        ValueError: At construction or call, if an argument does not fit.

    Example:
        >>> import torch
        >>> loss = FocalLoss(use_softmax=True, alpha=[0.5, 1.5], ignore_index=255)
        >>> labels = torch.tensor([[[0, 1, 255]]], dtype=torch.uint8)
        >>> round(loss(torch.zeros(1, 2, 3), labels).item(), 4)
        0.1733
    """

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        gamma: ClassNumbers = 2.0,
        alpha: Alpha | None = None,
        weight: ClassNumbers | None = None,
        reduction: Reduction = "mean",
        use_softmax: bool = False,
        ignore_index: IgnoreIndex = None,
        *,
        regions: Regions = None,
        label_smoothing: float = 0.0,
        normalizer: Normalizer = "valid",
        top_k: float | None = None,
        process_group: Group = None,
        check_target: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            activation="softmax" if use_softmax else "sigmoid",
            include_background=include_background,
            to_onehot_y=to_onehot_y,
            weight=weight,
            reduction=reduction,
            ignore_index=ignore_index,
            regions=regions,
            process_group=process_group,
            check_target=check_target,
            backend=backend,
        )
        self._hold_gamma(gamma)
        self._hold_alpha(alpha)
        self.label_smoothing = label_smoothing
        self.normalizer: Normalizer = normalizer
        self.top_k = top_k
        self.check_numbers()

    def check_numbers(self) -> None:
        """Refuse a number out of range.

        Raises:
            ValueError: Naming it.
        """
        super().check_numbers()
        check_focal_numbers(self.focal_options(), self.activation)

    def focal_options(self) -> FocalOptions:
        """The term's arguments."""
        return self._options(FocalOptions)

    def forward(
        self,
        input: Tensor,  # noqa: A002 - MONAI's name
        target: Tensor,
        mask: Tensor | None = None,
        voxel_weight: Tensor | None = None,
    ) -> Tensor:
        """The loss of logits `(B, C, *S)` on the voxels that `mask` lets in, weighed."""
        voxels = self._voxels(input, target, mask)
        voxel_weight = checks.optional_plain("voxel_weight", voxel_weight)
        return focal_of_voxels(voxels, self.focal_options(), voxel_weight)
