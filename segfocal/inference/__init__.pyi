"""The public names, for `__init__.py` to load on first use and for type checkers to read."""

from .label_inferer import SlidingWindowLabelInferer as SlidingWindowLabelInferer
from .predictor import (
    Predictor as Predictor,
    Segmentation as Segmentation,
)
from .predictor_inferer import PredictorInferer as PredictorInferer
