"""What an overlap loss plus focal loss or cross-entropy shares."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from segfocal import checks
from segfocal.functional.compound import (
    OverlapTerm,
    check_overlap_term,
    overlap_and_focal,
    overlap_and_focal_loss,
)
from segfocal.functional.focal import FocalOptions, check_focal_numbers
from segfocal.losses.base import LogitsLoss
from segfocal.ops.loss_formula import Loss


class OverlapFocalLoss(LogitsLoss):
    """Two terms of one pass over the voxels, and their weighted sum."""

    lambda_names: ClassVar[tuple[str, str]] = ("lambda_dice", "lambda_focal")
    background_name: ClassVar[str] = "focal_include_background"

    @abstractmethod
    def overlap_options(self) -> OverlapTerm:
        """The overlap term's arguments."""

    def lambdas(self) -> tuple[float, float]:
        """Weights of the overlap term and of the voxelwise term."""
        overlap, focal = self.lambda_names
        return getattr(self, overlap), getattr(self, focal)

    def check_numbers(self) -> None:
        """Refuse a number out of range.

        Raises:
            ValueError: Naming it.
        """
        super().check_numbers()
        check_overlap_term(self.overlap_options())
        check_focal_numbers(self.focal_options(), self.activation)

    def focal_options(self) -> FocalOptions:
        """The voxelwise term's arguments."""
        background: bool | None = getattr(self, self.background_name)
        options = self._options(FocalOptions)
        return options if background is None else options._replace(include_background=background)

    def forward(
        self,
        input: Tensor,  # noqa: A002 - MONAI's name
        target: Tensor,
        mask: Tensor | None = None,
        voxel_weight: Tensor | None = None,
    ) -> Tensor:
        """The loss of logits `(B, C, *S)` on the voxels that `mask` lets in.

        `voxel_weight`, `(B, 1, *S)` or `(B, C, *S)`, weighs the voxelwise term.
        """
        return self.loss_and_terms(input, target, mask, voxel_weight).total

    def loss_and_terms(
        self,
        input: Tensor,  # noqa: A002 - MONAI's name
        target: Tensor,
        mask: Tensor | None = None,
        voxel_weight: Tensor | None = None,
    ) -> Loss:
        """What `forward` returns, and its terms before their lambdas, for a log.

        The terms have no gradient. Use `terms` for a weighting of your own.
        """
        return overlap_and_focal_loss(
            self._voxels(input, target, mask),
            self.overlap_options(),
            self.focal_options(),
            self.lambdas(),
            checks.optional_plain("voxel_weight", voxel_weight),
        )

    @abstractmethod
    def terms(
        self,
        input: Tensor,  # noqa: A002 - MONAI's name
        target: Tensor,
        mask: Tensor | None = None,
        voxel_weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The two terms before their lambdas, each with its gradient; one pass, as `forward`."""

    def _terms(
        self, logits: Tensor, target: Tensor, mask: Tensor | None, voxel_weight: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        return overlap_and_focal(
            self._voxels(logits, target, mask),
            self.overlap_options(),
            self.focal_options(),
            checks.optional_plain("voxel_weight", voxel_weight),
        )
