"""The softmax kernels for any number of channels: they walk over tiles of them. `@triton.jit` only.

Where all channels of a voxel fit one tile, `triton_kernels.py` reads them once; here the forward
kernel reads them twice and the backward kernel three times.
"""

import triton
import triton.language as tl

from segfocal.ops.triton_formulas import (
    any_channel,
    divide,
    exp,
    own,
    plain_terms,
    smoothed,
    softmax_focal,
    softmax_slopes,
    total,
    weigh,
)
from segfocal.ops.triton_tiles import (
    COUNTS,
    is_silenced,
    load_gamma,
    load_softmax,
    load_upstream,
    pointers,
    store_sums,
)


@triton.jit
def softmax_wide_statistics(inputs, sample, voxels, gamma, sizes, FORM: tl.constexpr):
    """What a voxel needs to know of all its channels, from one walk over them.

    The largest logit, the rest of the exponentials, validity, and the shifted logit and gamma of
    the voxel's own class, all (1, voxels).
    """
    class_gamma = inputs[3]
    top = tl.full([1, FORM.voxels], float("-inf"), FORM.acc)
    small = tl.full([1, FORM.voxels], 0.0, FORM.acc)
    tops = tl.full([1, FORM.voxels], 0.0, FORM.acc)
    own_z = tl.full([1, FORM.voxels], 0.0, FORM.acc)
    own_gamma = tl.full([1, FORM.voxels], 0.0, FORM.acc)
    valid = voxels < sizes[1]
    is_any_allowed = voxels < 0
    for first in range(0, sizes[0], FORM.channels):
        channels = (first + tl.arange(0, FORM.channels))[:, None]
        z, share, kept, allowed = load_softmax(inputs, sample, channels, voxels, sizes, FORM)
        valid &= kept
        if FORM.mask == "channels":
            is_any_allowed |= any_channel(allowed)
            valid &= is_silenced(share, allowed) == 0
        if FORM.has_own_class:
            own_z += own(share, z)
            if FORM.gamma == "class":
                present = channels < sizes[0]
                own_gamma += own(share, load_gamma(class_gamma, gamma, channels, present, FORM))
        new_top = tl.maximum(top, tl.max(z, 0, keep_dims=True))
        is_top, has_grown = z == new_top, new_top > top
        small = tl.where(has_grown, (small + tops) * exp(top - new_top, FORM), small)
        small += total(tl.where(is_top, 0.0, exp(z - new_top, FORM)))
        tops = tl.where(has_grown, 0.0, tops) + total(is_top.to(FORM.acc))
        top = new_top
    if FORM.mask == "channels":
        valid &= is_any_allowed
    if FORM.gamma != "class":
        own_gamma += tl.full([1, 1], gamma, FORM.acc)
    return top, small + (tops - 1), valid, own_z - top, own_gamma


@triton.jit(do_not_specialize=COUNTS)
def softmax_wide_forward(
    logits,
    target,
    mask,
    class_gamma,
    partials,
    gamma: tl.float64,
    kept_share: tl.float64,
    floor: tl.float64,
    num_channels,
    num_voxels,
    num_programs,
    num_blocks,  # noqa: ARG001 - always 1: the kernels of a pass are called alike
    FORM: tl.constexpr,
):
    """As `softmax_forward`, one block a program, with two walks over the channels."""
    inputs = logits, target, mask, class_gamma
    program = tl.program_id(0).to(tl.int64)
    sample, sizes = program // num_programs, (num_channels, num_voxels)
    first_voxel = (program % num_programs) * FORM.voxels
    voxels = (first_voxel + tl.arange(0, FORM.voxels))[None, :]
    top, rest, counts, focal_z, focal_gamma = softmax_wide_statistics(
        inputs, sample, voxels, gamma, sizes, FORM
    )
    for first in range(0, num_channels, FORM.channels):
        channels = (first + tl.arange(0, FORM.channels))[:, None]
        z, share, _kept, allowed = load_softmax(inputs, sample, channels, voxels, sizes, FORM)
        valid = counts & allowed
        weight = smoothed(share, kept_share, floor, FORM)
        z = z - top
        if FORM.has_own_class:
            focal = softmax_focal(focal_z, rest, focal_gamma, FORM)
        else:
            exponent = load_gamma(class_gamma, gamma, channels, channels < num_channels, FORM)
            focal = softmax_focal(z, rest, exponent, FORM)
        focal = weigh(focal, weight, valid, FORM.has_hard_focal)
        tp, p, t = plain_terms(exp(z, FORM) * divide(1.0, 1 + rest, FORM), share, valid, FORM)
        sums = focal, tl.zeros_like(focal), tp, p, p * p, t, valid.to(FORM.acc)
        store_sums(partials, program, (num_channels, num_programs), channels, sums)


