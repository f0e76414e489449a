"""The sigmoid kernels: each channel by itself, up to 8 of them in a program. `@triton.jit` only.

A tensor here is one number a voxel. A program's channels are unrolled, so that a label is read once
for all of them. `triton_kernels.py` tells what the kernels have in common.
"""

import triton
import triton.language as tl

from segfocal.ops.triton_formulas import (
    binary_sides,
    overlap_slope,
    own_side,
    plain_terms,
    power,
    sigmoid,
    sigmoid_parts,
    smoothed,
    times_nll,
)
from segfocal.ops.triton_tiles import (
    COUNTS,
    count_inside,
    fold_voxels,
    load_gammas,
    load_label,
    load_numbers,
    load_voxels,
    pointers,
    region_words,
    store_field,
    zeros_of_channels,
)


@triton.jit
def load_sigmoid_voxels(inputs, sample, voxels, num_voxels, FORM: tl.constexpr):
    """What the channels have in common: the label's words, and whether the voxel counts."""
    _logits, target, mask, _class_gamma = inputs
    inside = voxels < num_voxels
    label, kept = 0, inside
    if FORM.has_labels:
        label, kept = load_label(target, sample, voxels, inside, FORM)
    if FORM.mask == "voxels":
        kept &= load_voxels(mask, sample, voxels, inside) != 0
    words = (label,)
    if FORM.target == "labels":
        words = (tl.where(kept, label, -1),)
    if FORM.target == "regions":
        words = label_words(label, kept, FORM)
    return words, kept


@triton.jit
def label_words(label, kept, FORM: tl.constexpr):
    """Labels as one bit in one of `FORM.words` words of 32, no bit where they do not count."""
    WORDS: tl.constexpr = FORM.words
    words = ()
    for word in tl.static_range(WORDS):
        words = words + (tl.where(kept & ((label >> 5) == word), 1 << (label & 31), 0),)
    return words


@triton.jit
def is_here(channel, voxels, sizes, FORM: tl.constexpr):
    """Which voxels of a channel there are."""
    if FORM.is_grouped:
        return voxels < tl.where(channel < sizes[0], sizes[1], 0)
    else:
        return voxels < sizes[1]


@triton.jit
def load_sigmoid(inputs, words, kept, sample, channel, voxels, sizes, FORM: tl.constexpr):
    """Logits, shares and validity of a channel.

    With labels, logits that do not count are minus infinity, and their voxels out of the channel.
    """
    logits, target, mask, _class_gamma = inputs
    here = is_here(channel, voxels, sizes, FORM)
    valid = kept & here
    z = tl.load(pointers(logits, sample, channel, voxels), mask=here, other=float("-inf"))
    z = z.to(FORM.acc)
    if FORM.mask == "channels":
        at = pointers(mask, sample, channel, voxels)
        valid &= tl.load(at, mask=here, other=0) != 0
    if FORM.has_labels:
        if FORM.target == "labels":
            share = words[0] == channel
        else:
            share = is_in_region(words, channel, FORM)
        if FORM.mask == "channels":
            share &= valid
        if FORM.leaves_out:
            z = tl.where(valid, z, float("-inf"))
    else:
        share = tl.load(pointers(target, sample, channel, voxels), mask=here, other=0)
        share = share != 0 if FORM.is_hard else share.to(FORM.acc)
    return z, share, valid


@triton.jit
def is_in_region(words, channel, FORM: tl.constexpr):
    """Whether the label is one of a channel's classes."""
    found = words[0] & region_words(channel, 0, FORM)
    for word in tl.static_range(1, len(words)):
        found |= words[word] & region_words(channel, word, FORM)
    return found != 0


