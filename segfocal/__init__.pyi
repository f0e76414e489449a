"""The public names, for `__init__.py` to load on first use and for type checkers to read."""

from . import (
    compat as compat,
    functional as functional,
    inference as inference,
    losses as losses,
    metrics as metrics,
    numpy as numpy,
    ops as ops,
    statistics as statistics,
    transforms as transforms,
)
from ._version import __version__ as __version__
from .labels import LabelScheme as LabelScheme
from .losses import (
    AsymmetricUnifiedFocalLoss as AsymmetricUnifiedFocalLoss,
    BlobLoss as BlobLoss,
    ChannelLast as ChannelLast,
    ConnectedComponentLoss as ConnectedComponentLoss,
    DeepSupervisionLoss as DeepSupervisionLoss,
    DiceCELoss as DiceCELoss,
    DiceFocalLoss as DiceFocalLoss,
    DiceLoss as DiceLoss,
    FocalBCEWithLogitsLoss as FocalBCEWithLogitsLoss,
    FocalLoss as FocalLoss,
    FocalTverskyLoss as FocalTverskyLoss,
    GeneralizedDiceFocalLoss as GeneralizedDiceFocalLoss,
    GeneralizedDiceLoss as GeneralizedDiceLoss,
    LossSchedule as LossSchedule,
    OneVsRestFocalLoss as OneVsRestFocalLoss,
    Ramp as Ramp,
    Steps as Steps,
    TverskyFocalLoss as TverskyFocalLoss,
    TverskyLoss as TverskyLoss,
    UnifiedFocalLoss as UnifiedFocalLoss,
)
