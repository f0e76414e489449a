"""The native CPU backend: what `native_cpu_kernels.py` computes, fed by threads.

Nothing is allocated but the gradient, a few rows for each thread and seven numbers a task and
channel. numba is imported, and the kernels are compiled or fetched from their cache, when the
backend first runs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segfocal.ops.cpu_memory import empty_gradient
from segfocal.ops.cpu_threads import share_out
from segfocal.ops.flat_target import FlatTarget
from segfocal.ops.formula import Formula

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TARGETS = ("labels", "regions", "channels")
MISSING = (
    None if find_spec("numba") else "numba is not installed: pip install 'segfocal[fast-cpu]'."
)

SCRATCH_ELEMENTS = 65536
"""Logits of a block: 256 KiB of float32, which the second cache holds beside the rows."""
LONGEST_BLOCK, SHORTEST_BLOCK, BLOCKS_A_TASK = 1024, 128, 16


class View(NamedTuple):
    """A tensor as the kernels see it: `(B, C, S)`, or `(B, S)` for all channels alike.

    Attributes:
        address: Of the first element; 0 where there is no tensor.
        code: Stands for the dtype.
        by_channel: Whether each channel has values of its own.
        stride_b: Elements from one sample to the next, and so on.
        stride_c: From one channel to the next.
        stride_s: From one voxel to the next.
    """

    address: int
    code: int
    by_channel: bool
    stride_b: int
    stride_c: int
    stride_s: int


class Grid(NamedTuple):
    """How the voxels are cut. Depends on the shape alone, so that the sums do too.

    Attributes:
        channels: C.
        voxels: S.
        block: Voxels that are computed at a time.
        task: Voxels whose sums are added up at a time, a multiple of `block`.
        tasks: Tasks of one sample.
    """

    channels: int
    voxels: int
    block: int
    task: int
    tasks: int


def class_sums(logits: Tensor, target: FlatTarget, formula: Formula) -> Tensor:
    """The sums `(B, 7, C)` of `ClassSums`, in float32."""
    batch, channels, _voxels = logits.shape
    if logits.numel() == 0:
        return logits.new_zeros((batch, 7, channels), dtype=torch.float32)
    kernels, grid = _kernels(), _cut(logits, formula)
    partials = np.zeros((batch * grid.tasks, 7, channels + 1))
    shared = _shared(kernels, logits, target, formula)
    kernel = _kernel(kernels, "sums", grid, formula)
    share_out(partial(kernel, *shared, grid, partials), batch * grid.tasks)
    sums = partials.reshape(batch, grid.tasks, 7, channels + 1).sum(1)[:, :, :channels]
    return torch.from_numpy(sums.astype(np.float32))


def class_sums_backward(
    upstream: Tensor, logits: Tensor, target: FlatTarget, formula: Formula
) -> Tensor:
    """Gradient with respect to the logits `(B, C, S)`, given that of the sums `(B, 7, C)`."""
    gradient = empty_gradient(logits)
    if logits.numel() == 0:
        return gradient
    kernels, grid = _kernels(), _cut(logits, formula)
    above = F.pad(upstream.detach().to(torch.float32), (0, 1)).contiguous().numpy()
    shared = _shared(kernels, logits, target, formula)
    kernel = _kernel(kernels, "gradient", grid, formula)
    written = _view(kernels, gradient)
    share_out(partial(kernel, above, *shared, grid, written), len(logits) * grid.tasks)
    return gradient


def _kernels() -> ModuleType:
    return import_module("segfocal.ops.native_cpu_kernels")


def _is_unrolled(channels: int, formula: Formula) -> bool:
    return formula.activation == "softmax" and channels <= _kernels().UNROLLED


def _kernel(
    kernels: ModuleType, direction: str, grid: Grid, formula: Formula
) -> Callable[..., None]:
    """The kernel for "sums" or "gradient"."""
    if _is_unrolled(grid.channels, formula):
        unrolled = getattr(kernels, f"unrolled_softmax_{direction}")
        return partial(unrolled, tuple(range(grid.channels)))
    kernel: Callable[..., None] = getattr(kernels, f"{formula.activation}_{direction}")
    return kernel


def _cut(logits: Tensor, formula: Formula) -> Grid:
    _batch, channels, voxels = logits.shape
    if _is_unrolled(channels, formula):
        block = _kernels().UNROLLED_BLOCK
    else:
        fitting = SCRATCH_ELEMENTS // channels // SHORTEST_BLOCK * SHORTEST_BLOCK
        block = min(max(fitting, SHORTEST_BLOCK), LONGEST_BLOCK)
    task = block * BLOCKS_A_TASK
    return Grid(channels, voxels, block, task, tasks=-(-voxels // task))


def _shared(
    kernels: ModuleType, logits: Tensor, target: FlatTarget, formula: Formula
) -> tuple[object, ...]:
    """What the kernels of an activation take in both directions."""
    tables: tuple[object, ...] = ()
    if formula.activation == "sigmoid":
        table = target.channel_classes or ((),) * logits.shape[1]
        classes = [label for channel in table for label in channel]
        ends = np.cumsum([0, *map(len, table)])
        tables = np.array(classes, np.int32), ends.astype(np.int64)
    gamma = torch.as_tensor(formula.gamma, dtype=torch.float32).detach().reshape(-1)
    gamma = F.pad(gamma, (0, 1)) if isinstance(formula.gamma, Tensor) else gamma
    return (
        _view(kernels, logits),
        _view(kernels, target.values),
        _view(kernels, target.mask),
        np.array(target.ignored, np.int64),
        *tables,
        gamma.contiguous().numpy(),
    )


def _view(kernels: ModuleType, tensor: Tensor | None) -> View:
    if tensor is None:
        return View(0, kernels.NO_TENSOR, False, 0, 0, 0)
    code = {
        torch.float32: kernels.FLOAT32,
        torch.bfloat16: kernels.BFLOAT16,
        torch.float16: kernels.FLOAT16,
        torch.bool: kernels.UINT8,
        torch.uint8: kernels.UINT8,
        torch.int8: kernels.INT8,
        torch.int16: kernels.INT16,
        torch.int32: kernels.INT32,
        torch.int64: kernels.INT64,
    }[tensor.dtype]
    by_channel = tensor.ndim == 3 and tensor.shape[1] > 1
    stride_c = tensor.stride(1) if by_channel else 0
    return View(tensor.data_ptr(), code, by_channel, tensor.stride(0), stride_c, tensor.stride(-1))
