"""Softmax kernels with the classes unrolled, for a few classes and labels: `@triton.jit` only.

A tensor here is one number a voxel; what belongs to a class is one of a tuple of `FORM.channels`.
So a thread holds its voxels whole, nothing is exchanged between threads until the last sums, and a
class costs no padding. Only for forms whose voxels have one class and whose mask, if any, is one
for all channels; the others take the tiles of `triton_kernels.py`.
"""

import triton
import triton.language as tl

from segfocal.ops.triton_formulas import (
    bounded,
    exp,
    number,
    own_class,
    power,
    softmax_steepness,
    unbounded,
)
from segfocal.ops.triton_tiles import (
    COUNTS,
    count_inside,
    fold_voxels,
    load_class,
    load_numbers,
    pointers,
    store_field,
    zeros_of_channels,
)


@triton.jit
def load_classes(inputs, sample, voxels, num_voxels, FORM: tl.constexpr):
    """Logits, label (-1 for none), and whether a voxel counts.

    Logits of one that does not count are 0.
    """
    CHANNELS: tl.constexpr = FORM.channels
    logits = inputs[0]
    label, kept = load_class(inputs, sample, voxels, (CHANNELS, num_voxels), FORM)
    zs = ()
    for c in tl.static_range(CHANNELS):
        at = pointers(logits, sample, c, voxels)
        z = tl.load(at, mask=voxels < num_voxels, other=0).to(FORM.acc)
        if FORM.leaves_out:
            z = tl.where(kept, z, 0.0)
        zs = zs + (z,)
    return zs, label, kept


@triton.jit
def is_of(label, c: tl.constexpr, FORM: tl.constexpr):
    """1 where a voxel is of class c, else 0.

    A number, because a thread has seven registers for conditions and asks for a class often.
    """
    return (label == c).to(FORM.acc)


@triton.jit
def pick(label, values, FORM: tl.constexpr):
    """The value of each voxel's own class; 0 if it has none."""
    CHANNELS: tl.constexpr = FORM.channels
    chosen = tl.where(label == 0, values[0], 0.0)
    for c in tl.static_range(1, CHANNELS):
        chosen = tl.where(label == c, values[c], chosen)
    return chosen


@triton.jit
def class_statistics(zs, label, kept, FORM: tl.constexpr):
    """Each class's p; and of the own class p, 1 - p and -log p."""
    CHANNELS: tl.constexpr = FORM.channels
    top = zs[0]
    for c in tl.static_range(1, CHANNELS):
        top = tl.maximum(top, zs[c])
    shifted, es = (), ()
    for c in tl.static_range(CHANNELS):
        shifted = shifted + (zs[c] - top,)
        es = es + (exp(shifted[c], FORM),)
    others = es[0] - is_of(label, 0, FORM) * es[0]
    for c in tl.static_range(1, CHANNELS):
        others += es[c] - is_of(label, c, FORM) * es[c]
    scale, own_p, q, nll = own_class(pick(label, shifted, FORM), others, label, kept, FORM)
    ps = ()
    for c in tl.static_range(CHANNELS):
        ps = ps + (es[c] * scale,)
    return ps, own_p, q, nll


@triton.jit
def own_gamma(class_gamma, gamma, label, num_channels, FORM: tl.constexpr):
    """The exponent of each voxel's own class."""
    if FORM.gamma == "class":
        return pick(label, load_numbers(class_gamma, 0, num_channels, FORM), FORM)
    else:
        return number(gamma, FORM)


