"""The losses as modules: arguments and buffers, over `segfocal.functional`."""

from segfocal.losses.channel_last import ChannelLast
from segfocal.losses.deep_supervision import DeepSupervisionLoss
from segfocal.losses.dice import DiceLoss
from segfocal.losses.dice_ce import DiceCELoss
from segfocal.losses.dice_focal import DiceFocalLoss
from segfocal.losses.focal import FocalLoss
from segfocal.losses.focal_bce import FocalBCEWithLogitsLoss
from segfocal.losses.generalized_dice import GeneralizedDiceLoss
from segfocal.losses.generalized_dice_focal import GeneralizedDiceFocalLoss
from segfocal.losses.lesionwise import BlobLoss, ConnectedComponentLoss
from segfocal.losses.one_vs_rest import OneVsRestFocalLoss
from segfocal.losses.schedule import LossSchedule, Ramp, Steps
from segfocal.losses.tversky import FocalTverskyLoss, TverskyLoss
from segfocal.losses.tversky_focal import TverskyFocalLoss
from segfocal.losses.unified import AsymmetricUnifiedFocalLoss, UnifiedFocalLoss

__all__ = [
    "AsymmetricUnifiedFocalLoss",
    "BlobLoss",
    "ChannelLast",
    "ConnectedComponentLoss",
    "DeepSupervisionLoss",
    "DiceCELoss",
    "DiceFocalLoss",
    "DiceLoss",
    "FocalBCEWithLogitsLoss",
    "FocalLoss",
    "FocalTverskyLoss",
    "GeneralizedDiceFocalLoss",
    "GeneralizedDiceLoss",
    "LossSchedule",
    "OneVsRestFocalLoss",
    "Ramp",
    "Steps",
    "TverskyFocalLoss",
    "TverskyLoss",
    "UnifiedFocalLoss",
]
