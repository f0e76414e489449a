"""Losses that weigh every lesion alike: blob loss, and a loss for each lesion's region."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from segfocal import checks
from segfocal.checks import optional_plain, plain_tensor
from segfocal.functional.compound import OverlapTerm, overlap_of_sums, weighted_sum
from segfocal.functional.focal import FocalOptions, focal_of_sums
from segfocal.functional.lesionwise import Scope, lesion_sums, lesionwise_loss
from segfocal.functional.voxel_options import Voxels
from segfocal.losses.dice import DiceLoss
from segfocal.losses.focal import FocalLoss
from segfocal.losses.overlap_focal import OverlapFocalLoss
from segfocal.losses.tversky import TverskyLoss
from segfocal.ops.class_sums import ClassSums

VoxelLoss = DiceLoss | TverskyLoss | FocalLoss | OverlapFocalLoss
LossOfSums = Callable[[ClassSums], Tensor]


class LesionwiseTerms(NamedTuple):
    """The two terms, before `lambda_global` and `lambda_lesion`."""

    whole: Tensor
    lesion: Tensor


class _LesionwiseLoss(nn.Module):
    """A loss over all voxels, plus the mean over the lesions of the same loss on each of them."""

    scope: ClassVar[Scope]

    def __init__(
        self,
        loss: VoxelLoss,
        *,
        lambda_global: float,
        lambda_lesion: float,
        max_lesions: int,
    ) -> None:
        super().__init__()
        checks.check_non_negative("lambda_global", lambda_global)
        checks.check_non_negative("lambda_lesion", lambda_lesion)
        if lambda_global == 0 and lambda_lesion == 0:
            raise ValueError(
                "lambda_global and lambda_lesion are both 0, which leaves no loss. Give one a "
                "weight."
            )
        if max_lesions < 1:
            raise ValueError(f"max_lesions must be 1 or more: got {max_lesions}.")
        _check_inner(loss)
        self.loss = loss
        self.lambda_global = lambda_global
        self.lambda_lesion = lambda_lesion
        self.max_lesions = max_lesions

    def extra_repr(self) -> str:
        """The plain settings, for `print(loss)`."""
        return (
            f"lambda_global={self.lambda_global}, lambda_lesion={self.lambda_lesion}, "
            f"max_lesions={self.max_lesions}"
        )

    def forward(
        self,
        input: Tensor,  # noqa: A002 - MONAI's name
        target: Tensor,
        lesions: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The loss of logits `(B, C, *S)` on the voxels that `mask` lets in.

        Args:
            input: `(B, C, *S)`.
            target: As for the loss inside.
            lesions: The map of this loss's kind, `(B, 1, *S)` or `(B, C, *S)`, integers, 0 for
                none.
            mask: Bool, True where a voxel counts, `(B, 1, *S)` or `(B, C, *S)`.
        """
        logits, target = plain_tensor("input", input), plain_tensor("target", target)
        lesions, mask = plain_tensor("lesions", lesions), optional_plain("mask", mask)
        if self.lambda_global == 0:
            return self.lambda_lesion * self._lesion_term(logits, target, lesions, mask)
        whole: Tensor = self.lambda_global * self.loss(logits, target, mask)
        if self.lambda_lesion == 0:
            return whole
        return whole + self.lambda_lesion * self._lesion_term(logits, target, lesions, mask)

    def terms(
        self,
        input: Tensor,  # noqa: A002 - MONAI's name
        target: Tensor,
        lesions: Tensor,
        mask: Tensor | None = None,
    ) -> LesionwiseTerms:
        """The two terms before their lambdas, for a log."""
        logits, target = plain_tensor("input", input), plain_tensor("target", target)
        lesions, mask = plain_tensor("lesions", lesions), optional_plain("mask", mask)
        return LesionwiseTerms(
            self.loss(logits, target, mask), self._lesion_term(logits, target, lesions, mask)
        )

    def _lesion_term(
        self, logits: Tensor, target: Tensor, lesions: Tensor, mask: Tensor | None
    ) -> Tensor:
        loss = self.loss
        overlap, focal = _terms_of(loss)
        if getattr(overlap, "squared_pred", False) and target.is_floating_point():
            raise ValueError(
                "squared_pred with targets between 0 and 1 has no meaning for each lesion. Pass "
                "labels."
            )
        voxels = loss._voxels(logits, target, mask)
        of_each = lesion_sums(
            logits,
            target,
            lesions,
            scope=self.scope,
            activation=loss.activation,
            gamma=0.0 if focal is None else focal.gamma,
            with_focal=focal is not None,
            label_smoothing=0.0 if focal is None else focal.label_smoothing,
            overlap="minimum" if overlap is not None and overlap.soft_label else "product",
            include_background=loss.include_background,
            max_lesions=self.max_lesions,
            ignore_index=loss.ignore_index,
            mask=mask,
            regions=loss.regions,
            check_target=loss.check_target,
        )
        return lesionwise_loss(of_each, _loss_of_sums(loss, voxels))


