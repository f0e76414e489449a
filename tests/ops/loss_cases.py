"""Losses for the kernel that makes them of sums, and its comparison with plain operations.

Used twice: in Triton's interpreter on the CPU, and on a GPU. The oracle is what
`segfocal.functional` computes after any other backend, in float64, differentiated by autograd.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import torch

from segfocal.functional.compound import overlap_formula, overlap_of_sums, weighted_sum
from segfocal.functional.dice import DiceOptions
from segfocal.functional.focal import FocalOptions, focal_formula, focal_of_sums
from segfocal.functional.one_step import loss_in_one_step
from segfocal.functional.tversky import TverskyOptions
from segfocal.functional.voxel_options import Summed, VoxelOptions, Voxels
from segfocal.ops.class_sums import as_fields

ROUNDING = {torch.float64: 1e-12, torch.float32: 2e-5}
"""Relative to each value: a quotient that cancels in `1 - N / D` for a good prediction."""

CLASSES = (0.5, 2.0, 0.0, 1.5)
FOREGROUND = CLASSES[1:]
PLAIN = {"smooth_nr": 1e-5, "smooth_dr": 1e-5}


class LossCase(NamedTuple):
    """A loss in a few words."""

    overlap: DiceOptions | TverskyOptions | None
    focal: FocalOptions | None
    shares: tuple[float, float] = (1.0, 1.0)
    activation: str = "softmax"


def _overlaps():
    yield DiceOptions()
    for jaccard, squared_pred, batch in product((False, True), repeat=3):
        yield DiceOptions(jaccard=jaccard, squared_pred=squared_pred, batch=batch, smooth_nr=0.3)
    for absent, batch, reduction in product(
        ("smooth", "skip", "penalise"), (False, True), ("mean", "sum")
    ):
        yield DiceOptions(absent=absent, batch=batch, reduction=reduction, weight=CLASSES)
        yield DiceOptions(absent=absent, smooth_nr=0.0, smooth_dr=0.0, include_background=False)
        yield DiceOptions(absent=absent, batch=batch, squared_pred=True)
        yield TverskyOptions(0.3, 0.9, 4 / 3, absent=absent, batch=batch, reduction=reduction)
    yield DiceOptions(include_background=False, weight=FOREGROUND)
    yield DiceOptions(include_background=False, weight=2.5, batch=True)
    yield TverskyOptions(0.7, 0.3, smooth_nr=0.0, smooth_dr=0.0, weight=CLASSES)
    yield TverskyOptions(1.0, 1.0, 2.0, smooth_nr=0.5, smooth_dr=0.1, include_background=False)


def _focals():
    for normalizer, reduction, alpha in product(
        ("valid", "positives", "alpha", "none"), ("mean", "sum"), (None, 0.25, (0.1, 0.9, 0.5, 1.0))
    ):
        yield FocalOptions(normalizer=normalizer, reduction=reduction, alpha=alpha)
    for normalizer in ("valid", "positives", "alpha"):
        without = {"include_background": False, "normalizer": normalizer}
        yield FocalOptions(alpha=(0.9, 0.5, 0.7), weight=FOREGROUND, **without)
        yield FocalOptions(alpha=0.25, weight=3.0, **without)
        yield FocalOptions(weight=CLASSES, normalizer=normalizer)


OVERLAPS, FOCALS = list(dict.fromkeys(_overlaps())), list(dict.fromkeys(_focals()))

LOSSES = [
    *(LossCase(overlap, None) for overlap in OVERLAPS),
    *(
        LossCase(None, focal, activation=word)
        for focal in FOCALS
        for word in ("softmax", "sigmoid")
    ),
    *(
        LossCase(OVERLAPS[i % len(OVERLAPS)], FOCALS[5 * i % len(FOCALS)], shares, word)
        for i, (shares, word) in enumerate(
            product(((1.0, 1.0), (0.3, 2.0), (0.0, 1.0), (1.0, 0.0)), ("softmax", "sigmoid"))
        )
    ),
]


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def make_sums(num_samples=3, num_channels=4, seed=0):
    """Sums as a batch could have them, with every corner: absent, perfect, without a voxel."""
    size = (max(num_samples, 3), max(num_channels, 2))
    n_valid = torch.full(size, 500.0, dtype=torch.float64)
    p, t, tp = (torch.rand(size, generator=seeded(seed + i), dtype=torch.float64) for i in range(3))
    t = (200 * t).round()
    p = 200 * p
    tp = tp * torch.minimum(p, t)
    losses = 50 * torch.rand((2, *size), generator=seeded(seed + 9), dtype=torch.float64)
    sums = torch.stack([losses[0], losses[1], tp, p, 0.7 * p, t, n_valid], 1)
    sums[0, [2, 5], -1] = 0  # not in the target
    sums[0, 6, -1] = 40  # and few voxels count
    sums[0, 2:5, -2] = sums[0, 5:6, -2]  # predicted without a fault
    sums[1, 2:6, -1] = 0  # neither there nor predicted
    sums[1, :, 0] = 0  # masked out
    sums[2] = 0  # no voxel counts
    return sums[:num_samples, :, :num_channels]


def in_plain_torch(case, sums, voxels):
    """Loss and terms from `segfocal.functional`, differentiable."""
    fields, zero = as_fields(sums), sums.new_zeros(())
    overlap = zero if case.overlap is None else overlap_of_sums(fields, voxels, case.overlap)
    focal = zero if case.focal is None else focal_of_sums(fields, voxels, case.focal)
    if case.overlap is None:
        return case.shares[1] * focal, overlap, focal
    if case.focal is None:
        return case.shares[0] * overlap, overlap, focal
    return weighted_sum(overlap, focal, *case.shares), overlap, focal


def in_one_step(case, sums, voxels):
    """The same from the kernel."""
    overlap, focal = case.overlap, case.focal
    loss = loss_in_one_step(
        Summed(sums, "triton"),
        overlap=None if overlap is None else overlap_formula(voxels, overlap, case.shares[0]),
        overlap_weight=None if overlap is None else overlap.weight,
        focal=None if focal is None else focal_formula(voxels, focal, case.shares[1]),
        alpha=None if focal is None else focal.alpha,
        focal_weight=None if focal is None else focal.weight,
    )
    assert loss is not None
    return loss


def assert_kernel_equals_plain_torch(case, sums, dtype):
    """Loss, terms and slopes."""
    logits = torch.empty(*sums.shape[::2], 1, device=sums.device)
    target = torch.empty(sums.shape[0], 1, device=sums.device, dtype=torch.uint8)
    voxels = Voxels(logits, target, None, VoxelOptions(activation=case.activation))
    sums = sums.to(dtype)
    exact, given = sums.double().requires_grad_(), sums.clone().requires_grad_()
    expected, found = in_plain_torch(case, exact, voxels), in_one_step(case, given, voxels)
    near = {"rtol": ROUNDING[dtype], "atol": 0.1 * ROUNDING[dtype], "check_dtype": False}
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one, other, **near)
    (slopes,) = torch.autograd.grad(3 * found[0], given)
    (exact_slopes,) = torch.autograd.grad(3 * expected[0], exact)
    assert slopes.dtype == dtype
    size = float(exact_slopes.abs().max())
    near["atol"] = ROUNDING[dtype] * size
    torch.testing.assert_close(slopes, exact_slopes, **near)
    assert not found[1].requires_grad
    assert not found[2].requires_grad
