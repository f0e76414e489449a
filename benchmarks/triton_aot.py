"""Compiles the Triton kernels ahead of time and prints what they need. No GPU is used.

    python benchmarks/triton_aot.py [--arch 80 90] [--axes tiles dtypes forms labels layouts losses]

One line a kernel: registers a thread, bytes spilled (stores and loads), shared memory, warps, and
the warps that fit a multiprocessor by registers. Each axis varies one group of settings about the
usual call (softmax, 4 classes, float32, uint8 labels with one ignored, gamma 2): their full product
would be thousands of kernels, and no two groups share a variable in the kernels' source but for the
tile, which `tiles` crosses with activation and dtype.

What is compiled is what the launcher would compile on a device: the same call, the same
specialisation on strides and sizes.
"""

import argparse
import os
import re
import subprocess
import tempfile
from itertools import product
from typing import NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

from segfocal.ops import triton_launch, triton_loss
from segfocal.ops.flat_target import FlatTarget
from segfocal.ops.formula import Formula
from segfocal.ops.loss_formula import (
    FocalFormula,
    LossFormula,
    OverlapFormula,
    OverlapNumbers,
    TermWeights,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
LABEL_DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
AXES = ("tiles", "dtypes", "forms", "labels", "layouts", "losses")


class Call(NamedTuple):
    """A call of the op, in a few words."""

    activation: str = "softmax"
    num_channels: int = 4
    num_voxels: int = 4096
    target: str = "labels"
    mask: str = "none"
    gamma: float | str = 2.0
    smoothing: float = 0.0
    overlap: str = "product"
    dtype: torch.dtype = torch.float32
    label_dtype: torch.dtype = torch.uint8
    ignored: tuple[int, ...] = (255,)
    layout: str = "contiguous"


class LossCall(NamedTuple):
    """A loss made of sums, in a few words."""

    activation: str = "softmax"
    num_channels: int = 4
    num_samples: int = 2
    dtype: torch.dtype = torch.float32
    terms: str = "both"
    weights: str = "none"
    gamma: float = 1.0
    batch: bool = False
    absent: str = "smooth"
    normalizer: str = "valid"


class Compiled(NamedTuple):
    """What a kernel needs. Registers are a thread's, memory is in bytes."""

    name: str
    call: Call
    arch: int
    registers: int
    spill_stores: int
    spill_loads: int
    shared: int
    num_warps: int
    ptx: str

    @property
    def resident_warps(self):
        """Warps on a multiprocessor of 65536 registers, by registers and the limits on programs."""
        by_registers = 65536 // (-(-self.registers // 8) * 8 * 32 * self.num_warps)
        return min(by_registers, 32, 64 // self.num_warps) * self.num_warps


def arguments(call):
    """The op's flattened arguments, empty."""
    shape = (2, call.num_channels, call.num_voxels)
    logits = torch.zeros(shape, dtype=call.dtype)
    if call.layout == "channels last":
        logits = torch.zeros(2, call.num_voxels, call.num_channels, dtype=call.dtype).mT
    table = ((1,),) if call.num_channels == 1 else tuple((c,) for c in range(call.num_channels))
    if call.target == "regions":
        table = tuple(tuple(range(c + 1, call.num_channels + 1)) for c in range(call.num_channels))
    values = {
        "labels": torch.zeros(2, call.num_voxels, dtype=call.label_dtype),
        "regions": torch.zeros(2, call.num_voxels, dtype=call.label_dtype),
        "channels": torch.zeros(shape, dtype=torch.bool),
        "shares": torch.zeros(shape),
    }[call.target]
    width = {"none": None, "voxels": 1, "channels": call.num_channels}[call.mask]
    mask = None if width is None else torch.ones(2, width, call.num_voxels, dtype=torch.bool)
    acc = torch.float64 if call.dtype == torch.float64 else torch.float32
    gamma = torch.ones(call.num_channels, dtype=acc) if call.gamma == "class" else call.gamma
    ignored = call.ignored if values.ndim == 2 else ()
    formula = Formula(call.activation, gamma, call.smoothing, call.overlap)
    return logits, FlatTarget(values, mask, table, ignored), formula


def launches(call):
    """The forward and the backward launch; of a loss, the only one."""
    if isinstance(call, LossCall):
        yield loss_launch(call)
        return
    logits, target, formula = arguments(call)
    upstream = torch.zeros(2, 7, call.num_channels)
    yield triton_launch.forward_launch(logits, target, formula)[0]
    yield triton_launch.backward_launch(upstream, logits, target, formula)[0]


def loss_launch(call):
    """The launch that makes a loss of sums."""
    acc = torch.float64 if call.dtype == torch.float64 else torch.float32
    shapes = {"one": (), "class": call.num_channels, "foreground": call.num_channels - 1}
    weights = None if call.weights == "none" else torch.ones(shapes[call.weights], dtype=acc)
    first = 1 if call.weights == "foreground" else 0
    overlap = OverlapFormula(
        OverlapNumbers(1.0, 2.0, 0.0, 1.0, 0.0, 1.0, 1e-5, 1e-5, 1 / call.gamma),
        first=first,
        over_batch=call.batch,
        absent=call.absent,
        is_mean=True,
    )
    focal = FocalFormula(1.0, first, call.normalizer, call.activation == "sigmoid")
    formula = LossFormula(
        overlap if call.terms in ("both", "overlap") else None,
        focal if call.terms in ("both", "focal") else None,
    )
    sums = torch.zeros(call.num_samples, 7, call.num_channels, dtype=acc)
    return triton_loss.loss_launch(sums, formula, TermWeights(weights, weights, weights))[0]


def compile_launch(launch, call, arch):
    """Compile as `triton.jit` would for these arguments, for another machine."""
    target, kernel = GPUTarget("cuda", arch, 32), launch.kernel
    backend = make_backend(target)
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialization, options = bind(**launch.arguments, **launch.options)
    options, signature, constants, attributes = kernel._pack_args(
        backend, options, bound, specialization, options
    )
    source = ASTSource(kernel, signature, constants, attributes)
    compiled = triton.compile(source, target=target, options=options.__dict__)
    registers, stores, loads = assemble(compiled.asm["ptx"], arch)
    return Compiled(
        name=kernel.__name__,
        call=call,
        arch=arch,
        registers=registers,
        spill_stores=stores,
        spill_loads=loads,
        shared=compiled.metadata.shared,
        num_warps=launch.num_warps,
        ptx=compiled.asm["ptx"],
    )


def assemble(ptx, arch):
    """Registers and spills in bytes, as the assembler that comes with triton tells them."""
    machine = re.search(r"^\.target (\w+)", ptx, re.MULTILINE)[1]
    assembler = get_ptxas(arch).path
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [
            assembler,
            "-v",
            "--regAllocOptLevel=2",
            "--gpu-name",
            machine,
            file.name,
            "-o",
            os.devnull,
        ]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers = re.search(r"Used (\d+) registers", told)[1]
    stores, loads = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", told).groups()
    return int(registers), int(stores), int(loads)


def calls(axes):
    """The calls of the chosen axes, each once."""
    found = []
    for axis in axes:
        found += {
            "tiles": tile_calls,
            "dtypes": dtype_calls,
            "forms": form_calls,
            "labels": label_calls,
            "layouts": layout_calls,
            "losses": loss_calls,
        }[axis]()
    return list(dict.fromkeys(found))


def tile_calls():
    """Every tile that there is."""
    for num_channels in (2, 4, 8, 16, 32, 64, 105, 256, 300):
        yield Call("softmax", num_channels)
    for num_channels in (1, 2, 4, 8):
        yield Call("sigmoid", num_channels)


def dtype_calls():
    for dtype in DTYPES:
        for num_channels in (4, 32, 105, 300):
            yield Call("softmax", num_channels, dtype=dtype)
        yield Call("sigmoid", 4, dtype=dtype)


def form_calls():
    """Every target under every mask, plain and with all options; shares and masks when wide."""
    targets = {
        "softmax": ("labels", "channels", "shares"),
        "sigmoid": ("labels", "regions", "channels", "shares"),
    }
    options = (
        {},
        {"gamma": 0.5, "overlap": "minimum"},
        {"gamma": "class", "smoothing": 0.1},
    )
    for activation, kinds in targets.items():
        for target, mask, chosen in product(kinds, ("none", "voxels", "channels"), options):
            yield Call(activation, target=target, mask=mask, **chosen)
    for num_channels, target in product((32, 105, 256, 300), ("labels", "shares")):
        yield Call("softmax", num_channels, target=target, mask="channels", **options[-1])


def label_calls():
    for activation, dtype in product(("softmax", "sigmoid"), LABEL_DTYPES):
        yield Call(activation, label_dtype=dtype, ignored=(0, 77))
    yield Call(ignored=())


def layout_calls():
    """Sizes that vectors fit and sizes that they don't; channels first and last."""
    sizes, layouts = (4096, 1023), ("contiguous", "channels last")
    for activation, voxels, layout in product(("softmax", "sigmoid"), sizes, layouts):
        for num_channels in (3, 32):
            yield Call(activation, num_channels, voxels, layout=layout)


def loss_calls():
    """Losses of sums: every tile that a batch may need, and every branch."""
    for samples, channels in ((1, 1), (2, 4), (2, 105), (2, 300), (32, 128), (1, 4096)):
        yield LossCall(num_samples=samples, num_channels=channels)
    for dtype, activation in product((torch.float32, torch.float64), ("softmax", "sigmoid")):
        for weights in ("none", "one", "class", "foreground"):
            yield LossCall(activation, dtype=dtype, weights=weights)
    for batch, absent in product((False, True), ("smooth", "skip", "penalise")):
        yield LossCall(batch=batch, absent=absent, gamma=4 / 3)
    for terms, normalizer in product(("both", "focal"), ("valid", "positives", "alpha", "none")):
        for activation in ("softmax", "sigmoid"):
            yield LossCall(activation, terms=terms, normalizer=normalizer, weights="class")
    yield LossCall(terms="overlap")


def row(compiled):
    call = compiled.call
    differs = [
        str(value).removeprefix("torch.")
        for name, value, usual in zip(call._fields, call, type(call)(), strict=True)
        if value != usual and name not in ("activation", "num_channels")
    ]
    cells = (
        compiled.name,
        call.num_channels,
        ", ".join(differs),
        f"sm_{compiled.arch}",
        compiled.registers,
        f"{compiled.spill_stores}/{compiled.spill_loads}",
        compiled.shared,
        compiled.num_warps,
        compiled.resident_warps,
    )
    return f"| {' | '.join(map(str, cells))} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", type=int, nargs="+", default=[80, 90])
    parser.add_argument("--axes", nargs="+", choices=AXES, default=AXES)
    options = parser.parse_args()
    print(
        "| kernel | C | besides the usual | target | registers | spilled | shared | warps "
        "| resident |\n" + "| --- " * 9 + "|"
    )
    num_kernels, spilling = 0, []
    for call in calls(options.axes):
        for launch, arch in product(launches(call), options.arch):
            compiled = compile_launch(launch, call, arch)
            print(row(compiled), flush=True)
            num_kernels += 1
            if compiled.spill_stores or compiled.spill_loads:
                spilling.append(compiled)
    print(f"\n{num_kernels} kernels, {len(spilling)} of them spill.")


if __name__ == "__main__":
    main()
