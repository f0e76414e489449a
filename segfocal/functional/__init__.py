"""The losses as stateless functions: check, sums, algebra on `(B, C)`."""

from segfocal.functional.compound import DiceFocalTerms, dice_focal_loss, dice_focal_terms
from segfocal.functional.dice import dice_loss
from segfocal.functional.downsample import CoarseTarget, downsample_target
from segfocal.functional.focal import focal_loss
from segfocal.functional.lesionwise import LesionSums, lesion_sums, lesionwise_loss

__all__ = [
    "CoarseTarget",
    "DiceFocalTerms",
    "LesionSums",
    "dice_focal_loss",
    "dice_focal_terms",
    "dice_loss",
    "downsample_target",
    "focal_loss",
    "lesion_sums",
    "lesionwise_loss",
]
