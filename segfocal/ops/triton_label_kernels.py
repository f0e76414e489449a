"""Softmax kernels for labels and any number of classes that fits a tile: `@triton.jit` only.

A tile is (classes, voxels), `FORM.channels` of the classes; a tuple of `FORM.tiles` of them has
all, so that little is lost to padding. What belongs to each voxel's own class is not searched for
in the tiles but read from memory once more, where it still lies in a cache. Only for forms whose
voxels have one class and whose mask, if any, is one for all channels.
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
    total,
    unbounded,
)
from segfocal.ops.triton_tiles import (
    COUNTS,
    count_inside,
    fold,
    load_class,
    pointers,
    store_field,
)


@triton.jit
def rows(tile, FORM: tl.constexpr):
    """The classes of a tile, (classes, 1)."""
    return (tile * FORM.channels + tl.arange(0, FORM.channels))[:, None]


@triton.jit
def is_here(tile, voxels, sizes, FORM: tl.constexpr):
    """Which classes and voxels of a tile there are: the last tile alone may be short of classes."""
    if tile + 1 < FORM.tiles:
        return voxels < sizes[1]
    else:
        return (rows(tile, FORM) < sizes[0]) & (voxels < sizes[1])


@triton.jit
def afresh(label, num_voxels):
    """The same labels, which the compiler does not know to be the same.

    A thread has seven registers for conditions. Comparisons made early and needed again late would
    be packed into other registers and taken out again bit by bit; it costs less to compare anew.
    """
    return label + (num_voxels < 0).to(tl.int32)


@triton.jit
def is_of(label, tile, FORM: tl.constexpr):
    """1 where a voxel is of a class of the tile, else 0. A number, for the reason in `afresh`."""
    return (rows(tile, FORM) == label).to(FORM.acc)


@triton.jit
def load_tiles(inputs, sample, voxels, sizes, FORM: tl.constexpr):
    """Logits, labels (-1 for none), whether a voxel counts, and its own class's logit (or 0)."""
    TILES: tl.constexpr = FORM.tiles
    logits = inputs[0]
    label, kept = load_class(inputs, sample, voxels, sizes, FORM)
    zs = ()
    for i in tl.static_range(TILES):
        at = pointers(logits, sample, rows(i, FORM), voxels)
        z = tl.load(at, mask=is_here(i, voxels, sizes, FORM), other=0).to(FORM.acc)
        if FORM.leaves_out:
            z = tl.where(kept, z, 0.0)
        if i + 1 == TILES:
            z = tl.where(rows(i, FORM) < sizes[0], z, float("-inf"))
        zs = zs + (z,)
    own_at = pointers(logits, sample, label, voxels)
    own_z = tl.load(own_at, mask=label >= 0, other=0).to(FORM.acc)
    return zs, label, kept, own_z


@triton.jit
def without_own(es, label, tile: tl.constexpr, AS_NUMBERS: tl.constexpr, FORM: tl.constexpr):
    """A tile of `es` with 0 for each voxel's own class."""
    if AS_NUMBERS:
        return es[tile] - is_of(label, tile, FORM) * es[tile]
    else:
        return tl.where(rows(tile, FORM) == label, 0.0, es[tile])


@triton.jit
def tile_statistics(zs, label, kept, own_z, AS_NUMBERS: tl.constexpr, FORM: tl.constexpr):
    """Each class's p; and of the own class p, 1 - p and -log p.

    `AS_NUMBERS` tells how the own class is left out of the others' sum: by the numbers of `is_of`,
    or by conditions. Which costs less depends on what the kernel asks for afterwards.
    """
    TILES: tl.constexpr = FORM.tiles
    top = zs[0]
    for i in tl.static_range(1, TILES):
        top = tl.maximum(top, zs[i])
    top = tl.max(top, 0, keep_dims=True)
    es = ()
    for i in tl.static_range(TILES):
        es = es + (exp(zs[i] - top, FORM),)
    others = without_own(es, label, 0, AS_NUMBERS, FORM)
    for i in tl.static_range(1, TILES):
        others += without_own(es, label, i, AS_NUMBERS, FORM)
    own_z = tl.where(label < 0, 0.0, own_z - top)
    scale, own_p, q, nll = own_class(own_z, total(others), label, kept, FORM)
    ps = ()
    for i in tl.static_range(TILES):
        ps = ps + (es[i] * scale,)
    return ps, own_p, q, nll


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