@triton.jit(do_not_specialize=COUNTS)
def softmax_unrolled_forward(
    logits,
    target,
    mask,
    class_gamma,
    partials,
    gamma: tl.float64,
    kept_share: tl.float64,  # noqa: ARG001 - the kernels of a pass are called alike
    floor: tl.float64,  # noqa: ARG001
    num_channels,
    num_voxels,
    num_programs,
    num_blocks,
    FORM: tl.constexpr,
):
    """Partial sums `(B, 7, C, num_programs)` of the softmax fields."""
    CHANNELS: tl.constexpr = FORM.channels
    inputs = logits, target, mask, class_gamma
    program = tl.program_id(0).to(tl.int64)
    sample = program // num_programs
    first_block = (program % num_programs) * num_blocks
    focal_sum, tp_sum = zeros_of_channels(FORM.acc, FORM), zeros_of_channels(FORM.acc, FORM)
    p_sum, p_sq_sum = zeros_of_channels(FORM.acc, FORM), zeros_of_channels(FORM.acc, FORM)
    t_sum = zeros_of_channels(FORM.acc, FORM)
    n_valid = tl.full([FORM.width], 0, tl.int32)
    for block in tl.range(num_blocks, num_stages=FORM.stages):
        voxels = (first_block + block) * FORM.voxels + tl.arange(0, FORM.voxels)
        zs, label, kept = load_classes(inputs, sample, voxels, num_voxels, FORM)
        ps, own_p, q, nll = class_statistics(zs, label, kept, FORM)
        exponent = own_gamma(class_gamma, gamma, label, num_channels, FORM)
        focal = bounded(power(q, exponent, FORM) * nll)
        if FORM.leaves_out:
            n_valid += fold_voxels(kept.to(tl.int32), FORM)
        focals, tps, sums, squares, ts = (), (), (), (), ()
        for c in tl.static_range(CHANNELS):
            share = is_of(label, c, FORM)
            focals = focals + (focal_sum[c] + fold_voxels(share * focal, FORM),)
            tps = tps + (tp_sum[c] + fold_voxels(share * own_p, FORM),)
            sums = sums + (p_sum[c] + fold_voxels(ps[c], FORM),)
            squares = squares + (p_sq_sum[c] + fold_voxels(ps[c] * ps[c], FORM),)
            ts = ts + (t_sum[c] + fold_voxels(share, FORM),)
        focal_sum, tp_sum, p_sum, p_sq_sum, t_sum = focals, tps, sums, squares, ts
    count = tl.sum(n_valid, 0)
    if not FORM.leaves_out:
        count = count_inside(first_block, num_blocks, num_voxels, FORM)
    counts = num_channels, num_programs
    for c in tl.static_range(CHANNELS):
        store_field(partials, program, counts, 0, c, unbounded(tl.sum(focal_sum[c], 0)))
        store_field(partials, program, counts, 1, c, 0.0)
        store_field(partials, program, counts, 2, c, tl.sum(tp_sum[c], 0))
        store_field(partials, program, counts, 3, c, tl.sum(p_sum[c], 0))
        store_field(partials, program, counts, 4, c, tl.sum(p_sq_sum[c], 0))
        store_field(partials, program, counts, 5, c, tl.sum(t_sum[c], 0))
        store_field(partials, program, counts, 6, c, count)


@triton.jit(do_not_specialize=COUNTS)
def softmax_unrolled_backward(
    logits,
    target,
    mask,
    class_gamma,
    upstream,
    gradient,
    gamma: tl.float64,
    kept_share: tl.float64,  # noqa: ARG001 - the kernels of a pass are called alike
    floor: tl.float64,  # noqa: ARG001
    num_channels,
    num_voxels,
    num_programs,
    num_blocks,
    FORM: tl.constexpr,
):
    """Gradient `(B, C, S)` of the softmax fields, written once."""
    CHANNELS: tl.constexpr = FORM.channels
    inputs = logits, target, mask, class_gamma
    program = tl.program_id(0).to(tl.int64)
    sample = program // num_programs
    first_block = (program % num_programs) * num_blocks
    row = upstream + sample * 7 * num_channels
    grad_focal = load_numbers(row, 0, num_channels, FORM)
    grad_tp = load_numbers(row + 2 * num_channels, 0, num_channels, FORM)
    grad_p = load_numbers(row + 3 * num_channels, 0, num_channels, FORM)
    grad_p_sq = load_numbers(row + 4 * num_channels, 0, num_channels, FORM)
    for block in tl.range(num_blocks, num_stages=FORM.stages):
        voxels = (first_block + block) * FORM.voxels + tl.arange(0, FORM.voxels)
        zs, label, kept = load_classes(inputs, sample, voxels, num_voxels, FORM)
        ps, own_p, q, nll = class_statistics(zs, label, kept, FORM)
        exponent = own_gamma(class_gamma, gamma, label, num_channels, FORM)
        f = -pick(label, grad_focal, FORM) * softmax_steepness(own_p, q, nll, exponent, FORM)
        f = tl.where(label < 0, 0.0, f)
        total = tl.zeros_like(own_p)
        worths = ()
        for c in tl.static_range(CHANNELS):
            worth = grad_p[c] + 2 * grad_p_sq[c] * ps[c] + is_of(label, c, FORM) * grad_tp[c]
            worths = worths + (worth,)
            total += ps[c] * worth
        inside = voxels < num_voxels
        for c in tl.static_range(CHANNELS):
            lacking = tl.where(label == c, q, -ps[c])
            grad = ps[c] * (worths[c] - total) + f * lacking
            at = pointers(gradient, sample, c, voxels)
            tl.store(at, grad, mask=inside)
