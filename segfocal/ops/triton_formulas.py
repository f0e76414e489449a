"""Formulas on one tile, for the kernels of `triton_kernels.py`: `@triton.jit` only.

They are those of `segfocal/ops/README.md`. A tile is (channels, voxels); what belongs to a voxel is
(1, voxels) and what belongs to a channel (channels, 1), so that everything broadcasts. `FORM` is
the `Form` of `triton_form.py`, known when the kernel is compiled.

Names: z a logit, p the probability of a channel, q = 1 - p, nll = -log p, share how much of the
voxel is in the channel: bool where `FORM.is_hard`, else a number.
"""

import triton
import triton.language as tl
from triton.language.extra import libdevice

TINY = tl.constexpr(1e-30)
"""Far below any q that decides p nll / q, and far above the smallest float32."""

HUGE = tl.constexpr(3e38)

TWO_THIRDS = tl.constexpr(0x3F2AAAAB)
"""The bits of the float32 next to 2/3."""


@triton.jit
def total(tile):
    """Sum over the channels, (1, voxels)."""
    return tl.sum(tile, 0, keep_dims=True)


@triton.jit
def number(value, FORM: tl.constexpr):
    """An argument in the dtype of all arithmetic."""
    return tl.full([], value, FORM.acc)


@triton.jit
def own(share, values):
    """The value of each voxel's own class; 0 if it has none."""
    return total(tl.where(share, values, 0.0))


@triton.jit
def any_channel(tile):
    """Whether a condition holds in one channel at least, (1, voxels)."""
    return tl.max(tile.to(tl.int32), 0, keep_dims=True) > 0


@triton.jit
def power(q, gamma, FORM: tl.constexpr):
    """q^gamma, 1 for gamma 0 whatever q is."""
    if FORM.gamma == "two":
        return q * q
    else:
        return tl.where(gamma == 0, 1.0, tl.exp2(gamma * tl.log2(q)))


@triton.jit
def exp(x, FORM: tl.constexpr):
    """e^x; in float32 the device's quick one, which is 0 below 1e-38."""
    if FORM.acc == tl.float64:
        return tl.exp(x)
    else:
        return libdevice.fast_expf(x)


@triton.jit
def divide(a, b, FORM: tl.constexpr):
    """The quotient a / b; in float32 the device's quick one, for b from 1e-38 to 1e38."""
    if FORM.acc == tl.float64:
        return a / b
    else:
        return libdevice.fast_dividef(a, b)


@triton.jit
def log1p(x, FORM: tl.constexpr):
    """log(1 + x) for finite x >= 0, with all digits where x is small.

    float64: the rounding of 1 + x is divided out again (Kahan). float32, without the branches of
    the library's logarithm: 1 + x = 2^k (1 + f) with f in [-1/3, 1/3], f = x where k = 0, and
    log(1 + f) = 2 artanh(s) with s = f / (2 + f). The polynomial in s^2 is off by 1e-8 of the value
    at most.
    """
    return log1p_with_sum(1 + x, x, FORM)


@triton.jit
def log1p_with_sum(u, x, FORM: tl.constexpr):
    """log(1 + x) where 1 + x, rounded, is known as `u`."""
    if FORM.acc == tl.float64:
        return tl.where(u == 1, x, tl.log(u) * (x / (u - 1)))
    else:
        bits = u.to(tl.int32, bitcast=True)
        exponent = (bits - TWO_THIRDS) >> 23
        reduced = (bits - (exponent << 23)).to(tl.float32, bitcast=True)
        f = tl.where(exponent == 0, x, reduced - 1)
        s = divide(f, 2 + f, FORM)
        w = s * s
        tail = 0.66666714 + w * (0.39978929 + w * 0.29957831)
        return exponent.to(tl.float32) * 0.69314718 + s * (2 + w * tail)


@triton.jit
def log1p_below_one(x, FORM: tl.constexpr):
    """log(1 + x) for x from 0 to 1, as `log1p`; in float32 without looking for the exponent.

    s = x / (2 + x) is at most 1/3. The polynomial in s^2 is off by 5e-9 of the value at most.
    """
    if FORM.acc == tl.float64:
        return log1p(x, FORM)
    else:
        s = divide(x, 2 + x, FORM)
        w = s * s
        tail = 0.66666413 + w * (0.40021699 + w * (0.27999141 + w * 0.28024459))
        return s * (2 + w * tail)