@triton.jit
def sigmoid_terms(z, share, valid, gamma, numbers, FORM: tl.constexpr):
    """The summands of focal_pos, focal_neg, tp, p and t, 0 where they do not count."""
    if FORM.has_labels and FORM.has_hard_focal:
        p, _own_p, own_q, nll = own_side(z, share, FORM)
        focal = power(own_q, gamma, FORM) * nll
        positive, negative = tl.where(share, focal, 0.0), tl.where(share, 0.0, focal)
        is_positive = share.to(FORM.acc)
        return positive, negative, is_positive * p, p, is_positive
    else:
        weight = smoothed(share, numbers[0], numbers[1], FORM)
        parts = sigmoid_parts(z, FORM)
        positive, negative = binary_sides(z, parts, share, weight, valid, gamma, False, FORM)
        p, _q, _nll = sigmoid(z, parts)
        tp, p, t = plain_terms(p, share, valid, FORM)
        return positive, negative, tp, p, t


@triton.jit
def sigmoid_gradient(z, share, valid, gamma, numbers, grads, FORM: tl.constexpr):
    """The gradient of a channel, 0 where it does not count."""
    grad_pos, grad_neg, grad_tp, grad_p, grad_p_sq = grads
    if FORM.has_labels and FORM.has_hard_focal:
        p, own_p, own_q, nll = own_side(z, share, FORM)
        steepness = power(own_q, gamma, FORM) * (own_q + gamma * times_nll(own_p, nll))
        worth = grad_p + 2 * grad_p_sq * p + share.to(FORM.acc) * grad_tp
        return tl.where(share, -grad_pos, grad_neg) * steepness + own_p * own_q * worth
    else:
        weight = smoothed(share, numbers[0], numbers[1], FORM)
        parts = sigmoid_parts(z, FORM)
        steep_pos, steep_neg = binary_sides(z, parts, share, weight, valid, gamma, True, FORM)
        p, q, _nll = sigmoid(z, parts)
        worth = grad_p + 2 * grad_p_sq * p + grad_tp * overlap_slope(p, share, FORM)
        grad = grad_neg * steep_neg - grad_pos * steep_pos + p * q * worth
        return tl.where(valid, grad, 0.0)


