"""The losses as stateless functions: check, sums, algebra on `(B, C)`."""

from segfocal.functional.compound import DiceFocalTerms, dice_focal_loss, dice_focal_terms
from segfocal.functional.dice import dice_loss
from segfocal.functional.focal import focal_loss

__all__ = ["DiceFocalTerms", "dice_focal_loss", "dice_focal_terms", "dice_loss", "focal_loss"]