@triton.jit
def bounded(values):
    """The values >= 0 with a huge number for infinity: times 0 that is 0, where infinity is NaN."""
    return tl.where(values > HUGE, HUGE, values)


@triton.jit
def unbounded(sums):
    """What sums of `bounded` values would have been without it."""
    return tl.where(sums >= HUGE, float("inf"), sums)


@triton.jit
def times_nll(p, nll):
    """The product p * -log p, which is 0 at p = 0."""
    return p * tl.minimum(nll, HUGE)


@triton.jit
def weigh(values, weight, valid, IS_HARD: tl.constexpr):
    """`values * weight`, and 0 where the weight is 0 or the voxel does not count."""
    if IS_HARD:
        return tl.where(valid & weight, values, 0.0)
    else:
        return tl.where(valid & (weight > 0), values * weight, 0.0)


@triton.jit
def smoothed(share, kept_share, floor, FORM: tl.constexpr):
    """The share as the focal fields see it."""
    if FORM.is_smoothed:
        return share.to(FORM.acc) * number(kept_share, FORM) + number(floor, FORM)
    else:
        return share


@triton.jit
def overlap(p, share, FORM: tl.constexpr):
    """What `tp` sums, for a share that is a number."""
    if FORM.overlap == "minimum":
        return tl.where(p > share, share, p)
    else:
        return p * share


@triton.jit
def overlap_slope(p, share, FORM: tl.constexpr):
    """Derivative of the overlap by p. At p = t the minimum has a corner; see the README."""
    if FORM.is_hard or FORM.overlap == "product":
        return share.to(FORM.acc)
    else:
        corner = (tl.floor(share) + tl.ceil(share)) / 2
        return tl.where(p == share, corner, tl.where(p < share, 1.0, 0.0))


@triton.jit
def plain_terms(p, share, valid, FORM: tl.constexpr):
    """The summands of tp, p and t, 0 where they do not count."""
    p = tl.where(valid, p, 0.0)
    if FORM.is_hard:
        positive = share & valid
        return tl.where(positive, p, 0.0), p, positive.to(FORM.acc)
    else:
        share = tl.where(valid, share, 0.0)
        return overlap(p, share, FORM), p, share


@triton.jit
def softmax_rest(shifted, e, FORM: tl.constexpr):
    """Sum of all exponentials but one that is 1: the largest logit's, (1, voxels)."""
    is_top = shifted == 0
    return total(tl.where(is_top, 0.0, e)) + (total(is_top.to(FORM.acc)) - 1)


@triton.jit
def softmax_focal(z, rest, gamma, FORM: tl.constexpr):
    """(1 - p)^gamma * -log p at a logit less the largest."""
    q = (rest + (1 - exp(z, FORM))) * divide(1.0, 1 + rest, FORM)
    return power(q, gamma, FORM) * (log1p(rest, FORM) - z)


@triton.jit
def softmax_steepness(p, q, nll, gamma, FORM: tl.constexpr):
    """A in dFL_c/dz_j = -A (delta_cj - p_j): q^gamma (1 + gamma p nll / q)."""
    if FORM.gamma == "two":
        return q * (q + 2 * times_nll(p, nll))
    else:
        ratio = divide(times_nll(p, nll) + TINY, q + TINY, FORM)
        return power(q, gamma, FORM) * (1 + gamma * ratio)


@triton.jit
def softmax_slopes(e, rest, share, weight, valid, focal_z, gamma, grads, FORM: tl.constexpr):
    """p, q, and the README's f and s: what each focal term and each p is worth."""
    grad_focal, _grad_neg, grad_tp, grad_p, grad_p_sq = grads
    focal_e, scale = exp(focal_z, FORM), divide(1.0, 1 + rest, FORM)
    p = e * scale
    q = (rest + (1 - focal_e)) * scale
    nll = log1p(rest, FORM) - focal_z
    steepness = softmax_steepness(focal_e * scale, q, nll, gamma, FORM)
    f = -grad_focal * weigh(steepness, weight, valid, FORM.has_hard_focal)
    s = p * (grad_p + 2 * grad_p_sq * p + grad_tp * overlap_slope(p, share, FORM))
    return p, q, f, s