class BlobLoss(_LesionwiseLoss):
    r"""Blob loss: the loss of each lesion with all other lesions left out, beside the global one.

    .. math:: L = \lambda_{global} L(\Omega) + \lambda_{lesion}
        \frac{1}{N} \sum_n L(\Omega \setminus \bigcup_{m \ne n} lesion_m)

    A lesion of ten voxels moves its own term as much as one of ten thousand, where Dice over the
    whole volume hardly sees it. What is predicted outside every lesion counts in each lesion's
    term. The mean is that of a sample's lesions, then of the samples that have any; without a
    lesion there is the global term alone. Each lesion's loss has the options of `loss`: class
    weights, regions, smoothing, `absent`. With several classes set `absent="skip"` in it, else
    every class that a lesion does not have costs nearly 1 there.

    `lesions` is a map of connected components, made once per case by
    `segfocal.transforms.component_maps.LesionMapsd` and cropped with the label. `(B, 1, *S)`
    numbers the foreground's components, and a lesion is judged in all channels; `(B, C, *S)` has
    components for each channel, and a lesion is judged in its own channel. Under softmax that
    means, of the focal term, its own voxels only: what background voxels lose stands in the
    background's channel. A lesion that a crop has cut counts with what is left of it.

    Args:
        loss: A loss of segfocal that is made of sums: Dice, Tversky, focal, or a compound.
        lambda_global: Weight >= 0 of the loss over all voxels; 2 in the paper.
        lambda_lesion: Weight >= 0 of the mean over the lesions; 1 in the paper.
        max_lesions: Most lesions of a case.

    Raises:
        ValueError: At construction or call, if an argument does not fit.

    Reference:
        Kofler et al., blob loss: instance imbalance aware loss functions for semantic segmentation,
        2022, arXiv:2205.08209.

    Example:
        >>> import torch
        >>> from segfocal.losses import DiceFocalLoss
        >>> loss = BlobLoss(DiceFocalLoss(softmax=True, include_background=False))
        >>> labels = torch.tensor([[1, 1, 1, 0, 0, 1]])
        >>> components = torch.tensor([[[1, 1, 1, 0, 0, 2]]])
        >>> logits = torch.tensor([[[0.0] * 6, [9.0, 9.0, 9.0, -9.0, -9.0, -9.0]]])
        >>> whole, lesion = loss.terms(logits, labels, components)
        >>> round(loss.loss.terms(logits, labels).dice.item(), 2), round(lesion.item(), 2)
        (0.14, 2.0)
    """

    scope = "blob"

    def __init__(
        self,
        loss: VoxelLoss,
        *,
        lambda_global: float = 2.0,
        lambda_lesion: float = 1.0,
        max_lesions: int = 1024,
    ) -> None:
        super().__init__(
            loss,
            lambda_global=lambda_global,
            lambda_lesion=lambda_lesion,
            max_lesions=max_lesions,
        )


