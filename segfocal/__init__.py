"""Focal and focal+Dice losses for N-d volumes, and 3D lesion segmentation from NIfTI to NIfTI.

Names are loaded on first use: `import segfocal` imports neither torch nor MONAI.
"""

import lazy_loader

from segfocal._version import __version__

__getattr__, __dir__, _lazy_names = lazy_loader.attach(
    __name__,
    submodules=["functional", "losses", "ops", "statistics"],
    submod_attrs={
        "labels": ["LabelScheme"],
        "losses": [
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
            "OneVsRestFocalLoss",
            "TverskyFocalLoss",
            "TverskyLoss",
            "UnifiedFocalLoss",
        ],
    },
)
__all__ = [*_lazy_names, "__version__"]  # noqa: PLE0604 - the lazy names are strings at run time
