"""Config to loss: every loss of the family by name, on encoded labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segfocal.config.schema import LossConfig
from segfocal.functional.compound import weighted_sum
from segfocal.labels import IGNORE_CLASS, LabelScheme
from segfocal.losses.base import LogitsLoss
from segfocal.losses.dice import DiceLoss
from segfocal.losses.dice_ce import DiceCELoss
from segfocal.losses.dice_focal import DiceFocalLoss
from segfocal.losses.focal import FocalLoss
from segfocal.losses.generalized_dice import GeneralizedDiceLoss
from segfocal.losses.generalized_dice_focal import GeneralizedDiceFocalLoss
from segfocal.losses.overlap_focal import OverlapFocalLoss
from segfocal.losses.tversky import TverskyLoss
from segfocal.losses.tversky_focal import TverskyFocalLoss
from segfocal.losses.unified import UnifiedFocalLoss
from segfocal.ops.backend_choice import Request, choose_backend, is_recent, passed_over
from segfocal.statistics.class_alpha import ClassAlpha
from segfocal.training.learner import Terms

TERM_NAMES = {
    "DiceFocalLoss": ("dice", "focal"),
    "DiceCELoss": ("dice", "ce"),
    "GeneralizedDiceFocalLoss": ("gdl", "focal"),
    "TverskyFocalLoss": ("tversky", "focal"),
    "UnifiedFocalLoss": ("focal", "tversky"),
    "DiceLoss": ("dice",),
    "TverskyLoss": ("tversky",),
    "GeneralizedDiceLoss": ("gdl",),
    "FocalLoss": ("focal",),
}
"""The parts of each loss that are logged."""


_OVERLAP = {"batch", "smooth_nr", "smooth_dr", "absent"}
_DICE = _OVERLAP | {"include_background", "squared_pred", "jaccard"}
_TVERSKY = _OVERLAP | {"include_background", "tversky_alpha", "tversky_beta", "tversky_gamma"}
_VOXELS = {"label_smoothing", "normalizer", "top_k"}
_BOTH = {"lambda_dice", "lambda_focal"}
_UNIFIED = {"unified_weight", "unified_delta", "unified_gamma"}

_USED = {
    "DiceFocalLoss": _DICE | _VOXELS | _BOTH | {"gamma"},
    "DiceCELoss": _DICE | _VOXELS | _BOTH,
    "GeneralizedDiceFocalLoss": _OVERLAP | _VOXELS | _BOTH | {"include_background", "gamma"},
    "TverskyFocalLoss": _TVERSKY | _VOXELS | _BOTH | {"gamma"},
    "UnifiedFocalLoss": _OVERLAP | _UNIFIED,
    "DiceLoss": _DICE,
    "TverskyLoss": _TVERSKY,
    "GeneralizedDiceLoss": _OVERLAP | {"include_background"},
    "FocalLoss": _VOXELS | {"gamma"},
}
"""The settings that each loss looks at, besides those of alpha, which the config refuses itself."""


class LossBackend(NamedTuple):
    """What computes a loss: the name, and why it is not the one made for the device."""

    name: str
    passed_over: str | None


def loss_backend(
    loss: LossConfig,
    scheme: LabelScheme,
    device: torch.device,
    dtype: torch.dtype,
    *,
    partial: bool,
) -> LossBackend:
    """The backend that "auto" takes for a config's loss.

    Args:
        loss: The config.
        scheme: What the labels mean.
        device: Where the network is.
        dtype: Of its logits.
        partial: Whether some cases are annotated for some of the classes alone.
    """
    request = Request(
        device.type,
        dtype,
        scheme.activation,
        target="labels" if scheme.region_table is None else "regions",
        mask="channels" if partial else "none",
        class_gamma=isinstance(loss.gamma, list | tuple),
        label_smoothing=loss.label_smoothing > 0 and "label_smoothing" in _USED[loss.name],
        is_recent=is_recent(device),
    )
    return LossBackend(choose_backend("auto", request), passed_over(request))


def make_loss(
    loss: LossConfig, scheme: LabelScheme, alpha: ClassAlpha | None, *, across_ranks: bool = False
) -> LogitsLoss:
    """The loss of a config on encoded labels.

    Ignored and padded voxels hold `IGNORE_CLASS`, so `ignore_index` is always set. The voxelwise
    term sees the background whatever `include_background` says. `across_ranks`: it is the loss of
    the batch that all ranks of `torch.distributed` share, and the same on each.
    """
    weights = loss.alpha if alpha is None else alpha
    assert not isinstance(weights, str)
    softmax = scheme.activation == "softmax"
    read: dict[str, Any] = {"ignore_index": IGNORE_CLASS, "regions": scheme.region_table}
    read["process_group"] = "world" if across_ranks else None
    focal: dict[str, Any] = {
        "label_smoothing": loss.label_smoothing,
        "normalizer": loss.normalizer,
        "top_k": loss.top_k,
    }
    if loss.name == "FocalLoss":
        return FocalLoss(use_softmax=softmax, gamma=loss.gamma, alpha=weights, **focal, **read)
    read |= {"softmax": softmax, "sigmoid": not softmax, "batch": loss.batch}
    read |= {"smooth_nr": loss.smooth_nr, "smooth_dr": loss.smooth_dr}
    if loss.name == "UnifiedFocalLoss":
        numbers: dict[str, Any] = {"weight": loss.unified_weight, "delta": loss.unified_delta}
        return UnifiedFocalLoss(gamma=loss.unified_gamma, absent=loss.absent, **numbers, **read)
    overlap, absent = _overlap(loss), loss.absent
    if loss.name.startswith("Generalized"):
        absent = "penalise" if absent == "smooth" else absent
    read |= {"include_background": loss.include_background or not softmax, "absent": absent}
    if loss.name == "DiceLoss":
        return DiceLoss(**overlap, **read)
    if loss.name == "TverskyLoss":
        return TverskyLoss(gamma=loss.tversky_gamma, **overlap, **read)
    if loss.name == "GeneralizedDiceLoss":
        return GeneralizedDiceLoss(**overlap, **read)
    if loss.name == "DiceCELoss":
        return DiceCELoss(
            lambda_dice=loss.lambda_dice, lambda_ce=loss.lambda_focal, **overlap, **focal, **read
        )
    focal |= {"gamma": loss.gamma, "alpha": weights, "lambda_focal": loss.lambda_focal}
    focal |= {"focal_include_background": True}
    if loss.name == "TverskyFocalLoss":
        return TverskyFocalLoss(
            tversky_alpha=loss.tversky_alpha,
            tversky_beta=loss.tversky_beta,
            tversky_gamma=loss.tversky_gamma,
            lambda_tversky=loss.lambda_dice,
            **focal,
            **read,
        )
    if loss.name == "GeneralizedDiceFocalLoss":
        return GeneralizedDiceFocalLoss(lambda_gdl=loss.lambda_dice, **overlap, **focal, **read)
    return DiceFocalLoss(lambda_dice=loss.lambda_dice, **overlap, **focal, **read)


def idle_settings(loss: LossConfig) -> list[str]:
    """The settings that are not as they are by default, and that this loss does not look at.

    Example:
        >>> idle_settings(LossConfig(name="UnifiedFocalLoss", label_smoothing=0.1))
        ['loss.label_smoothing']
    """
    idle = set().union(*_USED.values()) - _USED[loss.name]
    fields = LossConfig.model_fields
    return [f"loss.{n}" for n in fields if n in idle and getattr(loss, n) != fields[n].default]


def refused_setting(message: str) -> str:
    """What a loss says against an argument, as said of the setting of that name.

    Example:
        >>> refused_setting("alpha must be in [0, 1]: got 1.5.")
        'loss.alpha: must be in [0, 1]: got 1.5.'
    """
    argument, _, rest = message.partition(" ")
    return f"loss.{argument}: {rest}" if argument in LossConfig.model_fields else f"loss: {message}"


def loss_terms(loss: LogitsLoss) -> Terms:
    """The loss and its parts by name, as `Learner` wants them."""
    names = TERM_NAMES[type(loss).__name__]

    def terms(logits: Tensor, label: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        parts: Sequence[Tensor]
        if isinstance(loss, OverlapFocalLoss):
            total, *parts = loss.loss_and_terms(logits, label, mask)
        elif isinstance(loss, UnifiedFocalLoss):
            parts = first, second = loss.terms(logits, label, mask)
            total = weighted_sum(first, second, *loss.lambdas())
        else:
            parts = [total := loss(logits, label, mask)]
        logged = {name: part.detach() for name, part in zip(names, parts, strict=True)}
        return {"loss": total, **logged}

    return terms


def _overlap(loss: LossConfig) -> dict[str, Any]:
    """The arguments that only this loss's overlap term has."""
    if loss.name.startswith("Tversky"):
        return {"alpha": loss.tversky_alpha, "beta": loss.tversky_beta}
    if loss.name.startswith("Generalized"):
        return {}
    return {"squared_pred": loss.squared_pred, "jaccard": loss.jaccard}
