"""What the Triton kernels are compiled for: the form of a call, and the tile that suits it.

Everything here is decided from shapes, dtypes and settings; no kernel is started and no device
asked.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from segfocal.ops.elementwise import accumulation_dtype
from segfocal.ops.flat_target import FlatTarget
from segfocal.ops.formula import Formula

VOXELS_FOLDED = 4
"""Neighbours in a tile that one thread holds and adds up: 16 bytes of float32."""

MOST_CHANNELS_UNROLLED = 8
"""Beyond, a thread would hold too many registers."""

MOST_CHANNELS_IN_A_TILE = 256
"""Beyond, the softmax kernels walk over tiles of channels."""


class View(NamedTuple):
    """A tensor's memory as a kernel sees it, strides in elements."""

    pointer: Tensor
    batch: int
    channel: int
    voxel: int


class Inputs(NamedTuple):
    """What both kernels of a pass read."""

    logits: View
    target: View
    mask: View | None
    class_gamma: Tensor | None


class Tile(NamedTuple):
    """The part of a sample that one step of a program holds in registers.

    Attributes:
        channels: Rows, a power of two; where channels are unrolled, how many a program has.
        voxels: Columns, a power of two.
        num_warps: Warps that share it.
        keeps_columns: Whether a program adds up whole tiles and sums over voxels once, at its end.
            That saves exchanges between threads, for a register for each sum and element.
        stages: Tiles in flight: while one is computed, the next ones are read.
    """

    channels: int
    voxels: int
    num_warps: int
    keeps_columns: bool = False
    stages: int = 1


class Form(NamedTuple):
    """All that is compiled into a kernel. No properties: a kernel sees the fields alone.

    Attributes:
        target: "labels", "regions", "channels" or "shares", as in `backend_choice.Request`.
        mask: "none", "voxels" or "channels".
        gamma: "two", "number", or "class" for one per class.
        overlap: "product" or "minimum".
        is_smoothed: Whether the focal fields see smoothed shares.
        ignored: Labels that do not count.
        regions: Words of 32 labels that tell each channel's classes, channel after channel.
        words: How many words a channel has.
        acc: Dtype of all arithmetic.
        channels: The tile's rows.
        tiles: How many tiles hold all channels, in the kernels that have several side by side.
        bins: How many labels those count: the channels, rounded up to a power of two.
        voxels: The tile's columns.
        width: Columns in which sums are kept from step to step.
        stages: The tile's.
        counted: Rows of the softmax count of valid voxels: one for all, unless channels differ.
        is_grouped: Whether a program has some of the channels only.
        leaves_out: Whether a mask or an ignored label may leave voxels out.
        has_labels: Whether the target holds one label a voxel.
        is_hard: Whether each voxel is wholly in a channel or wholly out of it.
        has_hard_focal: Whether the focal fields see it so too.
        has_own_class: Whether a softmax voxel's focal term is that of one class.
    """

    target: str
    mask: str
    gamma: str
    overlap: str
    is_smoothed: bool
    ignored: tuple[int, ...]
    regions: tuple[int, ...]
    words: int
    acc: tl.dtype
    channels: int
    tiles: int
    bins: int
    voxels: int
    width: int
    stages: int
    counted: int
    is_grouped: bool
    leaves_out: bool
    has_labels: bool
    is_hard: bool
    has_hard_focal: bool
    has_own_class: bool


_UNROLLED_TILES = {
    ("unrolled", "forward"): Tile(8, 128, 1, stages=3),
    ("unrolled", "backward"): Tile(8, 256, 2, stages=3),
    ("sigmoid", "forward"): Tile(8, 128, 1, stages=2),
    ("sigmoid", "backward"): Tile(8, 256, 2, stages=2),
}
"""Their channels are the most that a program has."""

_LABEL_TILES = {
    "forward": {
        16: Tile(8, 32, 1, keeps_columns=True, stages=3),
        32: Tile(8, 32, 1, keeps_columns=True),
        128: Tile(8, 32, 2),
        256: Tile(16, 16, 4),
    },
    "backward": {
        32: Tile(8, 64, 2, stages=3),
        128: Tile(8, 32, 2),
        256: Tile(16, 32, 4),
    },
}
"""By channels at most."""

_SOFTMAX_TILES = {
    2: Tile(2, 128, 1, keeps_columns=True),
    4: Tile(4, 128, 1, keeps_columns=True),
    8: Tile(8, 64, 1, keeps_columns=True),
    16: Tile(16, 32, 1, keeps_columns=True),
    32: Tile(32, 32, 2, keeps_columns=True),
    64: Tile(64, 32, 4),
    128: Tile(128, 32, 8),
    256: Tile(256, 16, 16),
}
"""By channels at most: a tile has all of them."""

_WIDE_TILE = Tile(8, 256, 4)


def choose_family(target: FlatTarget, formula: Formula, num_channels: int) -> str:
    """Which kernels run.

    "sigmoid"; "wide" for more softmax channels than fit a tile; for plain labels whose channels
    have a mask in common "unrolled" (few channels) or "label"; else "softmax".
    """
    if formula.activation == "sigmoid":
        return "sigmoid"
    if num_channels > MOST_CHANNELS_IN_A_TILE:
        return "wide"
    is_few = num_channels <= MOST_CHANNELS_UNROLLED
    is_simple = (
        has_own_class(target, formula, num_channels) and _mask_kind(target.mask) != "channels"
    )
    if not is_simple:
        return "softmax"
    return "unrolled" if is_few else "label"