@triton.jit
def own_statistics(z, share, kept, FORM: tl.constexpr):
    """Where each voxel has one class: all exponentials, and what belongs to that class.

    Excluded logits and voxels must be minus infinity and in no class; then they come out as 0. The
    rest of the exponentials is summed without the own one, so that 1 - p loses no digit.
    """
    z = z - tl.where(kept, tl.max(z, 0, keep_dims=True), 0.0)
    e = exp(z, FORM)
    own_z, sum_e = own(share, z), total(e)
    rest = total(tl.where(share, 0.0, e))
    scale = tl.where(kept, divide(1.0, sum_e, FORM), 0.0)
    nll = log1p(tl.where(own_z == 0, rest, sum_e - 1), FORM) - own_z
    return e * scale, exp(own_z, FORM) * scale, rest * scale, nll


@triton.jit
def own_class(own_z, others, label, kept, FORM: tl.constexpr):
    """What all exponentials have to be multiplied with; and the own class's p, 1 - p and -log p.

    As `own_statistics`, for a voxel whose own logit less the largest, and whose exponentials of the
    other classes in all, are known. Where a voxel has no class `label` is -1 and `own_z` 0.
    """
    own_e = tl.where(label < 0, 0.0, exp(own_z, FORM))
    sum_e = others + own_e
    scale = tl.where(kept, divide(1.0, sum_e, FORM), 0.0)
    nll = log1p_with_sum(sum_e, tl.where(own_z == 0, others, sum_e - 1), FORM) - own_z
    return scale, own_e * scale, others * scale, nll


@triton.jit
def sigmoid_parts(z, FORM: tl.constexpr):
    """What z and -z have in common: the larger of p and q, the smaller, and -log of the larger."""
    a = exp(tl.abs(z) * -1.0, FORM)
    larger = divide(1.0, 1 + a, FORM)
    return larger, a * larger, log1p_below_one(a, FORM)


@triton.jit
def sigmoid(x, parts):
    """The probability at x, what it lacks to 1, and -log of it, from the parts of x or of -x."""
    larger, smaller, least_nll = parts
    up = x >= 0
    nll = least_nll + tl.where(up, 0.0, -x)
    return tl.where(up, larger, smaller), tl.where(up, smaller, larger), nll


@triton.jit
def own_side(z, share, FORM: tl.constexpr):
    """Where a voxel is wholly in a channel or out of it: p, and p, 1 - p and -log p of its side.

    A logit of minus infinity out of the channel gives 0, 1, 0 and 0: nothing in sums and gradients.
    """
    larger, smaller, least_nll = sigmoid_parts(z, FORM)
    x = tl.where(share, z, -z)
    own_p, own_q = tl.where(x >= 0, larger, smaller), tl.where(x >= 0, smaller, larger)
    return tl.where(share, own_p, own_q), own_p, own_q, least_nll - tl.minimum(x, 0.0)


@triton.jit
def binary_term(x, parts, gamma, STEEP: tl.constexpr, FORM: tl.constexpr):
    """(1 - p)^gamma * -log p with p = sigmoid(x); or A in its derivative by x, which is -A.

    A = q^gamma (q + gamma p nll).
    """
    p, q, nll = sigmoid(x, parts)
    if STEEP:
        return power(q, gamma, FORM) * (q + gamma * times_nll(p, nll))
    else:
        return power(q, gamma, FORM) * nll


@triton.jit
def binary_sides(z, parts, share, weight, valid, gamma, STEEP: tl.constexpr, FORM: tl.constexpr):
    """Focal loss, or its steepness, of the positives at z and of the negatives at -z."""
    if FORM.has_hard_focal:
        at_own = binary_term(tl.where(share, z, -z), parts, gamma, STEEP, FORM)
        at_own = tl.where(valid, at_own, 0.0)
        return tl.where(share, at_own, 0.0), tl.where(share, 0.0, at_own)
    else:
        positive = binary_term(z, parts, gamma, STEEP, FORM)
        negative = binary_term(-z, parts, gamma, STEEP, FORM)
        return weigh(positive, weight, valid, False), weigh(negative, 1 - weight, valid, False)
