"""Losses that weigh every lesion alike: blob loss, and a loss for each lesion's region."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from segfocal import checks
from segfocal.functional.class_weights import focal_weights
from segfocal.functional.compound import DiceFocalTerms, weighted_sum
from segfocal.functional.dice import dice_from_sums
from segfocal.functional.focal import focal_from_sums
from segfocal.functional.lesionwise import Scope, lesion_sums, lesionwise_loss
from segfocal.losses.base import LogitsLoss, _unwrap
from segfocal.losses.compound import DiceFocalLoss
from segfocal.losses.dice import DiceLoss
from segfocal.losses.focal import FocalLoss
from segfocal.ops.class_sums import ClassSums

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
        loss: DiceFocalLoss | DiceLoss | FocalLoss,
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
        if not isinstance(loss, DiceFocalLoss | DiceLoss | FocalLoss):
            raise ValueError(
                f"loss must be a DiceFocalLoss, DiceLoss or FocalLoss of segfocal: got "
                f"{type(loss).__name__}."
            )
        if loss.reduction == "none":
            raise ValueError(
                "a loss with reduction='none' has no single number a lesion. Set its reduction to "
                "'mean'."
            )
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
        logits, target, lesions, mask = _plain(input, target, lesions, mask)
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
        logits, target, lesions, mask = _plain(input, target, lesions, mask)
        return LesionwiseTerms(
            self.loss(logits, target, mask), self._lesion_term(logits, target, lesions, mask)
        )

    def _lesion_term(
        self, logits: Tensor, target: Tensor, lesions: Tensor, mask: Tensor | None
    ) -> Tensor:
        loss = self.loss
        of_each = lesion_sums(
            logits,
            target,
            lesions,
            scope=self.scope,
            activation=loss.activation,
            gamma=0.0 if isinstance(loss, DiceLoss) else loss.gamma,
            with_focal=not isinstance(loss, DiceLoss),
            include_background=loss.include_background,
            max_lesions=self.max_lesions,
            ignore_index=loss.ignore_index,
            mask=mask,
            regions=loss.regions,
            check_target=loss.check_target,
        )
        return lesionwise_loss(of_each, _loss_of_sums(loss))


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
    `segfocal.transforms.component_maps.ComponentMapsd` and cropped with the label. `(B, 1, *S)`
    numbers the foreground's components, and a lesion is judged in all channels; `(B, C, *S)` has
    components for each channel, and a lesion is judged in its own channel. Under softmax that
    means, of the focal term, its own voxels only: what background voxels lose stands in the
    background's channel. A lesion that a crop has cut counts with what is left of it.

    Args:
        loss: A `DiceFocalLoss`, `DiceLoss` or `FocalLoss` (`DiceFocalLoss(gamma=0)` is Dice plus
            cross-entropy).
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
        loss: DiceFocalLoss | DiceLoss | FocalLoss,
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
    `segfocal.transforms.component_maps.VoronoiMapsd`.

    Args:
        loss: A `DiceFocalLoss`, `DiceLoss` or `FocalLoss` (`DiceFocalLoss(gamma=0)` is Dice plus
            cross-entropy).
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
        loss: DiceFocalLoss | DiceLoss | FocalLoss,
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


def _plain(
    logits: Tensor, target: Tensor, lesions: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    plain_mask = None if mask is None else _unwrap(mask)
    return _unwrap(logits), _unwrap(target), _unwrap(lesions), plain_mask


def _loss_of_sums(loss: DiceFocalLoss | DiceLoss | FocalLoss) -> LossOfSums:
    """The loss's algebra: what it makes of the sums of one sample."""
    if isinstance(loss, DiceLoss):
        return lambda sums: _dice(loss, sums)
    if isinstance(loss, FocalLoss):
        return lambda sums: _focal(loss, sums, include_background=loss.include_background)
    background = loss.focal_include_background
    background = loss.include_background if background is None else background
    return lambda sums: weighted_sum(
        DiceFocalTerms(_dice(loss, sums), _focal(loss, sums, include_background=background)),
        loss.lambda_dice,
        loss.lambda_focal,
    )


def _dice(loss: DiceFocalLoss | DiceLoss, sums: ClassSums) -> Tensor:
    return dice_from_sums(
        sums,
        weight=loss.weight,
        include_background=loss.include_background,
        squared_pred=loss.squared_pred,
        jaccard=loss.jaccard,
        batch=loss.batch,
        smooth_nr=loss.smooth_nr,
        smooth_dr=loss.smooth_dr,
        absent=loss.absent,
        reduction=loss.reduction,
    )


def _focal(loss: DiceFocalLoss | FocalLoss, sums: ClassSums, *, include_background: bool) -> Tensor:
    assert isinstance(loss, LogitsLoss)
    assert loss.reduction != "none"
    weights = focal_weights(
        sums.t.shape[1],
        sums.t,
        activation=loss.activation,
        alpha=loss.alpha,
        weight=loss.weight,
    )
    return focal_from_sums(
        sums,
        weights,
        activation=loss.activation,
        include_background=include_background,
        normalizer=loss.normalizer,
        reduction=loss.reduction,
    )