@triton.jit
def zero_tiles(FORM: tl.constexpr):
    """A tuple of what sums start from, one for each tile."""
    TILES: tl.constexpr = FORM.tiles
    zeros = ()
    for _ in tl.static_range(TILES):
        zeros = zeros + (tl.full([FORM.channels, FORM.width], 0.0, FORM.acc),)
    return zeros


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
    TILES: tl.constexpr = FORM.tiles
    inputs = logits, target, mask, class_gamma
    program = tl.program_id(0).to(tl.int64)
    sample, sizes = program // num_programs, (num_channels, num_voxels)
    first_block = (program % num_programs) * num_blocks
    focal_sum, tp_sum = zero_tiles(FORM), zero_tiles(FORM)
    p_sum, p_sq_sum = zero_tiles(FORM), zero_tiles(FORM)
    t_sum = tl.full([FORM.bins], 0, tl.int32)
    n_valid = tl.full([1, FORM.width], 0, tl.int32)
    for block in tl.range(num_blocks, num_stages=FORM.stages):
        voxels = ((first_block + block) * FORM.voxels + tl.arange(0, FORM.voxels))[None, :]
        zs, label, kept, own_z = load_tiles(inputs, sample, voxels, sizes, FORM)
        ps, own_p, q, nll = tile_statistics(zs, label, kept, own_z, True, FORM)
        focal = bounded(power(q, gamma_of(class_gamma, gamma, label, FORM), FORM) * nll)
        focals, tps, sums, squares = (), (), (), ()
        for i in tl.static_range(TILES):
            share = is_of(label, i, FORM)
            focals = focals + (focal_sum[i] + fold(share * focal, FORM),)
            tps = tps + (tp_sum[i] + fold(share * own_p, FORM),)
            sums = sums + (p_sum[i] + fold(ps[i], FORM),)
            squares = squares + (p_sq_sum[i] + fold(ps[i] * ps[i], FORM),)
        focal_sum, tp_sum, p_sum, p_sq_sum = focals, tps, sums, squares
        flat = tl.reshape(label, (FORM.voxels,))
        t_sum += tl.histogram(flat, FORM.bins, mask=flat >= 0)
        if FORM.leaves_out:
            n_valid += fold(kept.to(tl.int32), FORM)
    counts = num_channels, num_programs
    for i in tl.static_range(TILES):
        channels = rows(i, FORM)
        store_field(partials, program, counts, 0, channels, unbounded(row_sums(focal_sum[i])))
        store_field(partials, program, counts, 2, channels, row_sums(tp_sum[i]))
        store_field(partials, program, counts, 3, channels, row_sums(p_sum[i]))
        store_field(partials, program, counts, 4, channels, row_sums(p_sq_sum[i]))
    channels = tl.arange(0, FORM.bins)
    count = tl.sum(n_valid)
    if not FORM.leaves_out:
        count = count_inside(first_block, num_blocks, num_voxels, FORM)
    nothing = tl.full([FORM.bins], 0.0, FORM.acc)
    store_field(partials, program, counts, 1, channels, nothing)
    store_field(partials, program, counts, 5, channels, t_sum)
    store_field(partials, program, counts, 6, channels, nothing + count)


@triton.jit
def row_sums(tile):
    """Sum over the voxels, (classes, 1)."""
    return tl.sum(tile, 1, keep_dims=True)


@triton.jit
def load_rows(pointer, num_channels, FORM: tl.constexpr):
    """A number for each class, a tuple of (classes, 1)."""
    TILES: tl.constexpr = FORM.tiles
    values = ()
    for i in tl.static_range(TILES):
        channels = rows(i, FORM)
        values = values + (tl.load(pointer + channels, mask=channels < num_channels, other=0),)
    return values


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
    TILES: tl.constexpr = FORM.tiles
    inputs = logits, target, mask, class_gamma
    program = tl.program_id(0).to(tl.int64)
    sample, sizes = program // num_programs, (num_channels, num_voxels)
    first_block = (program % num_programs) * num_blocks
    row = upstream + sample * 7 * num_channels
    grad_p = load_rows(row + 3 * num_channels, num_channels, FORM)
    grad_p_sq = load_rows(row + 4 * num_channels, num_channels, FORM)
    for block in tl.range(num_blocks, num_stages=FORM.stages):
        voxels = ((first_block + block) * FORM.voxels + tl.arange(0, FORM.voxels))[None, :]
        zs, label, kept, own_z = load_tiles(inputs, sample, voxels, sizes, FORM)
        ps, own_p, q, nll = tile_statistics(zs, label, kept, own_z, False, FORM)
        exponent = gamma_of(class_gamma, gamma, label, FORM)
        f = -gather(row, label) * softmax_steepness(own_p, q, nll, exponent, FORM)
        f = tl.where(label < 0, 0.0, f)
        own_worth = gather(row + 3 * num_channels, label)
        own_worth += 2 * gather(row + 4 * num_channels, label) * own_p
        own_tp = gather(row + 2 * num_channels, label)
        mean = ps[0] * (grad_p[0] + 2 * grad_p_sq[0] * ps[0])
        for i in tl.static_range(1, TILES):
            mean += ps[i] * (grad_p[i] + 2 * grad_p_sq[i] * ps[i])
        mean = total(mean) + own_p * own_tp
        own_grad = own_p * ((own_worth + own_tp) - mean) + f * q
        label = afresh(label, num_voxels)
        for i in tl.static_range(TILES):
            channels = rows(i, FORM)
            worth = grad_p[i] + 2 * grad_p_sq[i] * ps[i]
            grad = tl.where(channels == label, own_grad, ps[i] * (worth - (mean + f)))
            at = pointers(gradient, sample, channels, voxels)
            tl.store(at, grad, mask=is_here(i, voxels, sizes, FORM))
