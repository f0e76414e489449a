"""Cases for the Triton kernels, and their comparison with the float64 reference.

Used twice: in Triton's interpreter on the CPU, and on a GPU.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import torch
from torch.nn import functional as F

from segfocal.ops import reference, triton_launch
from segfocal.ops.flat_target import FlatTarget
from segfocal.ops.formula import Formula

ROUNDING = {torch.float64: 1e-13, torch.float32: 3e-6, torch.float16: 3e-6, torch.bfloat16: 3e-6}
"""Of what is computed, relative to the largest: some hundred terms of a few roundings each."""

STORAGE = {
    torch.float64: 0.0,
    torch.float32: 0.0,
    torch.float16: 2**-11,
    torch.bfloat16: 2**-7 if os.environ.get("TRITON_INTERPRET") else 2**-8,
}
"""Of the gradient as it is stored, relative to each value: rounded to the nearest, but the
interpreter cuts bfloat16 off. That the compiler rounds is tested where it compiles."""

SMALLEST = {torch.float16: 2**-25}
"""Half of float16's smallest step."""


class Case(NamedTuple):
    """A call of the op, in a few words."""

    activation: str = "softmax"
    num_channels: int = 3
    num_voxels: int = 37
    target: str = "labels"
    mask: str = "none"
    gamma: float | str = 2.0
    smoothing: float = 0.0
    overlap: str = "product"
    dtype: torch.dtype = torch.float32
    label_dtype: torch.dtype = torch.uint8
    ignored: tuple[int, ...] = ()


class Arguments(NamedTuple):
    """What a backend is called with."""

    logits: torch.Tensor
    target: FlatTarget
    formula: Formula

    def to(self, device):
        values, mask = self.target.values.to(device), self.target.mask
        gamma = self.formula.gamma
        return Arguments(
            self.logits.to(device),
            self.target._replace(values=values, mask=None if mask is None else mask.to(device)),
            self.formula._replace(gamma=gamma.to(device) if torch.is_tensor(gamma) else gamma),
        )


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def build(case, seed=0):
    shape = (2, case.num_channels, case.num_voxels)
    logits = 3 * torch.randn(shape, generator=seeded(seed), dtype=torch.float64)
    values, table = _target(case, shape, seed + 1)
    mask = None
    if case.mask != "none":
        width = 1 if case.mask == "voxels" else case.num_channels
        chance = torch.rand(2, width, case.num_voxels, generator=seeded(seed + 2))
        mask = chance > 0.3 / (1 if case.target != "shares" else case.num_channels)
    gamma = case.gamma
    if gamma == "class":
        gamma = 3 * torch.rand(case.num_channels, generator=seeded(seed + 3))
        gamma[0] = 0
        gamma = gamma.to(torch.float64 if case.dtype == torch.float64 else torch.float32)
    formula = Formula(case.activation, gamma, case.smoothing, case.overlap)
    target = FlatTarget(values, mask, table, case.ignored)
    return Arguments(logits.to(case.dtype), target, formula)


def _target(case, shape, seed):
    batch, num_channels, num_voxels = shape
    size = (batch, num_voxels)
    if case.target == "shares":
        shares = torch.randn(shape, generator=seeded(seed)).mul(2)
        if case.activation == "softmax" and case.mask == "channels":
            # a share in a channel that is masked out silences its voxel, so leave many empty
            shares = shares.masked_fill(shares < 1, -torch.inf).clamp(max=9)
            shares[:, 0] = 0
        return shares.softmax(1) if case.activation == "softmax" else shares.sigmoid(), ()
    highest = 70 if case.target == "regions" else max(num_channels, 2)
    labels = torch.randint(0, highest, size, generator=seeded(seed))
    if case.target == "channels":
        return F.one_hot(labels, highest)[..., :num_channels].movedim(-1, 1).bool(), ()
    for i, value in enumerate(case.ignored):
        labels[:, i :: 5 + i] = value
    table = tuple((channel,) for channel in range(num_channels)) if num_channels > 1 else ((1,),)
    if case.target == "regions":
        table = tuple(tuple(range(channel, 70, channel + 2)) for channel in range(num_channels))
    return labels.to(case.label_dtype), table


def exactly(arguments):
    """The same call in float64."""
    gamma = arguments.formula.gamma
    gamma = gamma.double() if torch.is_tensor(gamma) else gamma
    return Arguments(
        arguments.logits.double(), arguments.target, arguments.formula._replace(gamma=gamma)
    )


