"""The chunked backend: plain torch in blocks that fit the cache, on any device and in any dtype.

The volume is walked block by block, all channels of a block at once. No temporary is larger than a
block, and nothing of the logits' size is allocated but the gradient. The blocks are added up in
their order.

Shapes: B samples of a block, C channels, N voxels of a block.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from segfocal.ops.chunked_any_target import AnyTarget
from segfocal.ops.chunked_blocks import Path, Task, cut, part_of
from segfocal.ops.chunked_float_maps import FloatMapSigmoid
from segfocal.ops.chunked_hard_sigmoid import HARD_CLASSES, HardSigmoid
from segfocal.ops.chunked_label_softmax import LabelSoftmax
from segfocal.ops.cpu_memory import empty_gradient
from segfocal.ops.cpu_threads import share_out
from segfocal.ops.elementwise import Upstream, accumulation_dtype
from segfocal.ops.flat_target import FlatTarget
from segfocal.ops.formula import Formula


def class_sums(logits: Tensor, target: FlatTarget, formula: Formula) -> Tensor:
    """The sums `(B, 7, C)` of `ClassSums`, in the accumulation dtype."""
    batch, channels, _voxels = logits.shape
    kind = path_for(logits, target, formula)
    tasks = cut(logits, kind.breadth)
    partials: dict[int, Tensor] = {}

    def run(path: Path, first: int, last: int) -> None:
        for index in range(first, last):
            samples, spans = tasks[index]
            partials[index] = sum(
                (
                    path.sums(logits[samples, :, span], part_of(target, samples, span))
                    for span in spans
                ),
                start=zero,
            )

    zero = logits.new_zeros((), dtype=accumulation_dtype(logits))
    _run(run, lambda: kind(logits, formula), tasks, logits)
    sums = logits.new_zeros((batch, 7, channels), dtype=zero.dtype)
    for index, task in enumerate(tasks):
        sums[task.samples] += partials[index]
    return sums


def class_sums_backward(
    upstream: Tensor, logits: Tensor, target: FlatTarget, formula: Formula
) -> Tensor:
    """Gradient with respect to the logits `(B, C, S)`, given that of the sums `(B, 7, C)`."""
    gradient = empty_gradient(logits)
    upstream = upstream.to(accumulation_dtype(logits)).unsqueeze(-1)
    kind = path_for(logits, target, formula)
    tasks = cut(logits, kind.breadth)

    def run(path: Path, first: int, last: int) -> None:
        for samples, spans in tasks[first:last]:
            above = Upstream(*upstream[samples, :5].unbind(1))
            for span in spans:
                part, block = part_of(target, samples, span), logits[samples, :, span]
                path.gradient(above, block, part, gradient[samples, :, span])

    _run(run, lambda: kind(logits, formula), tasks, logits)
    return gradient


def path_for(
    logits: Tensor, target: FlatTarget, formula: Formula
) -> type[AnyTarget | FloatMapSigmoid | HardSigmoid | LabelSoftmax]:
    """The quickest way that can do it. All but one look at their data: on the CPU alone."""
    if logits.device.type != "cpu" or formula.label_smoothing > 0:
        return AnyTarget
    if not target.is_hard:
        return FloatMapSigmoid if formula.activation == "sigmoid" else AnyTarget
    if formula.activation == "sigmoid":
        highest = max((label for table in target.channel_classes for label in table), default=0)
        return HardSigmoid if highest < HARD_CLASSES else AnyTarget
    plain = tuple((channel,) for channel in range(logits.shape[1]))
    one_class = target.is_labels and target.channel_classes == plain
    by_voxel = target.mask is None or target.mask.shape[1] == 1
    return LabelSoftmax if one_class and by_voxel else AnyTarget


def _run(
    run: Callable[[Path, int, int], None],
    make_path: Callable[[], Path],
    tasks: list[Task],
    logits: Tensor,
) -> None:
    def alone(first: int, last: int) -> None:
        with torch.inference_mode():  # said for each thread anew; quicker to call than no_grad
            run(make_path(), first, last)

    if logits.device.type == "cpu":
        share_out(alone, len(tasks))
    else:
        alone(0, len(tasks))
