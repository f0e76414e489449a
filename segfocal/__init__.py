"""Focal and focal+Dice losses for N-d volumes, and 3D lesion segmentation from NIfTI to NIfTI.

The names in `__init__.pyi` are loaded on first use: `import segfocal` imports neither torch nor
MONAI.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