@triton.jit
def softmax_wide_slopes(
    inputs, upstream, sample, channels, voxels, statistics, numbers, sizes, FORM: tl.constexpr
):
    """`softmax_slopes` of one tile of channels, and its validity."""
    top, rest, counts, focal_z, focal_gamma = statistics
    gamma, kept_share, floor = numbers
    class_gamma = inputs[3]
    z, share, _kept, allowed = load_softmax(inputs, sample, channels, voxels, sizes, FORM)
    valid = counts & allowed
    weight = smoothed(share, kept_share, floor, FORM)
    grads = load_upstream(upstream, sample, channels, sizes[0])
    z = z - top
    e = exp(z, FORM)
    if FORM.has_own_class:
        p, q, f, s = softmax_slopes(
            e, rest, share, weight, valid, focal_z, focal_gamma, grads, FORM
        )
    else:
        exponent = load_gamma(class_gamma, gamma, channels, channels < sizes[0], FORM)
        p, q, f, s = softmax_slopes(e, rest, share, weight, valid, z, exponent, grads, FORM)
    return p, q, f, s, valid


@triton.jit(do_not_specialize=COUNTS)
def softmax_wide_backward(
    logits,
    target,
    mask,
    class_gamma,
    upstream,
    gradient,
    gamma: tl.float64,
    kept_share: tl.float64,
    floor: tl.float64,
    num_channels,
    num_voxels,
    num_programs,
    num_blocks,  # noqa: ARG001 - always 1: the kernels of a pass are called alike
    FORM: tl.constexpr,
):
    """As `softmax_backward`, one block a program, with three walks over the channels."""
    inputs = logits, target, mask, class_gamma
    program = tl.program_id(0).to(tl.int64)
    sample, sizes = program // num_programs, (num_channels, num_voxels)
    first_voxel = (program % num_programs) * FORM.voxels
    voxels = (first_voxel + tl.arange(0, FORM.voxels))[None, :]
    statistics = softmax_wide_statistics(inputs, sample, voxels, gamma, sizes, FORM)
    numbers = gamma, kept_share, floor
    f_total = tl.full([1, FORM.voxels], 0.0, FORM.acc)
    s_total = tl.full([1, FORM.voxels], 0.0, FORM.acc)
    for first in range(0, num_channels, FORM.channels):
        channels = (first + tl.arange(0, FORM.channels))[:, None]
        _p, _q, f, s, _valid = softmax_wide_slopes(
            inputs, upstream, sample, channels, voxels, statistics, numbers, sizes, FORM
        )
        f_total += total(f)
        s_total += total(s)
    for first in range(0, num_channels, FORM.channels):
        channels = (first + tl.arange(0, FORM.channels))[:, None]
        p, q, f, s, valid = softmax_wide_slopes(
            inputs, upstream, sample, channels, voxels, statistics, numbers, sizes, FORM
        )
        grad = f * q - p * ((f_total - f) + s_total) + s
        here = (channels < num_channels) & (voxels < num_voxels)
        at = pointers(gradient, sample, channels, voxels)
        tl.store(at, tl.where(valid, grad, 0.0), mask=here)
