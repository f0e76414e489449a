"""A sliding window that hands out its result slab by slab instead of holding all of it.

What a network says of a volume is K numbers a voxel: with 105 classes a 512 x 512 x 800 scan takes
88 GB in float32. Windows are therefore visited in order along one axis. Planes that no later window
touches are blended, handed out, and their memory taken for the next ones, so that no more planes
are held than a window is long.

Shapes: C channels, K outputs, S spatial.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.utils.enums import BlendMode
from monai.utils.misc import ensure_tuple_rep
from torch import Tensor
from torch.nn import functional as F

Network = Callable[[Tensor], Tensor]
"""Windows `(N, C, *patch)` to float32 logits `(N, K, *patch)`."""


class Slab(NamedTuple):
    """Some planes of a result.

    Attributes:
        start: The first plane's index along the axis of the sweep.
        values: `(K, *S)`, S being the volume's shape but for that axis.
    """

    start: int
    values: Tensor


@dataclass(frozen=True)
class SlidingWindow:
    """Windows over volumes of one shape: the places, the weights and the blending of MONAI's.

    Args:
        shape: Spatial shape of the volume.
        patch_size: Of a window. A shorter volume is padded with 0 on both sides.
        overlap: Share of a window that the next one covers again, in [0, 1); one for all axes or
            one for each.
        mode: "gaussian" or "constant": how overlapping windows are weighed.
    """

    shape: tuple[int, ...]
    patch_size: tuple[int, ...]
    overlap: float | tuple[float, ...]
    mode: str

    @property
    def axis(self) -> int:
        """The axis of the sweep: the one that is longest, counted in windows."""
        ratios = [size / patch for size, patch in zip(self.shape, self.patch_size, strict=True)]
        return ratios.index(max(ratios))

    def held_bytes(self, num_outputs: int) -> int:
        """What `sweep` holds at most, besides the planes that it has just handed out."""
        planes = [max(pair) for pair in zip(self.shape, self.patch_size, strict=True)]
        planes[self.axis] = self.patch_size[self.axis]
        return 4 * (num_outputs + 1) * torch.Size(planes).numel()

    def sweep(
        self,
        volume: Tensor,
        network: Network,
        *,
        batch_size: int,
        slab_bytes: int,
        blend_on: Callable[[int], torch.device],
    ) -> Iterator[Slab]:
        """Blended logits of a volume, from its first plane to its last.

        Args:
            volume: `(C, *shape)`.
            network: Computes the windows.
            batch_size: Windows a call of it gets at most.
            slab_bytes: What a slab holds at most, but for one that is a single plane.
            blend_on: Where to add up so many outputs of each voxel.

        Raises:
            ValueError: If the network's answer has not the windows' size.
        """
        padded, before = self._pad(volume)
        axis, stop = self.axis, before[self.axis] + self.shape[self.axis]
        inside = [
            slice(first, first + size) for first, size in zip(before, self.shape, strict=True)
        ]
        ring: _Ring | None = None
        most_planes = 1
        done = before[axis]
        for starts, until in self._rounds(padded.shape[1:]):
            for batch in _batches(starts, batch_size):
                windows = torch.stack([padded[_window(at, self.patch_size)] for at in batch])
                logits = network(windows)
                if tuple(logits.shape[2:]) != self.patch_size:
                    raise ValueError(
                        f"Expected logits of the windows' size {self.patch_size}, got "
                        f"{tuple(logits.shape[2:])}. The network must keep the size of its input."
                    )
                if ring is None:
                    ring = self._ring(padded.shape[1:], logits.shape[1], blend_on)
                    most_planes = self._planes_of(slab_bytes, logits.shape[1])
                for at, answer in zip(batch, logits, strict=True):
                    ring.add(at, answer)
            assert ring is not None
            while done < min(until, stop):
                planes = min(most_planes, min(until, stop) - done)
                inside[axis] = slice(None)
                yield Slab(done - before[axis], ring.take(done, planes)[(slice(None), *inside)])
                done += planes
            ring.forget_before(until)

    def _planes_of(self, num_bytes: int, num_outputs: int) -> int:
        plane = math.prod(size for axis, size in enumerate(self.shape) if axis != self.axis)
        return max(num_bytes // (4 * num_outputs * plane), 1)

    def _pad(self, volume: Tensor) -> tuple[Tensor, list[int]]:
        lacking = [
            max(patch - size, 0) for size, patch in zip(self.shape, self.patch_size, strict=True)
        ]
        before = [gap // 2 for gap in lacking]
        sides = [(first, gap - first) for first, gap in zip(before, lacking, strict=True)]
        flat = [number for side in reversed(sides) for number in side]
        return (F.pad(volume, flat) if any(flat) else volume), before

    def _rounds(self, shape: Sequence[int]) -> Iterator[tuple[list[tuple[int, ...]], int]]:
        """Windows that start on the same plane, and up to where planes are final after them."""
        overlaps = ensure_tuple_rep(self.overlap, len(self.patch_size))
        interval = [
            max(int(patch * (1 - overlap)), 1)
            for patch, overlap in zip(self.patch_size, overlaps, strict=True)
        ]
        ends = dense_patch_slices(shape, self.patch_size, interval, return_slice=False)
        starts = [tuple(int(first) for first, _ in place) for place in ends]
        planes = sorted({self._along(at) for at in starts})
        for plane, until in zip(planes, [*planes[1:], shape[self.axis]], strict=True):
            yield [at for at in starts if self._along(at) == plane], until

    def _along(self, start: tuple[int, ...]) -> int:
        return start[self.axis]

    def _ring(
        self, shape: Sequence[int], num_outputs: int, blend_on: Callable[[int], torch.device]
    ) -> _Ring:
        weight = compute_importance_map(
            self.patch_size, mode=BlendMode(self.mode), device="cpu", dtype=torch.float32
        )
        planes = list(shape)
        planes[self.axis] = self.patch_size[self.axis]
        device = blend_on(num_outputs)
        return _Ring(
            torch.zeros((num_outputs, *planes), device=device),
            torch.zeros((1, *planes), device=device),
            weight.to(device),
            self.axis,
        )


class _Ring:
    """Weighted sums of the planes at hand; plane i lies at i modulo a window's length."""

    def __init__(self, total: Tensor, weights: Tensor, weight: Tensor, axis: int) -> None:
        self.total, self.weights, self.weight = total, weights, weight
        self.dim = axis + 1
        self.axis = axis
        self.length = total.shape[self.dim]
        self.first = 0

    def add(self, start: tuple[int, ...], logits: Tensor) -> None:
        """Add a window's logits `(K, *patch)`."""
        weighted = logits.to(self.total.device) * self.weight
        place = [slice(None), *_window(start, weighted.shape[1:])[1:]]
        for there, here in self._pieces(start[self.axis], self.length):
            place[self.dim] = there
            self.total[tuple(place)] += weighted.narrow(
                self.dim, here.start, here.stop - here.start
            )
            self.weights[tuple(place)] += self.weight.narrow(
                self.axis, here.start, here.stop - here.start
            )

    def take(self, start: int, count: int) -> Tensor:
        """The weighted means of some planes, a copy."""
        pieces = [
            self.total.narrow(self.dim, there.start, there.stop - there.start)
            / self.weights.narrow(self.dim, there.start, there.stop - there.start)
            for there, _ in self._pieces(start, count)
        ]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, self.dim)

    def forget_before(self, plane: int) -> None:
        """Make room: planes before this one are not asked for again."""
        for there, _ in self._pieces(self.first, plane - self.first):
            for held in (self.total, self.weights):
                held.narrow(self.dim, there.start, there.stop - there.start).zero_()
        self.first = plane

    def _pieces(self, start: int, count: int) -> Iterator[tuple[slice, slice]]:
        """Where some planes lie in the ring, in two pieces at most, and which of them those are."""
        at, here = start % self.length, 0
        while here < count:
            size = min(count - here, self.length - at)
            yield slice(at, at + size), slice(here, here + size)
            at, here = 0, here + size


def _window(start: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    """A window as an index into `(C, *S)`."""
    return (
        slice(None),
        *(slice(first, first + length) for first, length in zip(start, size, strict=True)),
    )


def _batches(starts: Sequence[tuple[int, ...]], size: int) -> Iterator[Sequence[tuple[int, ...]]]:
    for first in range(0, len(starts), size):
        yield starts[first : first + size]
