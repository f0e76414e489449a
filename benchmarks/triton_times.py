"""Times of the Triton kernels alone, beside a copy of the logits. Needs a CUDA device.

    python benchmarks/triton_times.py [--repeats N]

A graph of ten launches is replayed, so that the host has no part in a time; two inputs take turns,
so that a cache as large as one of them does not help. The floor is one and a half copies: the
logits read twice and the gradient written once. Labels are random bytes, or eight bytes where the
row says int64. Values are checked against the reference on a part of the volume first.
"""

import argparse
import statistics
from datetime import date
from typing import NamedTuple

import torch
import triton

from segfocal.functional.dice import DiceOptions, dice_formula
from segfocal.functional.focal import FocalOptions, focal_formula
from segfocal.functional.voxel_options import VoxelOptions, Voxels
from segfocal.ops import reference, triton_launch, triton_loss
from segfocal.ops.flat_target import FlatTarget
from segfocal.ops.formula import Formula
from segfocal.ops.loss_formula import LossFormula, TermWeights

IN_A_GRAPH = 10
CHECKED = 8192
"""Voxels, a multiple of 16 like the whole: so the kernels are the same ones."""

VOXELS = 128**3
REGIONS = ((1, 2, 3), (2, 3), (3,))


class Workload(NamedTuple):
    activation: str
    num_samples: int
    num_channels: int
    dtype: torch.dtype = torch.float32
    label_dtype: torch.dtype = torch.uint8

    def __str__(self):
        shape = f"{self.num_samples}x{self.num_channels}x128x128x128"
        longer = ", int64 labels" if self.label_dtype == torch.int64 else ""
        return f"{self.activation} {shape} {str(self.dtype)[6:]}{longer}"


SHAPES = (
    ("softmax", 2, 4),
    ("sigmoid", 2, 3),
    ("softmax", 2, 8),
    ("softmax", 1, 16),
    ("softmax", 1, 32),
    ("softmax", 1, 64),
    ("softmax", 2, 105),
    ("softmax", 1, 256),
)
WORKLOADS = (
    *(Workload(*shape) for shape in SHAPES),
    *(Workload(*SHAPES[i], dtype=torch.bfloat16) for i in (0, 1, 4, 6)),
    *(Workload(*shape, label_dtype=torch.int64) for shape in SHAPES[:2]),
)


def make_arguments(workload, generator):
    shape = (workload.num_samples, workload.num_channels, VOXELS)
    logits = torch.randn(shape, device="cuda", generator=generator).to(workload.dtype)
    is_sigmoid = workload.activation == "sigmoid"
    most = 4 if is_sigmoid else workload.num_channels
    labels = torch.randint(0, most, (shape[0], VOXELS), device="cuda", generator=generator)
    table = REGIONS if is_sigmoid else tuple((c,) for c in range(most))
    target = FlatTarget(labels.to(workload.label_dtype), None, table, ())
    return logits, target, Formula(workload.activation, 2.0)


def check(logits, target, formula, upstream):
    """Stop where sums or gradient of the first voxels are wrong."""
    part = target._replace(values=target.values[:1, :CHECKED])
    few, exact = logits[:1, :, :CHECKED], logits[:1, :, :CHECKED].double()
    torch.testing.assert_close(
        triton_launch.class_sums(few, part, formula).double(),
        reference.class_sums(exact, part, formula),
        rtol=1e-4,
        atol=1e-3,
    )
    found = triton_launch.class_sums_backward(upstream[:1], few, part, formula).double()
    truth = reference.class_sums_backward(upstream[:1].double(), exact, part, formula)
    rounding = 1e-5 if logits.dtype == torch.float32 else 1e-2
    assert (found - truth).abs().max() <= rounding * truth.abs().max()


def dice_focal_launch(logits, target, formula):
    """The kernel that makes a Dice-focal loss of the sums."""
    read = VoxelOptions(activation=formula.activation)
    voxels = Voxels(logits, target.values, None, read)
    terms = LossFormula(dice_formula(voxels, DiceOptions()), focal_formula(voxels, FocalOptions()))
    sums = triton_launch.class_sums(logits, target, formula)
    launch, _outputs = triton_loss.loss_launch(sums, terms, TermWeights(None, None, None))
    return launch


def microseconds(calls, repeats):
    """Of one call: the calls take turns in a graph that is replayed."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(IN_A_GRAPH):
            calls[i % len(calls)]()
    graph.replay()
    times = []
    for _ in range(repeats):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        graph.replay()
        ended.record()
        ended.synchronize()
        times.append(1000 * began.elapsed_time(ended) / IN_A_GRAPH)
    return statistics.median(times)


def row(workload, repeats):
    generator = torch.Generator("cuda").manual_seed(0)
    upstream = torch.randn(
        workload.num_samples, 7, workload.num_channels, device="cuda", generator=generator
    )
    forwards, backwards, sums, losses, copies = [], [], [], [], []
    for _ in range(2):
        logits, target, formula = make_arguments(workload, generator)
        check(logits, target, formula, upstream)
        forward, partials = triton_launch.forward_launch(logits, target, formula)
        backward, gradient = triton_launch.backward_launch(upstream, logits, target, formula)
        forwards.append(forward.run)
        backwards.append(backward.run)
        sums.append(lambda partials=partials: partials.sum(-1))
        losses.append(dice_focal_launch(logits, target, formula).run)
        copies.append(lambda logits=logits, gradient=gradient: gradient.copy_(logits))
    times = [microseconds(calls, repeats) for calls in (copies, forwards, sums, losses, backwards)]
    share = 1.5 * times[0] / sum(times[1:])
    return f"| {workload} | {' | '.join(f'{time:.1f}' for time in times)} | {share:.2f} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    if not torch.cuda.is_available():
        parser.error("needs a CUDA device, and torch sees none.")
    versions = f"torch {torch.__version__}, triton {triton.__version__}"
    print(f"{torch.cuda.get_device_name()}, {versions}, {date.today()}\n")
    print("| workload | copy, us | forward | sum | loss | backward | share of the floor |")
    print("|---" * 7 + "|")
    for workload in WORKLOADS:
        print(row(workload, repeats), flush=True)


if __name__ == "__main__":
    main()
