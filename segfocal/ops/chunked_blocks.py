"""How the chunked backend cuts a volume into blocks, and the buffers that blocks share.

Shapes: B samples of a block, C channels, N voxels of a block.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from segfocal.ops.elementwise import Upstream
from segfocal.ops.flat_target import FlatTarget

OPERATION_ELEMENTS = {"cpu": 2**15 - 2**6}
"""Elements of one operation by device type, 128 KiB of float32. From 2**15 on torch shares an
operation out among threads of its own: on the CPU the blocks are what threads share."""
OTHER_DEVICE_ELEMENTS = 2**22
"""Elsewhere an operation has to keep a whole device busy."""
OPERATIONS_A_TASK = 16
"""How many operations the logits of a task take."""
LOG2_E = 1 / math.log(2)
"""exp(x) is computed as 2^(x log2 e): where torch leaves exp to MKL, its exp2 can take a third of
the time. The rounding of the product is that of x, which is a difference of logits."""


class Path(Protocol):
    """A way to compute blocks one after the other, in one thread."""

    def sums(self, logits: Tensor, target: FlatTarget) -> Tensor:
        """The sums `(B, 7, C)` of a block `(B, C, N)`."""

    def gradient(self, above: Upstream, logits: Tensor, target: FlatTarget, out: Tensor) -> None:
        """Write the gradient of a block, given that of the sums, `(B, C, 1)` each."""


class Task(NamedTuple):
    """Blocks that are computed one after the other, of the same samples."""

    samples: slice
    spans: list[slice]


def operation_elements(device: torch.device) -> int:
    """The most elements of one operation."""
    return OPERATION_ELEMENTS.get(device.type, OTHER_DEVICE_ELEMENTS)


def cut(logits: Tensor, breadth: int) -> list[Task]:
    """The tasks. They depend on shape, device and breadth alone, and so do the sums.

    Args:
        logits: `(B, C, S)`.
        breadth: How many operations the logits of a block take. The voxels of one take one.
    """
    batch, channels, voxels = logits.shape
    if logits.numel() == 0:
        return []
    elements = operation_elements(logits.device)
    room = max(1, min(elements, breadth * elements // channels))
    width = min(voxels, room)
    height = room // width
    spans = [slice(start, start + width) for start in range(0, voxels, width)]
    blocks = max(1, OPERATIONS_A_TASK // breadth)
    return [
        Task(slice(row, row + height), spans[first : first + blocks])
        for row in range(0, batch, height)
        for first in range(0, len(spans), blocks)
    ]


def part_of(target: FlatTarget, samples: slice, voxels: slice) -> FlatTarget:
    """What a target says of a block."""
    mask = None if target.mask is None else target.mask[samples, :, voxels]
    return target._replace(values=target.values[samples, ..., voxels], mask=mask)


def unless_all(valid: Tensor | None) -> Tensor | None:
    """Validity, or None where all of a block is valid. It waits for the device."""
    return None if valid is None or bool(valid.all()) else valid


class Scratch:
    """Named buffers that are used again for each block of a thread."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._held: dict[str, Tensor] = {}

    def __call__(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A buffer of that shape, with whatever it was left with."""
        held = self._held.get(name)
        if held is None or held.shape != shape:
            held = self._held[name] = torch.empty(shape, dtype=self.dtype)
        return held
