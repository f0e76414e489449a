"""Unified focal loss as modules."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from segfocal.checks import IgnoreIndex, Regions
from segfocal.functional.across_ranks import Group
from segfocal.functional.overlap import Absent
from segfocal.functional.unified import (
    UnifiedOptions,
    UnifiedTerms,
    check_unified_options,
    unified_terms,
)
from segfocal.functional.voxel_options import Voxels
from segfocal.losses.base import LogitsLoss, chosen_activation


class UnifiedFocalLoss(LogitsLoss):
    """Unified focal loss: `segfocal.functional.unified_focal_loss` with its arguments held.

    The arguments are explained there. It takes logits: one of `sigmoid` and `softmax` must be set.
    There is no `reduction`: both terms are means, over voxels and over classes.

    Args:
        to_onehot_y: Integer labels are recognised without it; True refuses a one-hot target.
        sigmoid: Each channel is its own yes-or-no question.
        softmax: The channels exclude each other.
        asymmetric: Which of the two forms.
        weight: Share of the focal term, in [0, 1].
        delta: Weight of rare classes and of false negatives, in [0, 1].
        gamma: In [0, 1): suppresses easy background and enhances hard rare classes.
        batch: Sum the overlap over the batch before dividing.
        smooth_nr: Added to the overlap's numerator, >= 0.
        smooth_dr: Added to the overlap's denominator, >= 0.
        ignore_index: Label or labels whose voxels do not count.
        regions: Class indices that make up each channel.
        absent: For a class that the target does not hold: "smooth", "skip" or "penalise".
        process_group: Ranks that share the batch: a group, or "world".
        check_target: Check the target's values on every device, not on the CPU alone.
        backend: "auto", or a name from `segfocal.ops.backends()`.

    Raises:
        ValueError: At construction or call, if an argument does not fit.

    Example:
        >>> import torch
        >>> loss = UnifiedFocalLoss(softmax=True)
        >>> round(loss(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 0, 1]])).item(), 4)
        0.4317
    """

    weight: float

    def __init__(
        self,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        *,
        asymmetric: bool = True,
        weight: float = 0.5,
        delta: float = 0.6,
        gamma: float = 0.5,
        batch: bool = False,
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        ignore_index: IgnoreIndex = None,
        regions: Regions = None,
        absent: Absent = "smooth",
        process_group: Group = None,
        check_target: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            activation=chosen_activation(sigmoid=sigmoid, softmax=softmax),
            to_onehot_y=to_onehot_y,
            ignore_index=ignore_index,
            regions=regions,
            process_group=process_group,
            check_target=check_target,
            backend=backend,
        )
        self.asymmetric = asymmetric
        del self.weight  # of the classes, which this loss has none of
        self.weight = weight
        self.delta = delta
        self.gamma = gamma
        self.batch = batch
        self.smooth_nr = smooth_nr
        self.smooth_dr = smooth_dr
        self.absent: Absent = absent
        self.check_numbers()

    def check_numbers(self) -> None:
        """Refuse a number out of range.

        Raises:
            ValueError: Naming it.
        """
        check_unified_options(self._options(UnifiedOptions))

    def settings(self) -> dict[str, Any]:
        """What the loss was told, by name: neither `include_background` nor `reduction`."""
        kept = super().settings()
        del kept["include_background"], kept["reduction"]
        return kept

    def forward(
        self,
        input: Tensor,  # noqa: A002 - MONAI's name
        target: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The loss of logits `(B, C, *S)` on the voxels that `mask` lets in."""
        focal, tversky = self.terms(input, target, mask)
        of_focal, of_tversky = self.lambdas()
        return of_focal * focal + of_tversky * tversky

    def lambdas(self) -> tuple[float, float]:
        """Weights of the two terms."""
        return self.weight, 1 - self.weight

    def terms(
        self,
        input: Tensor,  # noqa: A002 - MONAI's name
        target: Tensor,
        mask: Tensor | None = None,
    ) -> UnifiedTerms:
        """The two terms before `weight`, for a log."""
        return unified_terms(self._voxels(input, target, mask), self._options(UnifiedOptions))


class AsymmetricUnifiedFocalLoss(UnifiedFocalLoss):
    """The asymmetric form, by MONAI's name and with its default numbers.

    It takes logits of any number of classes; MONAI's own takes logits for probabilities. There is
    no `reduction`: MONAI's has one, but both terms are means already, and it changes nothing.

    Args:
        to_onehot_y: Integer labels are recognised without it; True refuses a one-hot target.
        num_classes: Checked against the logits where given.
        weight: Share of the focal term, in [0, 1].
        gamma: In [0, 1): suppresses easy background and enhances hard rare classes.
        delta: Weight of rare classes and of false negatives, in [0, 1].
        sigmoid: Each channel is its own yes-or-no question. Set `softmax=False` with it.
        softmax: The channels exclude each other.
        batch: Sum the overlap over the batch before dividing.
        smooth_nr: Added to the overlap's numerator, >= 0.
        smooth_dr: Added to the overlap's denominator, >= 0.
        ignore_index: Label or labels whose voxels do not count.
        regions: Class indices that make up each channel.
        absent: For a class that the target does not hold: "smooth", "skip" or "penalise".
        process_group: Ranks that share the batch: a group, or "world".
        check_target: Check the target's values on every device, not on the CPU alone.
        backend: "auto", or a name from `segfocal.ops.backends()`.

    Raises:
        ValueError: At construction or call, if an argument does not fit.

    Example:
        >>> import torch
        >>> loss = AsymmetricUnifiedFocalLoss()
        >>> round(loss(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 0, 1]])).item(), 4)
        0.423
    """

    def __init__(
        self,
        to_onehot_y: bool = False,
        num_classes: int | None = None,
        weight: float = 0.5,
        gamma: float = 0.5,
        delta: float = 0.7,
        *,
        sigmoid: bool = False,
        softmax: bool = True,
        batch: bool = False,
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        ignore_index: IgnoreIndex = None,
        regions: Regions = None,
        absent: Absent = "smooth",
        process_group: Group = None,
        check_target: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            asymmetric=True,
            to_onehot_y=to_onehot_y,
            sigmoid=sigmoid,
            softmax=softmax,
            weight=weight,
            delta=delta,
            gamma=gamma,
            batch=batch,
            smooth_nr=smooth_nr,
            smooth_dr=smooth_dr,
            ignore_index=ignore_index,
            regions=regions,
            absent=absent,
            process_group=process_group,
            check_target=check_target,
            backend=backend,
        )
        self.num_classes = num_classes

    def _voxels(self, logits: Tensor, target: Tensor, mask: Tensor | None) -> Voxels:
        if self.num_classes is not None and logits.shape[1] != self.num_classes:
            raise ValueError(
                f"logits must have num_classes={self.num_classes} channels: got shape "
                f"{tuple(logits.shape)}."
            )
        return super()._voxels(logits, target, mask)
