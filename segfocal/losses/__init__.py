"""The losses as modules, with MONAI's argument names."""

from segfocal.losses.compound import DiceFocalLoss
from segfocal.losses.dice import DiceLoss
from segfocal.losses.focal import FocalLoss

__all__ = ["DiceFocalLoss", "DiceLoss", "FocalLoss"]
