"""The kernel that makes a loss of a batch's sums: `@triton.jit` only.

A tile is (samples, channels), and one program holds all of it; what belongs to a channel is
(1, channels). `FORM` is the `LossForm` of `triton_loss.py`.
"""

import triton
import triton.language as tl

from segfocal.ops.triton_formulas import number

EPSILON_32 = tl.constexpr(2.0**-23)
EPSILON_64 = tl.constexpr(2.0**-52)
SMALLEST_32 = tl.constexpr(2.0**-103)
SMALLEST_64 = tl.constexpr(2.0**-970)
"""As `segfocal.functional.overlap.smallest_denominator`."""
EXPECTED_SHARE = tl.constexpr(0.01)
"""As `segfocal.functional.overlap.EXPECTED_SHARE`."""


@triton.jit
def load_field(sums, field: tl.constexpr, at, num_channels, here):
    """One field of the sums `(B, 7, C)`; 0 outside of `here`."""
    return tl.load(sums + at + field * num_channels, mask=here, other=0)


@triton.jit
def store_slopes(slopes, field: tl.constexpr, at, num_channels, here, values):
    """Write the derivatives by one field."""
    tl.store(slopes + at + field * num_channels, tl.broadcast_to(values, here.shape), mask=here)


@triton.jit
def load_weight(pointer, KIND: tl.constexpr, channels, num_channels, FORM: tl.constexpr):
    """A number for each channel (1, channels): "none", "one", "class" or "foreground"."""
    if KIND == "none":
        return tl.full(channels.shape, 1, FORM.acc)
    elif KIND == "one":
        return tl.full(channels.shape, tl.load(pointer), FORM.acc)
    elif KIND == "class":
        return tl.load(pointer + channels, mask=channels < num_channels, other=0)
    else:
        here = (channels > 0) & (channels < num_channels)
        return tl.load(pointer + channels - 1, mask=here, other=0)


@triton.jit
def fold_samples(values, FORM: tl.constexpr):
    """A field as the overlap term takes it: the sum of the samples, or every sample."""
    if FORM.over_batch:
        return tl.sum(values, 0, keep_dims=True)
    else:
        return values


@triton.jit
def everything(values):
    """The sum of a tile."""
    return tl.sum(tl.sum(values, 1), 0)


@triton.jit
def overlap_term(sums, weight, at, channels, here, num_channels, numbers, FORM: tl.constexpr):
    """The overlap term; and its derivatives by tp, p and p_sq, the share not in them yet."""
    of_overlap, of_tp, of_p, of_p_sq, of_t, smooth_nr, smooth_dr, exponent = numbers
    counts = here & (channels >= FORM.overlap_first)
    tp = fold_samples(load_field(sums, 2, at, num_channels, counts), FORM)
    p = fold_samples(load_field(sums, 3, at, num_channels, counts), FORM)
    p_sq = fold_samples(load_field(sums, 4, at, num_channels, counts), FORM)
    t = fold_samples(load_field(sums, 5, at, num_channels, counts), FORM)
    n_valid = fold_samples(load_field(sums, 6, at, num_channels, counts), FORM)
    numerator = of_overlap * tp + smooth_nr
    denominator = of_tp * tp + of_p * p + of_p_sq * p_sq + of_t * t + smooth_dr
    empty = denominator < (SMALLEST_64 if FORM.acc == tl.float64 else SMALLEST_32)
    inverse = 1 / tl.where(empty, 1.0, denominator)
    ratio = numerator * inverse
    loss = tl.where(empty, 0.0, 1 - ratio)
    by_ratio = tl.where(empty, 0.0, -1.0)
    if FORM.is_raised:
        positive = loss > (EPSILON_64 if FORM.acc == tl.float64 else EPSILON_32)
        base = tl.where(positive, loss, 1.0)
        loss = tl.where(positive, tl.exp(exponent * tl.log(base)), 0.0)
        by_ratio = tl.where(positive, by_ratio * exponent * loss / base, 0.0)
    by_denominator = -ratio * inverse * by_ratio
    by_tp = of_overlap * inverse * by_ratio + of_tp * by_denominator
    by_p = of_p * by_denominator
    by_p_sq = of_p_sq * by_denominator
    counted = n_valid > 0
    if FORM.absent == "skip":
        counted = counted & (t > 0)
    if FORM.absent == "penalise":
        there = t > 0
        expected = tl.maximum(n_valid * EXPECTED_SHARE, 1.0)
        loss = tl.where(there, loss, p / (p + expected))
        by_p = tl.where(there, by_p, expected / ((p + expected) * (p + expected)))
        by_tp = tl.where(there, by_tp, 0.0)
        by_p_sq = tl.where(there, by_p_sq, 0.0)
    KIND: tl.constexpr = FORM.overlap_weight
    factor = load_weight(weight, KIND, channels, num_channels, FORM)
    if FORM.is_mean:
        factor = factor / tl.maximum(everything(counted.to(FORM.acc)), 1.0)
    term = everything(tl.where(counted, loss * factor, 0.0))
    by_tp = tl.where(counted, by_tp * factor, 0.0)
    by_p = tl.where(counted, by_p * factor, 0.0)
    return term, by_tp, by_p, tl.where(counted, by_p_sq * factor, 0.0)


