"""Softmax kernels for labels and any number of classes that fits a tile: `@triton.jit` only.

A tile is (classes, voxels). What belongs to each voxel's own class is not searched for in the tile but
read from memory once more, where it still lies in a cache. Only for forms whose voxels have one
class and whose mask, if any, is one for all channels.
"""

import triton
import triton.language as tl

from segfocal.ops.triton_formulas import (
    divide,
    exp,
    log1p,
    number,
    power,
    softmax_steepness,
    total,
)
from segfocal.ops.triton_tiles import (
    COUNTS,
    count_inside,
    fold,
    load_label,
    load_voxels,
    pointers,
    store_sums,
)


@triton.jit
def load_tile_of_classes(inputs, sample, channels, voxels, sizes, FORM: tl.constexpr):
    """Logits, labels (-1 for none), whether a voxel counts, and the own class's logit (0 for none)."""
    logits, target, mask, _class_gamma = inputs
    inside = voxels < sizes[1]
    label, kept = load_label(target, sample, voxels, inside, FORM)
    if FORM.mask == "voxels":
        kept &= load_voxels(mask, sample, voxels, inside) != 0
    has_class = kept & (label >= 0) & (label < sizes[0])
    label = tl.where(has_class, label, -1)
    at = pointers(logits, sample, channels, voxels)
    z = tl.load(at, mask=(channels < sizes[0]) & inside, other=float("-inf")).to(FORM.acc)
    if FORM.leaves_out:
        z = tl.where(kept, z, float("-inf"))
    own_at = pointers(logits, sample, label, voxels)
    own_z = tl.load(own_at, mask=has_class, other=0).to(FORM.acc)
    return z, label, kept, own_z


@triton.jit
def tile_statistics(z, channels, label, kept, own_z, FORM: tl.constexpr):
    """Each class's p; and of the own class p, 1 - p and -log p. As `own_statistics`."""
    top = tl.where(kept, tl.max(z, 0, keep_dims=True), 0.0)
    e = exp(z - top, FORM)
    others = total(tl.where(channels == label, 0.0, e))
    own_z = tl.where(label < 0, 0.0, own_z - top)
    own_e = tl.where(label < 0, 0.0, exp(own_z, FORM))
    sum_e = others + own_e
    scale = tl.where(kept, divide(1.0, sum_e, FORM), 0.0)
    nll = log1p(tl.where(own_z == 0, others, sum_e - 1), FORM) - own_z
    return e * scale, own_e * scale, others * scale, nll


@triton.jit
def gather(row, label):
    """A number for each voxel's class; 0 for none."""
    return tl.load(row + label, mask=label >= 0, other=0)


@triton.jit
def gamma_of(class_gamma, gamma, label, FORM: tl.constexpr):
    """The exponent of each voxel's own class."""
    if FORM.gamma == "class":
        return gather(class_gamma, label)
    else:
        return number(gamma, FORM)


@triton.jit(do_not_specialize=COUNTS)
def softmax_label_forward(
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
    inputs = logits, target, mask, class_gamma
    program = tl.program_id(0).to(tl.int64)
    sample, sizes = program // num_programs, (num_channels, num_voxels)
    first_block = (program % num_programs) * num_blocks
    channels = tl.arange(0, FORM.channels)[:, None]
    focal_sum = tl.full([FORM.channels, FORM.width], 0.0, FORM.acc)
    tp_sum = tl.full([FORM.channels, FORM.width], 0.0, FORM.acc)
    p_sum = tl.full([FORM.channels, FORM.width], 0.0, FORM.acc)
    p_sq_sum = tl.full([FORM.channels, FORM.width], 0.0, FORM.acc)
    t_sum = tl.full([FORM.channels], 0, tl.int32)
    n_valid = tl.full([1, FORM.width], 0, tl.int32)
    for block in tl.range(num_blocks, num_stages=FORM.stages):
        voxels = ((first_block + block) * FORM.voxels + tl.arange(0, FORM.voxels))[None, :]
        z, label, kept, own_z = load_tile_of_classes(inputs, sample, channels, voxels, sizes, FORM)
        p, own_p, q, nll = tile_statistics(z, channels, label, kept, own_z, FORM)
        focal = power(q, gamma_of(class_gamma, gamma, label, FORM), FORM) * nll
        share = channels == label
        focal_sum += fold(tl.where(share, focal, 0.0), FORM)
        tp_sum += fold(tl.where(share, own_p, 0.0), FORM)
        p_sum += fold(p, FORM)
        p_sq_sum += fold(p * p, FORM)
        flat = tl.reshape(label, (FORM.voxels,))
        t_sum += tl.histogram(flat, FORM.channels, mask=flat >= 0)
        if FORM.leaves_out:
            n_valid += fold(kept.to(tl.int32), FORM)
    count = tl.sum(n_valid, 1, keep_dims=True)
    if not FORM.leaves_out:
        count = tl.full([1, 1], count_inside(first_block, num_blocks, num_voxels, FORM), tl.int64)
    sums = focal_sum, tl.zeros_like(focal_sum), tp_sum, p_sum, p_sq_sum, t_sum[:, None], count
    store_sums(partials, program, num_programs, channels, num_channels, sums)


@triton.jit(do_not_specialize=COUNTS)
def softmax_label_backward(
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
    inputs = logits, target, mask, class_gamma
    program = tl.program_id(0).to(tl.int64)
    sample, sizes = program // num_programs, (num_channels, num_voxels)
    first_block = (program % num_programs) * num_blocks
    channels = tl.arange(0, FORM.channels)[:, None]
    present = channels < num_channels
    row = upstream + sample * 7 * num_channels
    grad_p = tl.load(row + 3 * num_channels + channels, mask=present, other=0)
    grad_p_sq = tl.load(row + 4 * num_channels + channels, mask=present, other=0)
    for block in tl.range(num_blocks, num_stages=FORM.stages):
        voxels = ((first_block + block) * FORM.voxels + tl.arange(0, FORM.voxels))[None, :]
        z, label, kept, own_z = load_tile_of_classes(inputs, sample, channels, voxels, sizes, FORM)
        p, own_p, q, nll = tile_statistics(z, channels, label, kept, own_z, FORM)
        exponent = gamma_of(class_gamma, gamma, label, FORM)
        f = -gather(row, label) * softmax_steepness(own_p, q, nll, exponent, FORM)
        f = tl.where(label < 0, 0.0, f)
        own_worth = gather(row + 3 * num_channels, label)
        own_worth += 2 * gather(row + 4 * num_channels, label) * own_p
        own_tp = gather(row + 2 * num_channels, label)
        worth = grad_p + 2 * grad_p_sq * p
        mean = total(p * worth) + own_p * own_tp
        own_grad = own_p * ((own_worth + own_tp) - mean) + f * q
        grad = tl.where(channels == label, own_grad, p * (worth - (mean + f)))
        tl.store(pointers(gradient, sample, channels, voxels), grad, mask=present & (voxels < num_voxels))