def upstream_of(logits, seed=9):
    """A different weight for every sum, sample and class."""
    size = (logits.shape[0], 7, logits.shape[1])
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    return torch.randn(size, generator=seeded(seed)).to(logits.device, dtype)


def run(arguments):
    """Sums and gradient."""
    upstream = upstream_of(arguments.logits)
    return (
        triton_launch.class_sums(*arguments),
        triton_launch.class_sums_backward(upstream, *arguments),
    )


def assert_matches_reference(arguments):
    """Values, dtypes, and the gradient of every voxel."""
    logits = arguments.logits
    sums, grad = run(arguments)
    exact = exactly(arguments)
    true_sums = reference.class_sums(*exact)
    true_grad = reference.class_sums_backward(upstream_of(logits).double(), *exact)
    assert sums.dtype == reference.accumulation_dtype(logits)
    assert (grad.dtype, grad.shape) == (logits.dtype, logits.shape)
    rounding = ROUNDING[logits.dtype]
    torch.testing.assert_close(sums.double(), true_sums, rtol=rounding, atol=10 * rounding)
    allowed = rounding * true_grad.abs().max() + STORAGE[logits.dtype] * true_grad.abs()
    allowed += SMALLEST.get(logits.dtype, 0.0)
    assert true_grad.abs().max() > 0
    assert ((grad.double() - true_grad).abs() <= allowed).all()
    nothing = true_grad == 0
    # of an excluded voxel, or what float64 itself loses next to 1
    assert (grad[nothing].abs().double() <= SMALLEST.get(logits.dtype, 0.0) + 1e-15).all()


_GAMMAS = (2.0, 0.5, "class", 0.0)
_DTYPES = (torch.float32, torch.bfloat16, torch.float64, torch.float16)
_SMOOTHING = (0.0, 0.125)


def _combinations():
    """Every target under every mask; the other settings take turns."""
    for activation in ("softmax", "sigmoid"):
        for target in ("labels", "channels", "shares", "regions"):
            if (activation, target) == ("softmax", "regions"):
                continue
            for mask in ("none", "voxels", "channels"):
                yield activation, target, mask


COMBINATIONS = [
    Case(
        activation,
        num_channels=3,
        target=target,
        mask=mask,
        gamma=_GAMMAS[i % 4],
        smoothing=_SMOOTHING[(i // 3) % 2],
        overlap=("minimum", "product")[i % 2],
        dtype=_DTYPES[(i + i // 4) % 4],
        ignored=(100, 7) if target in ("labels", "regions") else (),
    )
    for i, (activation, target, mask) in enumerate(_combinations())
]

WIDTHS = [
    *(Case("softmax", c, gamma="class") for c in (2, 5, 16, 31, 64, 105, 200)),
    Case("softmax", 33, 37, "shares", "channels", 0.5),
    Case("softmax", 20, 70, mask="voxels", ignored=(255, 3), label_dtype=torch.int64),
    Case("softmax", 9, 70, mask="voxels", gamma=0.5, dtype=torch.float64),
    Case("softmax", 40, 37, ignored=(0,), dtype=torch.bfloat16),
    *(Case("sigmoid", c, gamma="class") for c in (1, 2, 11)),
]

WIDE = [
    Case("softmax", 11, gamma="class", ignored=(255,)),
    Case("softmax", 11, 37, "shares", "channels", 0.5, overlap="minimum"),
    Case("softmax", 20, 37, "labels", "channels", 2.0, smoothing=0.25, ignored=(255,)),
    Case("softmax", 20, 37, "channels", "voxels", 1.0, dtype=torch.float64),
    Case("softmax", 11, 37, "labels", "channels", "class", label_dtype=torch.int16, ignored=(-1,)),
]
"""For the kernels that walk over tiles of channels."""

SIZES = [
    Case("softmax", 4, 1),
    Case("softmax", 4, 1023, ignored=(255,)),
    Case("softmax", 2, 7 * 11 * 13),
    Case("sigmoid", 3, 7 * 11 * 13, "regions", ignored=(0,)),
    Case("sigmoid", 1, 1023),
]

LABEL_DTYPES = [
    Case(activation, 3, 37, label_dtype=dtype, ignored=(2, 99))
    for activation, dtype in zip(
        ("softmax", "sigmoid") * 3,
        (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.int64),
        strict=True,
    )
]