class ConnectedComponentLoss(_LesionwiseLoss):
    r"""The loss inside each lesion's own region, beside the global one.

    .. math:: L = \lambda_{global} L(\Omega) + \lambda_{lesion} \frac{1}{N} \sum_n L(region_n)

    The regions divide the volume: a voxel belongs to the lesion nearest to it. So a false positive
    costs the lesion beside it, and not, as in blob loss, every lesion. All else is as for
    `BlobLoss`; a region whose lesion lies outside the patch does not count.

    `lesions` is a map of Voronoi regions, made once per case by
    `segfocal.transforms.component_maps.LesionMapsd`.

    Args:
        loss: A loss of segfocal that is made of sums: Dice, Tversky, focal, or a compound.
        lambda_global: Weight >= 0 of the loss over all voxels.
        lambda_lesion: Weight >= 0 of the mean over the lesions.
        max_lesions: Most lesions of a case.

    Raises:
        ValueError: At construction or call, if an argument does not fit.

    Reference:
        Connected-component Dice and cross-entropy: arXiv:2511.17146.

    Example:
        >>> import torch
        >>> loss = ConnectedComponentLoss(DiceLoss(softmax=True, include_background=False))
        >>> labels = torch.tensor([[1, 1, 1, 0, 0, 1]])
        >>> regions = torch.tensor([[[1, 1, 1, 1, 2, 2]]])
        >>> logits = torch.tensor([[[0.0] * 6, [9.0, 9.0, 9.0, -9.0, -9.0, -9.0]]])
        >>> round(loss.terms(logits, labels, regions).lesion.item(), 2)
        0.5
    """

    scope = "region"

    def __init__(
        self,
        loss: VoxelLoss,
        *,
        lambda_global: float = 1.0,
        lambda_lesion: float = 1.0,
        max_lesions: int = 1024,
    ) -> None:
        super().__init__(
            loss,
            lambda_global=lambda_global,
            lambda_lesion=lambda_lesion,
            max_lesions=max_lesions,
        )


def _terms_of(loss: VoxelLoss) -> tuple[OverlapTerm | None, FocalOptions | None]:
    if isinstance(loss, OverlapFocalLoss):
        return loss.overlap_options(), loss.focal_options()
    if isinstance(loss, FocalLoss):
        return None, loss.focal_options()
    return loss.overlap_options(), None


def _check_inner(loss: object) -> None:
    """Refuse a loss that is not made of sums, or has options that the sums of a lesion lack."""
    if not isinstance(loss, VoxelLoss):
        raise ValueError(
            f"loss must be a Dice, Tversky or focal loss of segfocal, or a compound of them: got "
            f"{type(loss).__name__}."
        )
    _, focal = _terms_of(loss)
    if loss.reduction == "none":
        raise ValueError(
            "a loss with reduction='none' has no single number a lesion. Set its reduction to "
            "'mean'."
        )
    refused = {
        "process_group": loss.process_group is not None,
        "top_k": focal is not None and focal.top_k is not None,
    }
    for name, is_set in refused.items():
        if is_set:
            raise ValueError(f"{name} has no meaning for each lesion: leave it out of the loss.")


def _loss_of_sums(loss: VoxelLoss, voxels: Voxels) -> LossOfSums:
    """The loss's algebra: what it makes of the sums of one sample."""
    overlap, focal = _terms_of(loss)
    if focal is None:
        assert overlap is not None
        return lambda sums: overlap_of_sums(sums, voxels, overlap)
    if overlap is None:
        return lambda sums: focal_of_sums(sums, voxels, focal)
    assert isinstance(loss, OverlapFocalLoss)
    lambdas = loss.lambdas()
    return lambda sums: weighted_sum(
        overlap_of_sums(sums, voxels, overlap), focal_of_sums(sums, voxels, focal), *lambdas
    )