@triton.jit(do_not_specialize=COUNTS)
def sigmoid_forward(
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
    """Partial sums `(B, 7, C, num_programs)` of the sigmoid fields."""
    CHANNELS: tl.constexpr = FORM.channels
    inputs = logits, target, mask, class_gamma
    num_groups = tl.cdiv(num_channels, CHANNELS)
    program = tl.program_id(0).to(tl.int64) // num_groups
    first_channel = (tl.program_id(0) % num_groups) * CHANNELS if FORM.is_grouped else 0
    sample, sizes = program // num_programs, (num_channels, num_voxels)
    numbers = kept_share, floor
    first_block = (program % num_programs) * num_blocks
    exponents = load_gammas(class_gamma, gamma, first_channel, num_channels, FORM)
    pos_sum, neg_sum, tp_sum = (
        zeros_of_channels(FORM.acc, FORM),
        zeros_of_channels(FORM.acc, FORM),
        zeros_of_channels(FORM.acc, FORM),
    )
    p_sum, p_sq_sum = zeros_of_channels(FORM.acc, FORM), zeros_of_channels(FORM.acc, FORM)
    t_sum, n_valid = zeros_of_channels(FORM.acc, FORM), zeros_of_channels(tl.int32, FORM)
    for block in tl.range(num_blocks, num_stages=FORM.stages):
        voxels = (first_block + block) * FORM.voxels + tl.arange(0, FORM.voxels)
        words, kept = load_sigmoid_voxels(inputs, sample, voxels, num_voxels, FORM)
        poss, negs, tps, sums, squares, ts, counts = (), (), (), (), (), (), ()
        for c in tl.static_range(CHANNELS):
            channel = first_channel + c
            z, share, valid = load_sigmoid(
                inputs, words, kept, sample, channel, voxels, sizes, FORM
            )
            positive, negative, tp, p, t = sigmoid_terms(
                z, share, valid, exponents[c], numbers, FORM
            )
            poss = poss + (pos_sum[c] + fold_voxels(positive, FORM),)
            negs = negs + (neg_sum[c] + fold_voxels(negative, FORM),)
            tps = tps + (tp_sum[c] + fold_voxels(tp, FORM),)
            sums = sums + (p_sum[c] + fold_voxels(p, FORM),)
            squares = squares + (p_sq_sum[c] + fold_voxels(p * p, FORM),)
            ts = ts + (t_sum[c] + fold_voxels(t, FORM),)
            if FORM.leaves_out and (FORM.mask == "channels" or c == 0):
                counts = counts + (n_valid[c] + fold_voxels(valid.to(tl.int32), FORM),)
            elif FORM.leaves_out:
                counts = counts + (counts[0],)
            else:
                counts = counts + (n_valid[c],)
        pos_sum, neg_sum, tp_sum, p_sum, p_sq_sum, t_sum, n_valid = (
            poss,
            negs,
            tps,
            sums,
            squares,
            ts,
            counts,
        )
    rows = num_channels, num_programs
    for c in tl.static_range(CHANNELS):
        channel = first_channel + c
        count = tl.sum(n_valid[c], 0)
        if not FORM.leaves_out:
            count = count_inside(first_block, num_blocks, num_voxels, FORM)
        store_field(partials, program, rows, 0, channel, tl.sum(pos_sum[c], 0))
        store_field(partials, program, rows, 1, channel, tl.sum(neg_sum[c], 0))
        store_field(partials, program, rows, 2, channel, tl.sum(tp_sum[c], 0))
        store_field(partials, program, rows, 3, channel, tl.sum(p_sum[c], 0))
        store_field(partials, program, rows, 4, channel, tl.sum(p_sq_sum[c], 0))
        store_field(partials, program, rows, 5, channel, tl.sum(t_sum[c], 0))
        store_field(partials, program, rows, 6, channel, count)


@triton.jit(do_not_specialize=COUNTS)
def sigmoid_backward(
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
    """Gradient `(B, C, S)` of the sigmoid fields, written once."""
    CHANNELS: tl.constexpr = FORM.channels
    inputs = logits, target, mask, class_gamma
    num_groups = tl.cdiv(num_channels, CHANNELS)
    program = tl.program_id(0).to(tl.int64) // num_groups
    first_channel = (tl.program_id(0) % num_groups) * CHANNELS if FORM.is_grouped else 0
    sample, sizes = program // num_programs, (num_channels, num_voxels)
    numbers = kept_share, floor
    first_block = (program % num_programs) * num_blocks
    exponents = load_gammas(class_gamma, gamma, first_channel, num_channels, FORM)
    row = upstream + sample * 7 * num_channels
    grad_pos = load_numbers(row, first_channel, num_channels, FORM)
    grad_neg = load_numbers(row + num_channels, first_channel, num_channels, FORM)
    grad_tp = load_numbers(row + 2 * num_channels, first_channel, num_channels, FORM)
    grad_p = load_numbers(row + 3 * num_channels, first_channel, num_channels, FORM)
    grad_p_sq = load_numbers(row + 4 * num_channels, first_channel, num_channels, FORM)
    for block in tl.range(num_blocks, num_stages=FORM.stages):
        voxels = (first_block + block) * FORM.voxels + tl.arange(0, FORM.voxels)
        words, kept = load_sigmoid_voxels(inputs, sample, voxels, num_voxels, FORM)
        for c in tl.static_range(CHANNELS):
            channel = first_channel + c
            z, share, valid = load_sigmoid(
                inputs, words, kept, sample, channel, voxels, sizes, FORM
            )
            grads = grad_pos[c], grad_neg[c], grad_tp[c], grad_p[c], grad_p_sq[c]
            grad = sigmoid_gradient(z, share, valid, exponents[c], numbers, grads, FORM)
            at = pointers(gradient, sample, channel, voxels)
            tl.store(at, grad, mask=is_here(channel, voxels, sizes, FORM))
