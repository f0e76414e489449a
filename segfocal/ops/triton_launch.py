"""The Triton backend: grids, strides and buffers for the kernels of `triton_kernels.py`.

Imported only when a tensor on a CUDA device comes (ROCm calls its devices the same). Nothing here
waits for the device: which kernel runs depends on shapes, dtypes, strides and settings alone, and
settings are compiled into the kernels instead of being copied to the device.

Logits, target, mask and gradient may have any strides; no copy is made of them here. The op's
caller has flattened the voxels already, which copies only where the spatial axes have no common
stride: contiguous and channels-last tensors have one.

Shapes: B batch, C channels, S flattened voxels.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segfocal.ops import (
    triton_kernels,
    triton_label_kernels,
    triton_sigmoid_kernels,
    triton_unrolled_kernels,
    triton_wide_kernels,
)
from segfocal.ops.elementwise import accumulation_dtype
from segfocal.ops.flat_target import FlatTarget
from segfocal.ops.formula import Formula
from segfocal.ops.triton_form import (
    choose_family,
    choose_tile,
    has_own_class,
    make_form,
    make_inputs,
    make_view,
)

NUM_FIELDS = 7

_NUM_PROGRAMS = {"forward": 1024, "backward": 4096}
"""Programs a sample, wanted: several for each multiprocessor, of which the largest have 132. A
forward program costs a row of partial sums."""

_FEWEST_VOXELS = {"forward": 512, "backward": 1}
"""Voxels a program. Fewer forward, and the partial sums exceed 5 % of the logits: 7 float32 for
each class, against 512 numbers of 2 bytes."""

_MOST_VOXELS = 16384
"""Voxels a program. More, and float32 adds up too many terms in a row."""

_KERNELS = {
    ("unrolled", "forward"): triton_unrolled_kernels.softmax_unrolled_forward,
    ("unrolled", "backward"): triton_unrolled_kernels.softmax_unrolled_backward,
    ("label", "forward"): triton_label_kernels.softmax_label_forward,
    ("label", "backward"): triton_label_kernels.softmax_label_backward,
    ("softmax", "forward"): triton_kernels.softmax_forward,
    ("softmax", "backward"): triton_kernels.softmax_backward,
    ("wide", "forward"): triton_wide_kernels.softmax_wide_forward,
    ("wide", "backward"): triton_wide_kernels.softmax_wide_backward,
    ("sigmoid", "forward"): triton_sigmoid_kernels.sigmoid_forward,
    ("sigmoid", "backward"): triton_sigmoid_kernels.sigmoid_backward,
}


class Launch(NamedTuple):
    """A kernel with all that it is called with, ready to run or to be compiled ahead of time.

    Attributes:
        kernel: The compiled function.
        grid: How many programs run.
        arguments: By name, constants included.
        num_warps: Warps of each program.
        device: Where its tensors are.
    """

    kernel: Any
    grid: int
    arguments: dict[str, Any]
    num_warps: int
    device: torch.device

    @property
    def options(self) -> dict[str, Any]:
        """What the compiler is told besides."""
        return {"num_warps": self.num_warps, "enable_fp_fusion": True}

    def run(self) -> None:
        """Start the kernel on its device."""
        is_gpu = self.device.type == "cuda"
        with torch.cuda.device(self.device) if is_gpu else nullcontext():
            self.kernel[(self.grid,)](**self.arguments, **self.options)


def class_sums(logits: Tensor, target: FlatTarget, formula: Formula) -> Tensor:
    """The sums of `ClassSums`, as `reference.class_sums`.

    The same input gives the same bits on the same device: each program adds up its own voxels, and
    the partial sums are added in order.
    """
    launch, partials = forward_launch(logits, target, formula)
    if logits.numel() > 0:
        launch.run()
    return partials.sum(-1)


def class_sums_backward(
    upstream: Tensor, logits: Tensor, target: FlatTarget, formula: Formula
) -> Tensor:
    """Gradient with respect to the logits `(B, C, S)`, as `reference.class_sums_backward`."""
    launch, gradient = backward_launch(upstream, logits, target, formula)
    if logits.numel() > 0:
        launch.run()
    return gradient


def forward_launch(logits: Tensor, target: FlatTarget, formula: Formula) -> tuple[Launch, Tensor]:
    """The forward kernel, and the partial sums `(B, 7, C, programs)` that it will write."""
    launch = _launch("forward", logits, target, formula)
    partials = torch.empty(
        (logits.shape[0], NUM_FIELDS, logits.shape[1], launch.arguments["num_programs"]),
        dtype=accumulation_dtype(logits),
        device=logits.device,
    )
    return _with(launch, partials=partials), partials


def backward_launch(
    upstream: Tensor, logits: Tensor, target: FlatTarget, formula: Formula
) -> tuple[Launch, Tensor]:
    """The backward kernel, and the gradient `(B, C, S)` that it will write."""
    gradient = torch.empty_like(logits)
    upstream = upstream.to(accumulation_dtype(logits)).contiguous()
    launch = _launch("backward", logits, target, formula)
    return _with(launch, upstream=upstream, gradient=make_view(gradient)), gradient


def _launch(direction: str, logits: Tensor, target: FlatTarget, formula: Formula) -> Launch:
    """All that a kernel takes but what it writes."""
    num_samples, num_channels, num_voxels = logits.shape
    family = choose_family(target, formula, num_channels)
    is_own = has_own_class(target, formula, num_channels)
    tile = choose_tile(family, direction, num_channels, logits.dtype, has_own_class=is_own)
    num_blocks = 1
    if family != "wide":
        num_blocks = _blocks_per_program(direction, num_voxels, tile.voxels)
    num_programs = _ceil_div(num_voxels, num_blocks * tile.voxels) if num_voxels else 0
    num_tiles = _ceil_div(num_channels, tile.channels) if family == "sigmoid" else 1
    gamma = formula.gamma
    arguments = {
        **make_inputs(logits, target, formula)._asdict(),
        "gamma": 0.0 if isinstance(gamma, Tensor) else float(gamma),
        "kept_share": 1 - formula.label_smoothing,
        "floor": formula.smoothing_floor(num_channels),
        "num_channels": num_channels,
        "num_voxels": num_voxels,
        "num_programs": num_programs,
        "num_blocks": num_blocks,
        "FORM": make_form(family, logits, target, formula, tile),
    }
    grid = num_samples * num_programs * num_tiles
    return Launch(_KERNELS[family, direction], grid, arguments, tile.num_warps, logits.device)


def _with(launch: Launch, **outputs: Any) -> Launch:
    return launch._replace(arguments=launch.arguments | outputs)


def _blocks_per_program(direction: str, num_voxels: int, block: int) -> int:
    """How many blocks a program walks: a function of the volume, not of the batch."""
    wanted = max(num_voxels // _NUM_PROGRAMS[direction], _FEWEST_VOXELS[direction])
    return max(_ceil_div(min(wanted, _MOST_VOXELS, num_voxels), block), 1)


def _ceil_div(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)