def choose_tile(
    family: str, direction: str, num_channels: int, dtype: torch.dtype, *, has_own_class: bool
) -> Tile:
    """The tile for logits of so many channels, in the "forward" or the "backward" kernel.

    float64 takes half the voxels, and tiles for labels twice the warps; so do wide softmax tiles
    and those that keep columns where a voxel's focal term is not that of one class: otherwise their
    registers would spill.
    """
    if family in ("unrolled", "sigmoid"):
        tile = _UNROLLED_TILES[family, direction]
        channels = num_channels if num_channels <= tile.channels else tile.channels // 2
        # half the bytes to wait for: reading ahead costs more than it brings
        stages = tile.stages if dtype.itemsize > 2 else 1
        tile = tile._replace(channels=channels, stages=stages)
    elif family == "wide":
        tile = _WIDE_TILE
    else:
        tiles = _LABEL_TILES[direction] if family == "label" else _SOFTMAX_TILES
        tile = next(tile for most, tile in tiles.items() if num_channels <= most)
    voxels = tile.voxels
    if dtype == torch.float64:
        voxels //= 2
        if family == "label":
            tile = tile._replace(keeps_columns=False, num_warps=2 * tile.num_warps)
    if family in ("softmax", "wide") and not has_own_class:
        voxels //= 2 if family == "wide" or tile.keeps_columns else 1
    return tile._replace(voxels=voxels)


def has_own_class(target: FlatTarget, formula: Formula, num_channels: int) -> bool:
    """Whether a voxel's focal term is that of one class."""
    kind = _target_kind(target, num_channels)
    return kind == "labels" and formula.label_smoothing == 0


def make_form(
    family: str, logits: Tensor, target: FlatTarget, formula: Formula, tile: Tile
) -> Form:
    """The form of a call of the op."""
    kind, mask_kind = _target_kind(target, logits.shape[1]), _mask_kind(target.mask)
    words, regions = _region_words(target.channel_classes) if kind == "regions" else (1, ())
    is_hard, is_smoothed = kind != "shares", formula.label_smoothing > 0
    is_double = accumulation_dtype(logits) == torch.float64
    return Form(
        target=kind,
        mask=mask_kind,
        gamma=_gamma_kind(formula.gamma),
        overlap="product" if is_hard else formula.overlap,
        is_smoothed=is_smoothed,
        ignored=_held(target),
        regions=regions,
        words=words,
        acc=tl.float64 if is_double else tl.float32,
        channels=tile.channels,
        tiles=-(-logits.shape[1] // tile.channels) if family == "label" else 1,
        bins=1 << (logits.shape[1] - 1).bit_length() if family == "label" else 1,
        voxels=tile.voxels,
        width=_width(family, tile),
        stages=tile.stages,
        counted=tile.channels if mask_kind == "channels" else 1,
        is_grouped=tile.channels < logits.shape[1],
        leaves_out=mask_kind != "none" or len(_held(target)) > 0,
        has_labels=kind in ("labels", "regions"),
        is_hard=is_hard,
        has_hard_focal=is_hard and not is_smoothed,
        has_own_class=has_own_class(target, formula, logits.shape[1]),
    )


def _width(family: str, tile: Tile) -> int:
    if tile.keeps_columns:
        return tile.voxels
    if family in ("unrolled", "sigmoid"):
        return 32 * tile.num_warps
    return tile.voxels // VOXELS_FOLDED if family == "label" else 1


def make_inputs(logits: Tensor, target: FlatTarget, formula: Formula) -> Inputs:
    """The tensors of a call, with their strides."""
    gamma = formula.gamma
    return Inputs(
        logits=make_view(logits),
        target=make_view(target.values),
        mask=None if target.mask is None else make_view(target.mask),
        class_gamma=gamma.contiguous() if isinstance(gamma, Tensor) else None,
    )


def make_view(tensor: Tensor) -> View:
    """A tensor `(B, C, S)` or `(B, S)`; bool is read as bytes of 0 and 1."""
    if tensor.dtype == torch.bool:
        tensor = tensor.view(torch.uint8)
    channel = tensor.stride(1) if tensor.ndim == 3 else 0
    return View(tensor, tensor.stride(0), channel, tensor.stride(-1))


def _target_kind(target: FlatTarget, num_channels: int) -> str:
    if not target.is_labels:
        return "channels" if target.is_hard else "shares"
    plain = tuple((channel,) for channel in range(num_channels))
    return "labels" if target.channel_classes == plain else "regions"


def _mask_kind(mask: Tensor | None) -> str:
    if mask is None:
        return "none"
    return "voxels" if mask.shape[1] == 1 else "channels"


def _gamma_kind(gamma: float | Tensor) -> str:
    if isinstance(gamma, Tensor):
        return "class"
    return "two" if gamma == 2 else "number"


def _held(target: FlatTarget) -> tuple[int, ...]:
    """The ignored labels that the labels' dtype can hold; others match nothing."""
    if not target.is_labels:
        return ()
    limits = torch.iinfo(target.values.dtype)
    return tuple(label for label in target.ignored if limits.min <= label <= limits.max)


def _region_words(channel_classes: tuple[tuple[int, ...], ...]) -> tuple[int, tuple[int, ...]]:
    """Each channel's classes as the bits of signed 32-bit words, and the words a channel has."""
    highest = max((label for classes in channel_classes for label in classes), default=0)
    num_words = highest // 32 + 1
    words = []
    for classes in channel_classes:
        bits = sum(1 << label for label in set(classes))
        for word in range(num_words):
            unsigned = (bits >> 32 * word) & 0xFFFFFFFF
            words.append(unsigned - (unsigned >> 31 << 32))
    return num_words, tuple(words)
