"""From volumes to labels: the tool's predictor, and a sliding window for MONAI's own scripts.

The names in `__init__.pyi` are loaded on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
