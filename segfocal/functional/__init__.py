"""The losses as stateless functions: check, sums, algebra on `(B, C)`."""

from segfocal.functional.class_weights import background_alpha
from segfocal.functional.compound import DiceFocalTerms, dice_focal_loss, dice_focal_terms
from segfocal.functional.dice import dice_loss
from segfocal.functional.downsample import CoarseTarget, downsample_target
from segfocal.functional.focal import focal_loss
from segfocal.functional.generalized_dice import generalized_dice_loss
from segfocal.functional.lesionwise import LesionSums, lesion_sums, lesionwise_loss
from segfocal.functional.one_vs_rest import one_vs_rest_focal_loss
from segfocal.functional.tversky import tversky_loss
from segfocal.functional.unified import unified_focal_loss

__all__ = [
    "CoarseTarget",
    "DiceFocalTerms",
    "LesionSums",
    "background_alpha",
    "dice_focal_loss",
    "dice_focal_terms",
    "dice_loss",
    "downsample_target",
    "focal_loss",
    "generalized_dice_loss",
    "lesion_sums",
    "lesionwise_loss",
    "one_vs_rest_focal_loss",
    "tversky_loss",
    "unified_focal_loss",
]
