"""The kernels of the Triton backend: `@triton.jit` only. `triton_launch.py` starts them.

    softmax_forward, softmax_backward            all channels of a voxel in one tile
    softmax_wide_forward, softmax_wide_backward  any number of channels, tile after tile
    sigmoid_forward, sigmoid_backward            each channel by itself

A program walks `num_blocks` tiles of one sample. The forward kernels add up in registers and write
one row of partial sums per program; the backward kernels recompute the probabilities and write the
gradient once. Excluded voxels are left out by selection, never by multiplication.

`FORM` is the `Form` of `triton_form.py`, known at compile time; tensors with strides are `View`s.
"""

import triton
import triton.language as tl

from segfocal.ops.triton_formulas import (
    any_channel,
    divide,
    exp,
    own,
    own_statistics,
    plain_terms,
    power,
    smoothed,
    softmax_focal,
    softmax_rest,
    softmax_slopes,
    softmax_steepness,
    total,
    weigh,
)
from segfocal.ops.triton_tiles import (
    COUNTS,
    fold,
    is_silenced,
    load_gamma,
    load_softmax,
    load_upstream,
    pointers,
    store_sums,
)


@triton.jit
def load_block(inputs, sample, channels, voxels, sizes, FORM: tl.constexpr):
    """A tile with all channels: logits, shares, which voxels count, and which channels."""
    z, share, kept, allowed = load_softmax(inputs, sample, channels, voxels, sizes, FORM)
    if FORM.mask == "channels":
        kept &= any_channel(allowed) & (is_silenced(share, allowed) == 0)
    return z, share, kept, allowed


@triton.jit
def softmax_terms(z, share, kept, allowed, gamma, numbers, FORM: tl.constexpr):
    """The summands of focal_pos, tp, p and t, 0 where they do not count."""
    if FORM.has_own_class:
        share &= kept
        z = tl.where(kept, z, float("-inf"))
        p, _own_p, q, nll = own_statistics(z, share, kept, FORM)
        if FORM.gamma == "class":
            gamma = own(share, gamma)
        focal = tl.where(share, power(q, gamma, FORM) * nll, 0.0)
        return focal, tl.where(share, p, 0.0), p, share.to(FORM.acc)
    else:
        valid = kept & allowed
        weight = smoothed(share, numbers[0], numbers[1], FORM)
        z = z - tl.max(z, 0, keep_dims=True)
        e = exp(z, FORM)
        rest = softmax_rest(z, e, FORM)
        focal = softmax_focal(z, rest, gamma, FORM)
        focal = weigh(focal, weight, valid, FORM.has_hard_focal)
        tp, p, t = plain_terms(e * divide(1.0, 1 + rest, FORM), share, valid, FORM)
        return focal, tp, p, t


@triton.jit
def softmax_gradient(z, share, kept, allowed, gamma, numbers, grads, FORM: tl.constexpr):
    """The gradient of a tile, 0 where it does not count."""
    if FORM.has_own_class:
        grad_focal, _grad_neg, grad_tp, grad_p, grad_p_sq = grads
        share &= kept
        z = tl.where(kept, z, float("-inf"))
        p, own_p, q, nll = own_statistics(z, share, kept, FORM)
        if FORM.gamma == "class":
            gamma = own(share, gamma)
        f = -own(share, grad_focal) * softmax_steepness(own_p, q, nll, gamma, FORM)
        f = tl.where(kept, f, 0.0)
        worth = grad_p + 2 * grad_p_sq * p + tl.where(share, grad_tp, 0.0)
        return p * (worth - total(p * worth)) + tl.where(share, f * q, -p * f)
    else:
        valid = kept & allowed
        weight = smoothed(share, numbers[0], numbers[1], FORM)
        z = z - tl.max(z, 0, keep_dims=True)
        e = exp(z, FORM)
        rest = softmax_rest(z, e, FORM)
        p, q, f, s = softmax_slopes(e, rest, share, weight, valid, z, gamma, grads, FORM)
        return tl.where(valid, f * q - p * ((total(f) - f) + total(s)) + s, 0.0)


@triton.jit(do_not_specialize=COUNTS)
def softmax_forward(
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
    num_blocks,
    FORM: tl.constexpr,
):
    """Partial sums `(B, 7, C, num_programs)` of the softmax fields."""
    inputs = logits, target, mask, class_gamma
    program = tl.program_id(0).to(tl.int64)
    sample, sizes = program // num_programs, (num_channels, num_voxels)
    first_block = (program % num_programs) * num_blocks
    numbers = kept_share, floor
    channels = tl.arange(0, FORM.channels)[:, None]
    exponent = load_gamma(class_gamma, gamma, channels, channels < num_channels, FORM)
    focal_sum = tl.full([FORM.channels, FORM.width], 0.0, FORM.acc)
    tp_sum = tl.full([FORM.channels, FORM.width], 0.0, FORM.acc)
    p_sum = tl.full([FORM.channels, FORM.width], 0.0, FORM.acc)
    p_sq_sum = tl.full([FORM.channels, FORM.width], 0.0, FORM.acc)
    t_sum = tl.full([FORM.channels, FORM.width], 0.0, FORM.acc)
    n_valid = tl.full([FORM.counted, FORM.width], 0.0, FORM.acc)
    for block in range(num_blocks):
        voxels = ((first_block + block) * FORM.voxels + tl.arange(0, FORM.voxels))[None, :]
        z, share, kept, allowed = load_block(inputs, sample, channels, voxels, sizes, FORM)
        focal, tp, p, t = softmax_terms(z, share, kept, allowed, exponent, numbers, FORM)
        focal_sum += fold(focal, FORM)
        tp_sum += fold(tp, FORM)
        p_sum += fold(p, FORM)
        p_sq_sum += fold(p * p, FORM)
        t_sum += fold(t, FORM)
        if FORM.mask == "channels":
            n_valid += fold((kept & allowed).to(FORM.acc), FORM)
        else:
            n_valid += fold(kept.to(FORM.acc), FORM)
    sums = focal_sum, tl.zeros_like(focal_sum), tp_sum, p_sum, p_sq_sum, t_sum, n_valid
    store_sums(partials, program, (num_channels, num_programs), channels, sums)


@triton.jit(do_not_specialize=COUNTS)
def softmax_backward(
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
    num_blocks,
    FORM: tl.constexpr,
):
    """Gradient `(B, C, S)` of the softmax fields, written once."""
    inputs = logits, target, mask, class_gamma
    program = tl.program_id(0).to(tl.int64)
    sample, sizes = program // num_programs, (num_channels, num_voxels)
    first_block = (program % num_programs) * num_blocks
    numbers = kept_share, floor
    channels = tl.arange(0, FORM.channels)[:, None]
    present = channels < num_channels
    exponent = load_gamma(class_gamma, gamma, channels, present, FORM)
    grads = load_upstream(upstream, sample, channels, num_channels)
    for block in range(num_blocks):
        voxels = ((first_block + block) * FORM.voxels + tl.arange(0, FORM.voxels))[None, :]
        z, share, kept, allowed = load_block(inputs, sample, channels, voxels, sizes, FORM)
        grad = softmax_gradient(z, share, kept, allowed, exponent, numbers, grads, FORM)
        at = pointers(gradient, sample, channels, voxels)
        tl.store(at, grad, mask=present & (voxels < num_voxels))
