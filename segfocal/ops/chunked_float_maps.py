"""The chunked sigmoid for floating point maps on the CPU, most of which hold 0 and 1 alone.

Shapes: B samples of a block, C channels, N voxels of a block.
"""

from __future__ import annotations

from torch import Tensor

from segfocal.ops.chunked_any_target import AnyTarget
from segfocal.ops.chunked_blocks import Path
from segfocal.ops.chunked_hard_sigmoid import HardSigmoid
from segfocal.ops.elementwise import Upstream
from segfocal.ops.flat_target import FlatTarget
from segfocal.ops.formula import Formula


class FloatMapSigmoid:
    """Sums and gradient, block by block: the quick way where no share lies between 0 and 1."""

    breadth = 1

    def __init__(self, logits: Tensor, formula: Formula) -> None:
        self._hard = HardSigmoid(logits, formula)
        self._any = AnyTarget(logits, formula)

    def sums(self, logits: Tensor, target: FlatTarget) -> Tensor:
        """The sums `(B, 7, C)` of a block."""
        return self._way(target).sums(logits, target)

    def gradient(self, above: Upstream, logits: Tensor, target: FlatTarget, out: Tensor) -> None:
        """Write the gradient of a block."""
        self._way(target).gradient(above, logits, target, out)

    def _way(self, target: FlatTarget) -> Path:
        maps = target.values
        return self._hard if bool(((maps == 0) | (maps == 1)).all()) else self._any
