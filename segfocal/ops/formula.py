"""What is summed: the settings of the formulas, apart from the target they are applied to."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Formula(NamedTuple):
    """What every backend computes. The README beside this file derives it.

    Attributes:
        activation: "softmax" or "sigmoid".
        gamma: Focusing exponent >= 0, one number or `(C,)`.
        label_smoothing: Share e in [0, 1) of each voxel that the focal fields spread: over all
            channels under softmax, between yes and no under sigmoid. 0 for none.
        overlap: Whether `tp` sums the "product" p t or the "minimum" of p and t.
    """

    activation: str
    gamma: float | Tensor
    label_smoothing: float = 0.0
    overlap: str = "product"

    def smoothing_floor(self, num_channels: int) -> float:
        """The share that smoothing gives to every channel's positives: e / C, or e / 2."""
        ways = num_channels if self.activation == "softmax" else 2
        return self.label_smoothing / ways
