"""The losses as modules, with MONAI's argument names."""

from segfocal.losses.compound import DiceFocalLoss
from segfocal.losses.deep_supervision import DeepSupervisionLoss
from segfocal.losses.dice import DiceLoss
from segfocal.losses.focal import FocalLoss
from segfocal.losses.lesionwise import BlobLoss, ConnectedComponentLoss
from segfocal.losses.schedule import LossSchedule, Ramp, Steps

__all__ = [
    "BlobLoss",
    "ConnectedComponentLoss",
    "DeepSupervisionLoss",
    "DiceFocalLoss",
    "DiceLoss",
    "FocalLoss",
    "LossSchedule",
    "Ramp",
    "Steps",
]