@triton.jit
def focal_weights(alpha, weight, channels, num_channels, FORM: tl.constexpr):
    """What a channel's positives and negatives are multiplied with, (1, channels) each."""
    ALPHA_KIND: tl.constexpr = FORM.alpha
    WEIGHT_KIND: tl.constexpr = FORM.focal_weight
    positive = load_weight(alpha, ALPHA_KIND, channels, num_channels, FORM)
    negative = tl.full(channels.shape, 1, FORM.acc)
    if FORM.alpha != "none":
        if FORM.has_negatives:
            negative = 1 - positive
        elif FORM.alpha == "one":
            positive = tl.where(channels == 0, 1 - positive, positive)
    factor = load_weight(weight, WEIGHT_KIND, channels, num_channels, FORM)
    return positive * factor, negative * factor


@triton.jit
def focal_term(sums, alpha, weight, at, channels, here, num_channels, FORM: tl.constexpr):
    """The voxelwise term; and its derivatives by focal_pos and focal_neg, without the share."""
    counts = here & (channels >= FORM.focal_first)
    t = load_field(sums, 5, at, num_channels, here)
    n_valid = load_field(sums, 6, at, num_channels, here)
    positive, negative = focal_weights(alpha, weight, channels, num_channels, FORM)
    each = load_field(sums, 0, at, num_channels, counts) * positive
    if FORM.has_negatives:
        each += load_field(sums, 1, at, num_channels, counts) * negative
    count = number(1, FORM)
    if FORM.normalizer == "valid":
        # under softmax a voxel counts once: for its own class, whatever a mask leaves out
        count = everything(tl.where(counts, n_valid, 0.0) if FORM.has_negatives else t)
    if FORM.normalizer == "positives":
        foreground = channels >= FORM.focal_first
        if not FORM.has_negatives:
            foreground = channels >= 1
        count = tl.maximum(everything(tl.where(here & foreground, t, 0.0)), 1.0)
    if FORM.normalizer == "alpha":
        weighed = t * positive
        if FORM.has_negatives:
            weighed += (n_valid - t) * negative
        count = everything(tl.where(counts, weighed, 0.0))
    scale = 1 / tl.where(count == 0, 1.0, count)
    term = everything(tl.where(counts, each, 0.0)) * scale
    by_neg = tl.full(here.shape, 0, FORM.acc)
    if FORM.has_negatives:
        by_neg = tl.where(counts, negative * scale, 0.0)
    return term, tl.where(counts, positive * scale, 0.0), by_neg


@triton.jit(do_not_specialize=["num_samples", "num_channels"])
def loss_of_sums(
    sums,
    overlap_weight,
    alpha,
    focal_weight,
    total,
    terms,
    slopes,
    share: tl.float64,
    of_overlap: tl.float64,
    of_tp: tl.float64,
    of_p: tl.float64,
    of_p_sq: tl.float64,
    of_t: tl.float64,
    smooth_nr: tl.float64,
    smooth_dr: tl.float64,
    exponent: tl.float64,
    focal_share: tl.float64,
    num_samples,
    num_channels,
    FORM: tl.constexpr,
):
    """The loss, its terms before their shares (2), and its derivatives by the sums `(B, 7, C)`."""
    samples = tl.arange(0, FORM.samples)[:, None]
    channels = tl.arange(0, FORM.channels)[None, :]
    here = (samples < num_samples) & (channels < num_channels)
    at = samples * 7 * num_channels + channels
    zero = tl.full(here.shape, 0, FORM.acc)
    loss, overlap, focal = number(0, FORM), number(0, FORM), number(0, FORM)
    by_pos, by_neg, by_tp, by_p, by_p_sq = zero, zero, zero, zero, zero
    if FORM.has_overlap:
        numbers = (
            number(of_overlap, FORM),
            number(of_tp, FORM),
            number(of_p, FORM),
            number(of_p_sq, FORM),
            number(of_t, FORM),
            number(smooth_nr, FORM),
            number(smooth_dr, FORM),
            number(exponent, FORM),
        )
        overlap, of_tps, of_ps, of_squares = overlap_term(
            sums, overlap_weight, at, channels, here, num_channels, numbers, FORM
        )
        if FORM.overlap_counts:
            factor = number(share, FORM)
            loss += factor * overlap
            by_tp = zero + factor * of_tps
            by_p = zero + factor * of_ps
            by_p_sq = zero + factor * of_squares
    if FORM.has_focal:
        focal, of_positives, of_negatives = focal_term(
            sums, alpha, focal_weight, at, channels, here, num_channels, FORM
        )
        if FORM.focal_counts:
            factor = number(focal_share, FORM)
            loss += factor * focal
            by_pos, by_neg = factor * of_positives, factor * of_negatives
    tl.store(total, loss)
    tl.store(terms, overlap)
    tl.store(terms + 1, focal)
    store_slopes(slopes, 0, at, num_channels, here, by_pos)
    store_slopes(slopes, 1, at, num_channels, here, by_neg)
    store_slopes(slopes, 2, at, num_channels, here, by_tp)
    store_slopes(slopes, 3, at, num_channels, here, by_p)
    store_slopes(slopes, 4, at, num_channels, here, by_p_sq)
    store_slopes(slopes, 5, at, num_channels, here, zero)
    store_slopes(slopes, 6, at, num_channels, here, zero)
