"""The kernels of the native CPU backend: compiled by numba, and imported only when they run.

A task is a run of voxels of one sample. It is walked in blocks that fit the first caches: a block's
logits are read as float32 into scratch rows, everything is computed there in loops that LLVM
vectorises, and only sums, or the gradient, leave. A kernel takes a range of tasks and lets go of
the interpreter's lock, so threads can share the tasks; no task depends on which of them runs it.

Tensors come as addresses with strides, whatever their dtype and layout, so that each kernel is
compiled once. Compiled code is cached on disk next to this file or in the user's cache folder. The
cache looks at this file alone to see whether it is stale, so all that is compiled stands here.

Shapes: C channels, N voxels of a block. Names: p the probability, q = 1 - p, nll = -log p, as in
README.md, which derives the formulas.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import binding as llvm
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

FLOAT32, BFLOAT16, FLOAT16 = 0, 1, 2
UINT8, INT8, INT16, INT32, INT64 = 3, 4, 5, 6, 7
NO_TENSOR = -1

F = np.float32
I = np.int32  # noqa: E741 - the two types of the arithmetic below
U = np.uint64  # as an index it needs no check for negative numbers

FEW = 16
"""Up to so many classes, comparing every label with every class beats scattering by label."""

UNROLLED, UNROLLED_BLOCK = 8, 512
"""Up to so many classes the softmax kernels are compiled for just that number of them, and take so
many voxels at a time."""


def _compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit` with the settings that all kernels share.

    Contraction to fused multiply-adds keeps more digits than it loses. Nothing else of fast math
    is let in but where sums say so: the formulas rely on the order of their additions.
    """
    settings: dict[str, Any] = {
        "error_model": "numpy",
        "fastmath": {"contract"},
        "no_cfunc_wrapper": True,
        "no_cpython_wrapper": True,
    }
    settings |= options
    compiled: Callable[[Callable[..., Any]], Any] = numba.njit(**settings)
    return compiled


def _kernel(function: Callable[..., Any]) -> Any:
    """A compiled function that runs without the interpreter's lock and is cached on disk."""
    try:
        return _compiled(nogil=True, no_cpython_wrapper=False, cache=True)(function)
    except RuntimeError:  # numba found no folder that it may write to
        return _compiled(nogil=True, no_cpython_wrapper=False)(function)


def _pointer(element: Any) -> Any:
    """A function from an address to a pointer, for `numba.carray`."""

    @intrinsic
    def at(_context: Any, address: Any) -> Any:  # noqa: ARG001
        signature = types.CPointer(element)(types.int64)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return signature, generate

    return at


_float32_at = _pointer(types.float32)
_uint16_at = _pointer(types.uint16)
_uint8_at = _pointer(types.uint8)
_int8_at = _pointer(types.int8)
_int16_at = _pointer(types.int16)
_int32_at = _pointer(types.int32)
_int64_at = _pointer(types.int64)


@intrinsic
def _bits(_context: Any, _value: Any) -> Any:
    """The 32 bits of a float32 as an int32."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


@intrinsic
def _float(_context: Any, _bits: Any) -> Any:
    """The float32 that 32 bits stand for."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def _pick(_context: Any, _condition: Any, yes: Any, no: Any) -> Any:
    """`yes if condition else no` with both worked out: a select, never a branch.

    Never store one back to where `yes` or `no` was just loaded from: LLVM makes a masked store of
    it, which takes ten times as long on some CPUs. Minimum and maximum do, or a row of its own.
    """

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.select(*arguments)

    return (yes(types.boolean, yes, no), generate) if yes == no else None


_NARROW_CPUS = ("skylake-avx512", "cascadelake", "cooperlake")
"""Cores of these slow down for a while when they run 512-bit arithmetic."""

PREFERRED_BITS = 256 if llvm.get_host_cpu_name() in _NARROW_CPUS else 512


@intrinsic
def _whole_vectors(_context: Any) -> Any:
    """Called in every function with a loop: lets LLVM use a CPU's whole vector width in it.

    With AVX-512 it would stop at 256 bits for Intel's CPUs of the server line.
    """

    def generate(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        # llvmlite's own `add` knows no attribute with a value
        set.add(builder.function.attributes, f'"prefer-vector-width"="{PREFERRED_BITS}"')
        return context.get_dummy_value()

    return types.none(), generate


# exp and log after Cephes (expf, logf), S. Moshier, with the integer parts through bit patterns

TINY, LARGEST = F(np.finfo(np.float32).tiny), F(np.finfo(np.float32).max)
_LOWEST = F(-87.33)  # exp is smaller than the smallest normal number below it, and 0 here
_LOG2_E, _LN2_HIGH, _LN2_LOW = F(1.44269504), F(0.693359375), F(-2.12194440e-4)
_ROUNDING = F(12582912.0)  # 1.5 * 2^23: adding it leaves an integer in the low bits
_ZERO, _HALF, _ONE, _TWO = F(0), F(0.5), F(1), F(2)
_E0, _E1, _E2 = F(1.9875691500e-4), F(1.3981999507e-3), F(8.3334519073e-3)
_E3, _E4 = F(4.1665795894e-2), F(1.6666665459e-1)
_L0, _L1, _L2 = F(7.0376836292e-2), F(-1.1514610310e-1), F(1.1676998740e-1)
_L3, _L4, _L5 = F(-1.2420140846e-1), F(1.4249322787e-1), F(-1.6668057665e-1)
_L6, _L7, _L8 = F(2.0000714765e-1), F(-2.4999993993e-1), F(3.3333331174e-1)
_SQRT_HALF_BITS = I(0x3F3504F3)


@_compiled()
def _exp(x):
    """exp(x) for x <= 88; NaN stays NaN."""
    inside = _pick(x < _LOWEST, _LOWEST, x)
    shifted = inside * _LOG2_E + _ROUNDING
    whole = shifted - _ROUNDING
    r = inside - whole * _LN2_HIGH
    r = r - whole * _LN2_LOW
    y = ((((_E0 * r + _E1) * r + _E2) * r + _E3) * r + _E4) * r + _HALF
    y = y * (r * r) + r + _ONE
    scaled = _float(I(_bits(y) + I(_bits(shifted) << I(23))))
    return _pick(x < _LOWEST, _ZERO, scaled)


@_compiled()
def _log_of(u, above_one):
    """log(u) for a normal u, given u - 1 with all its digits where u is close to 1."""
    exponent = I(I(_bits(u) - _SQRT_HALF_BITS) >> I(23))
    mantissa = _float(I(_bits(u) - I(exponent << I(23))))
    f = _pick(exponent == 0, above_one, mantissa - _ONE)
    y = (((_L0 * f + _L1) * f + _L2) * f + _L3) * f + _L4
    y = (((y * f + _L5) * f + _L6) * f + _L7) * f + _L8
    k, square = F(exponent), f * f
    y = y * f * square + k * _LN2_LOW - _HALF * square
    return f + y + k * _LN2_HIGH


@_compiled()
def _log1p(x):
    """log(1 + x) for 0 <= x; NaN stays NaN."""
    y = _log_of(_ONE + x, x)
    return _pick(x == x, y, x)  # NaN is not itself


@_compiled()
def _power(q, gamma, n, out):
    """Fill out with q^gamma, 0 <= q <= 1 and 0^0 = 1; no logarithm for the usual exponents."""
    _whole_vectors()
    if gamma == _TWO:
        for i in range(n):
            out[i] = q[i] * q[i]
    elif gamma == _ZERO:
        for i in range(n):
            out[i] = _ONE
    elif gamma == _ONE:
        for i in range(n):
            out[i] = q[i]
    elif gamma == _HALF:
        for i in range(n):
            out[i] = np.sqrt(q[i])
    else:
        for i in range(n):
            out[i] = _general_power(q[i], gamma)


@_compiled()
def _general_power(q, gamma):
    inside = _pick(q < TINY, TINY, q)
    y = _exp(gamma * _log_of(inside, inside - _ONE))
    y = _pick(q == q, y, q)  # NaN is not itself
    return _pick((q < TINY) & (gamma > _ZERO), _ZERO, y)


@_compiled(fastmath={"contract", "reassoc"})
def _sum_and_squares(row, n):
    _whole_vectors()
    total, squares = _ZERO, _ZERO
    for i in range(n):
        total += row[i]
        squares += row[i] * row[i]
    return total, squares


@_compiled(fastmath={"contract", "reassoc"})
def _sum_where(row, labels, label, n):
    _whole_vectors()
    total = _ZERO
    for i in range(n):
        total += _pick(labels[i] == label, row[i], _ZERO)
    return total


@_compiled()
def _count_where(labels, label, n):
    _whole_vectors()
    count = I(0)
    for i in range(n):
        count = I(count + _pick(labels[i] == label, I(1), I(0)))
    return count


# reading and writing


@_compiled()
def _half_to_float(half):
    bits = I(half)
    magnitude = I((bits & I(0x7FFF)) << I(13))
    value = _float(magnitude) * F(5.192296858534828e33)  # 2^112, the difference of the biases
    bits_of_value = I(_bits(value) | _pick(magnitude >= I(0x0F800000), I(0x7F800000), I(0)))
    return _float(I(bits_of_value | I((bits & I(0x8000)) << I(16))))


@_compiled()
def _float_to_half(value):
    """Round to nearest even, as F. Giesen's float_to_half_fast3_rtne."""
    bits = _bits(value)
    magnitude = I(bits & I(0x7FFFFFFF))
    odd = I((magnitude >> I(13)) & I(1))
    normal = I(I(magnitude + I(-939520001 + odd)) >> I(13))  # bias 127 to 15, and 0xFFF to round
    small = I(_bits(_float(magnitude) + _HALF) - I(0x3F000000))
    half = _pick(magnitude < I(0x38800000), small, normal)
    half = _pick(magnitude >= I(0x47800000), I(0x7C00), half)
    half = _pick(magnitude > I(0x7F800000), I(0x7E00), half)
    return np.uint16(half | I((bits >> I(16)) & I(0x8000)))


@_compiled()
def _float_to_bfloat(value):
    """Round to nearest even."""
    bits = _bits(value)
    rounded = I(I(bits + I(0x7FFF) + I((bits >> I(16)) & I(1))) >> I(16))
    return np.uint16(_pick(value == value, rounded, I(0x7FC0)))  # NaN is not itself


@_compiled()
def _read(view, b, c, s, n, row):
    """The n voxels of a channel as float32."""
    _whole_vectors()
    start = b * view.stride_b + c * view.stride_c + s * view.stride_s
    step = view.stride_s
    extent = (n - 1) * step + 1
    if view.code == FLOAT32:
        floats = numba.carray(_float32_at(view.address + 4 * start), extent)
        if step == 1:
            for i in range(n):
                row[i] = floats[i]
        else:
            for i in range(n):
                row[i] = floats[i * step]
    else:
        halves = numba.carray(_uint16_at(view.address + 2 * start), extent)
        if view.code == BFLOAT16:
            for i in range(n):
                row[i] = _float(I(I(halves[i * step]) << I(16)))
        else:
            for i in range(n):
                row[i] = _half_to_float(halves[i * step])


@_compiled()
def _write(view, b, c, s, n, row):
    """The n voxels of a channel, in the view's dtype."""
    _whole_vectors()
    start = b * view.stride_b + c * view.stride_c + s * view.stride_s
    step = view.stride_s
    extent = (n - 1) * step + 1
    if view.code == FLOAT32:
        floats = numba.carray(_float32_at(view.address + 4 * start), extent)
        if step == 1:
            for i in range(n):
                floats[i] = row[i]
        else:
            for i in range(n):
                floats[i * step] = row[i]
    else:
        halves = numba.carray(_uint16_at(view.address + 2 * start), extent)
        if view.code == BFLOAT16:
            for i in range(n):
                halves[i * step] = _float_to_bfloat(row[i])
        else:
            for i in range(n):
                halves[i * step] = _float_to_half(row[i])


@_compiled()
def _read_integers(view, b, c, s, n, row):
    """The n voxels of labels, of a hard target's channel or of a mask, as int64."""
    _whole_vectors()
    start = b * view.stride_b + c * view.stride_c + s * view.stride_s
    step = view.stride_s
    extent = (n - 1) * step + 1
    if view.code == UINT8:
        unsigned = numba.carray(_uint8_at(view.address + start), extent)
        for i in range(n):
            row[i] = unsigned[i * step]
    elif view.code == INT8:
        bytes_ = numba.carray(_int8_at(view.address + start), extent)
        for i in range(n):
            row[i] = bytes_[i * step]
    elif view.code == INT16:
        shorts = numba.carray(_int16_at(view.address + 2 * start), extent)
        for i in range(n):
            row[i] = shorts[i * step]
    elif view.code == INT32:
        ints = numba.carray(_int32_at(view.address + 4 * start), extent)
        for i in range(n):
            row[i] = ints[i * step]
    else:
        longs = numba.carray(_int64_at(view.address + 8 * start), extent)
        for i in range(n):
            row[i] = longs[i * step]


@_compiled()
def _narrowed(label, highest):
    return _pick((label >= 0) & (label <= highest), I(label), I(highest + 1))


@_compiled()
def _read_labels(labels, mask, ignored, highest, b, s, n, scratch, found):
    """Each voxel's label; `highest + 1` if ignored, masked or not a label from 0 to `highest`."""
    _whole_vectors()
    left_out = I(highest + 1)
    if labels.code == INT64 and labels.stride_s == 1:  # torch's own: in one pass
        longs = numba.carray(_int64_at(labels.address + 8 * (b * labels.stride_b + s)), n)
        for i in range(n):
            found[i] = _narrowed(longs[i], highest)
    else:
        _read_integers(labels, b, 0, s, n, scratch)
        for i in range(n):
            found[i] = _narrowed(scratch[i], highest)
    for k in range(ignored.size):
        value = ignored[k]
        for i in range(n):
            found[i] = max(found[i], _pick(found[i] == value, left_out, I(0)))
    _leave_out_masked(mask, left_out, b, s, n, scratch, found)


@_compiled()
def _leave_out_masked(mask, left_out, b, s, n, scratch, found):
    """Put `left_out` where a mask that all channels share is False."""
    _whole_vectors()
    if mask.code != NO_TENSOR and not mask.by_channel:
        _read_integers(mask, b, 0, s, n, scratch)
        for i in range(n):
            found[i] = max(found[i], _pick(scratch[i] != 0, I(0), left_out))


# softmax


@_compiled()
def _read_classes(target, mask, ignored, channels, b, s, n, scratch, classes):
    """Each voxel's class; C where the voxel does not count."""
    _whole_vectors()
    left_out = I(channels)
    if not target.by_channel:
        _read_labels(target, mask, ignored, channels - 1, b, s, n, scratch, classes)
    else:
        for i in range(n):
            classes[i] = left_out
        for c in range(channels):
            _read_integers(target, b, c, s, n, scratch)
            for i in range(n):
                classes[i] = min(classes[i], _pick(scratch[i] != 0, I(c), left_out))
        _leave_out_masked(mask, left_out, b, s, n, scratch, classes)
    if mask.by_channel:
        for c in range(channels):
            _read_integers(mask, b, c, s, n, scratch)
            for i in range(n):
                masked = (classes[i] == I(c)) & (scratch[i] == 0)
                classes[i] = max(classes[i], _pick(masked, left_out, I(0)))


@_compiled()
def _read_voxels(logits, target, mask, ignored, channels, b, s, n, z, classes, spare, scratch):
    """Fill z and the classes of n voxels. Returns how many do not count: class C, z = 0."""
    _whole_vectors()
    _read_classes(target, mask, ignored, channels, b, s, n, scratch, classes)
    left_out = _count_where(classes, I(channels), n)
    for c in range(channels):
        row = z[c]
        _read(logits, b, c, s, n, row)
        if mask.by_channel:
            _read_integers(mask, b, c, s, n, scratch)
            for i in range(n):
                spare[i] = row[i]
            for i in range(n):
                row[i] = _pick(scratch[i] != 0, spare[i], F(-np.inf))
        if left_out > 0:
            for i in range(n):
                spare[i] = row[i]
            for i in range(n):
                row[i] = _pick(classes[i] < I(channels), spare[i], _ZERO)
    return left_out


@_compiled()
def _softmax_block(channels, n, e, classes, own, rest, inverse, top, p, q, nll):
    """What both directions need of n voxels, given their logits in e.

    e becomes exp(z - top); own = z - top of the voxel's class, rest = the sum of all e but one that
    is 1, inverse = 1 / (1 + rest), and 0 where a voxel does not count. p, q and nll are those of
    its class, q without cancellation. Row C of e stands for the class of voxels that do not count.
    (The sum of all but the own class would do as well, but where that holds the 1 hundreds of small
    terms lose their last digits in it.)
    """
    _whole_vectors()
    for i in range(n):
        top[i] = F(-np.inf)
        rest[i] = _ZERO
        inverse[i] = F(-1)
    for c in range(channels):
        z = e[c]
        for i in range(n):
            top[i] = np.maximum(top[i], z[i])
    for i in range(n):
        own[i] = e[U(classes[i]), i] - top[i]
    for c in range(channels):
        z = e[c]
        for i in range(n):
            y = _exp(z[i] - top[i])
            z[i] = y
            is_top = y == _ONE
            rest[i] += _pick(is_top, _ZERO, y)
            inverse[i] += _pick(is_top, _ONE, _ZERO)
    for i in range(n):
        p[i] = e[U(classes[i]), i]
    for i in range(n):
        own_e = p[i]
        rest[i] += inverse[i]
        inverse[i] = _pick(classes[i] < I(channels), _ONE / (_ONE + rest[i]), _ZERO)
        p[i] = own_e * inverse[i]
        q[i] = (rest[i] + (_ONE - own_e)) * inverse[i]
        nll[i] = _log1p(rest[i]) - own[i]


@_compiled()
def _own_power(q, classes, gammas, n, gamma, out):
    """q^gamma; `gammas` holds one gamma, or one per class and another. Fills `gamma` too."""
    _whole_vectors()
    if gammas.size == 1:
        _power(q, gammas[0], n, out)
        for i in range(n):
            gamma[i] = gammas[0]
    else:
        for i in range(n):
            gamma[i] = gammas[U(classes[i])]
        for i in range(n):
            out[i] = _general_power(q[i], gamma[i])


@_compiled(fastmath={"contract", "reassoc"})
def _sums_of_class(p, focal, classes, label, n):
    """Of one class: sums of its voxels' focal losses and probabilities, of p and p^2 everywhere."""
    _whole_vectors()
    of_focal, overlap, total, squares = _ZERO, _ZERO, _ZERO, _ZERO
    for i in range(n):
        is_own = classes[i] == label
        of_focal += _pick(is_own, focal[i], _ZERO)
        overlap += _pick(is_own, p[i], _ZERO)
        total += p[i]
        squares += p[i] * p[i]
    return of_focal, overlap, total, squares


@_compiled()
def _add_compared(p, focal, classes, channels, n, sums):
    """Add what n voxels give to the sums: every label compared with every class."""
    _whole_vectors()
    for c in range(channels):
        of_focal, overlap, total, squares = _sums_of_class(p[c], focal, classes, I(c), n)
        sums[0, c] += of_focal
        sums[2, c] += overlap
        sums[3, c] += total
        sums[4, c] += squares
        sums[5, c] += _count_where(classes, I(c), n)


@_compiled()
def _add_scattered(p, own_p, focal, classes, channels, n, sums):
    """The same by way of each voxel's label."""
    _whole_vectors()
    for i in range(n):
        own = U(classes[i])
        sums[0, own] += focal[i]
        sums[2, own] += own_p[i]
        sums[5, own] += 1
    for c in range(channels):
        total, squares = _sum_and_squares(p[c], n)
        sums[3, c] += total
        sums[4, c] += squares


@_compiled()
def _add_valid(mask, classes, left_out, channels, b, s, n, scratch, sums):
    """Add the number of voxels that count to every channel."""
    _whole_vectors()
    for c in range(channels):
        if mask.by_channel:
            _read_integers(mask, b, c, s, n, scratch)
            for i in range(n):
                sums[6, c] += scratch[i] != 0 and classes[i] < channels
        else:
            sums[6, c] += n - left_out


@_kernel
def softmax_sums(logits, target, mask, ignored, gammas, grid, partials, first, last):
    """Sums (7, C + 1) of each task from `first` to `last`, into `partials (B * tasks, 7, C + 1)`.

    The last column collects what does not count.
    """
    _whole_vectors()
    channels, block = grid.channels, grid.block
    e = np.zeros((channels + 1, block), np.float32)
    rows = np.empty((9, block), np.float32)
    classes, scratch = np.empty(block, np.int32), np.empty(block, np.int64)
    own, rest, inverse, top = rows[0], rows[1], rows[2], rows[3]
    p, q, nll, focal, gamma = rows[4], rows[5], rows[6], rows[7], rows[8]
    for task in range(first, last):
        b = task // grid.tasks
        start = (task % grid.tasks) * grid.task
        sums = partials[task]
        for s in range(start, min(start + grid.task, grid.voxels), block):
            n = min(block, grid.voxels - s)
            left_out = _read_voxels(
                logits, target, mask, ignored, channels, b, s, n, e, classes, own, scratch
            )
            _softmax_block(channels, n, e, classes, own, rest, inverse, top, p, q, nll)
            _own_power(q, classes, gammas, n, gamma, focal)
            for i in range(n):
                focal[i] *= nll[i]
            for c in range(channels):
                z = e[c]
                for i in range(n):
                    z[i] *= inverse[i]
            if channels <= FEW:
                _add_compared(e, focal, classes, channels, n, sums)
            else:
                _add_scattered(e, p, focal, classes, channels, n, sums)
            _add_valid(mask, classes, left_out, channels, b, s, n, scratch, sums)


@_kernel
def softmax_gradient(upstream, logits, target, mask, ignored, gammas, grid, gradient, first, last):
    """Gradient of each task from `first` to `last`, given that of the sums `(B, 7, C + 1)`.

    The last column of `upstream` is 0: nothing flows to voxels that do not count.
    """
    _whole_vectors()
    channels, block = grid.channels, grid.block
    e = np.zeros((channels + 1, block), np.float32)
    rows = np.empty((13, block), np.float32)
    classes, scratch = np.empty(block, np.int32), np.empty(block, np.int64)
    own, rest, inverse, top = rows[0], rows[1], rows[2], rows[3]
    p, q, nll, focal, gamma = rows[4], rows[5], rows[6], rows[7], rows[8]
    weight, overlap, others, here = rows[9], rows[10], rows[11], rows[12]
    for task in range(first, last):
        b = task // grid.tasks
        start = (task % grid.tasks) * grid.task
        above = upstream[b]
        for s in range(start, min(start + grid.task, grid.voxels), block):
            n = min(block, grid.voxels - s)
            _read_voxels(logits, target, mask, ignored, channels, b, s, n, e, classes, own, scratch)
            _softmax_block(channels, n, e, classes, own, rest, inverse, top, p, q, nll)
            _own_power(q, classes, gammas, n, gamma, focal)
            _own_upstream(classes, above, channels, n, weight, overlap)
            for i in range(n):
                finite = _pick(nll[i] > LARGEST, LARGEST, nll[i])
                ratio = (p[i] * finite + TINY) / (q[i] + TINY)
                focal[i] *= -weight[i] * (_ONE + gamma[i] * ratio)
                overlap[i] *= p[i]
                others[i] = overlap[i]
            for c in range(channels):
                z, worth, square = e[c], above[3, c], _TWO * above[4, c]
                for i in range(n):
                    y = z[i] * inverse[i]
                    z[i] = y
                    others[i] += y * (worth + square * y)
            # with the sum S of p_j w_j an own class has f q + p (w - S), another p (w - S - f)
            for i in range(n):
                own[i] = others[i]
                others[i] += focal[i]
                here[i] = focal[i] * q[i] + overlap[i]
            for i in range(n):
                label = U(classes[i])
                slope = above[3, label] + _TWO * above[4, label] * p[i] - own[i]
                own[i] = p[i] * slope + here[i]
            for c in range(channels):
                z, worth, square = e[c], above[3, c], _TWO * above[4, c]
                for i in range(n):
                    z[i] *= worth + square * z[i] - others[i]
            for i in range(n):
                e[U(classes[i]), i] = own[i]
            for c in range(channels):
                _write(gradient, b, c, s, n, e[c])


@_compiled()
def _own_upstream(classes, above, channels, n, weight, overlap):
    """The gradients of `focal_pos` and `tp` for each voxel's class."""
    _whole_vectors()
    if channels <= FEW:
        for i in range(n):
            weight[i] = _ZERO
            overlap[i] = _ZERO
        for c in range(channels):
            of_focal, of_tp = above[0, c], above[2, c]
            for i in range(n):
                is_own = classes[i] == I(c)
                weight[i] += _pick(is_own, of_focal, _ZERO)
                overlap[i] += _pick(is_own, of_tp, _ZERO)
    else:
        for i in range(n):
            own = U(classes[i])
            weight[i] = above[0, own]
            overlap[i] = above[2, own]


# softmax of few classes
#
# `which` is (0, 1, ..., C - 1): a tuple, whose length is known when a kernel is compiled. Loops
# over it are unrolled: a voxel's probabilities stay in registers. All rows lie in one array, from
# which LLVM sees that they do not overlap.


@_compiled()
def _at(row, i):
    return U(row * UNROLLED_BLOCK + i)


@_compiled()
def _unrolled_probabilities(which, classes, n, w):
    """Rows 0 to C - 1 of w turned from logits to p. Behind them p, q and nll of a voxel's class.

    q is the sum of the other classes' p. Where the own class is not the largest the others' sum is
    1 at least, so that adding e - 1 to it cancels nothing.
    """
    _whole_vectors()
    channels = len(which)
    for i in range(n):
        label = classes[i]
        top = w[_at(0, i)]
        for c in range(1, len(which)):
            top = np.maximum(top, w[_at(c, i)])
        own, own_e, others = _ZERO, _ZERO, _ZERO
        for c in range(len(which)):
            x = w[_at(c, i)] - top
            e = _exp(x)
            is_own = label == I(c)
            own = _pick(is_own, x, own)
            own_e = _pick(is_own, e, own_e)
            others += _pick(is_own, _ZERO, e)
            w[_at(c, i)] = e
        inverse = _pick(label < I(channels), _ONE / (others + own_e), _ZERO)
        for c in range(len(which)):
            w[_at(c, i)] *= inverse
        w[_at(channels, i)] = own_e * inverse
        w[_at(channels + 1, i)] = others * inverse
        w[_at(channels + 2, i)] = _log1p(others + (own_e - _ONE)) - own


@_kernel
def unrolled_softmax_sums(
    which, logits, target, mask, ignored, gammas, grid, partials, first, last
):
    """What `softmax_sums` computes."""
    _whole_vectors()
    channels, block = len(which), grid.block
    rows = np.empty((channels + 6, UNROLLED_BLOCK), np.float32)
    w = rows.reshape(-1)
    q, nll, focal = rows[channels + 1], rows[channels + 2], rows[channels + 3]
    gamma, spare = rows[channels + 4], rows[channels + 5]
    classes, scratch = np.empty(block, np.int32), np.empty(block, np.int64)
    for task in range(first, last):
        b = task // grid.tasks
        start = (task % grid.tasks) * grid.task
        sums = partials[task]
        for s in range(start, min(start + grid.task, grid.voxels), block):
            n = min(block, grid.voxels - s)
            left_out = _read_voxels(
                logits, target, mask, ignored, channels, b, s, n, rows, classes, spare, scratch
            )
            _unrolled_probabilities(which, classes, n, w)
            _own_power(q, classes, gammas, n, gamma, focal)
            for i in range(n):
                focal[i] *= nll[i]
            _add_compared(rows, focal, classes, channels, n, sums)
            _add_valid(mask, classes, left_out, channels, b, s, n, scratch, sums)


@_compiled()
def _unrolled_gradient(which, classes, above, n, w):
    """Rows 0 to C - 1 of w turned from p to the gradient. `above` holds twice that of p^2."""
    _whole_vectors()
    channels = len(which)
    for i in range(n):
        label = classes[i]
        p, q, nll = w[_at(channels, i)], w[_at(channels + 1, i)], w[_at(channels + 2, i)]
        power, gamma = w[_at(channels + 3, i)], w[_at(channels + 4, i)]
        weight, overlap, others = _ZERO, _ZERO, _ZERO
        for c in range(len(which)):
            is_own = label == I(c)
            weight = _pick(is_own, above[0, c], weight)
            overlap = _pick(is_own, above[2, c], overlap)
            y = w[_at(c, i)]
            others += y * (above[3, c] + above[4, c] * y)
        finite = _pick(nll > LARGEST, LARGEST, nll)
        ratio = (p * finite + TINY) / (q + TINY)
        focal = power * -weight * (_ONE + gamma * ratio)
        overlap *= p
        others += overlap
        # with the sum S of p_j w_j an own class has f q + p (w - S), another p (w - S - f)
        here = focal * q + overlap
        for_others = others + focal
        for c in range(len(which)):
            is_own = label == I(c)
            y = w[_at(c, i)]
            slope = above[3, c] + above[4, c] * y - _pick(is_own, others, for_others)
            w[_at(c, i)] = y * slope + _pick(is_own, here, _ZERO)


@_kernel
def unrolled_softmax_gradient(
    which, upstream, logits, target, mask, ignored, gammas, grid, gradient, first, last
):
    """What `softmax_gradient` computes."""
    _whole_vectors()
    channels, block = len(which), grid.block
    rows = np.empty((channels + 6, UNROLLED_BLOCK), np.float32)
    w = rows.reshape(-1)
    q, power = rows[channels + 1], rows[channels + 3]
    gamma, spare = rows[channels + 4], rows[channels + 5]
    classes, scratch = np.empty(block, np.int32), np.empty(block, np.int64)
    above = np.empty((7, channels + 1), np.float32)
    for task in range(first, last):
        b = task // grid.tasks
        start = (task % grid.tasks) * grid.task
        above[:] = upstream[b]
        above[4] *= _TWO
        for s in range(start, min(start + grid.task, grid.voxels), block):
            n = min(block, grid.voxels - s)
            _read_voxels(
                logits, target, mask, ignored, channels, b, s, n, rows, classes, spare, scratch
            )
            _unrolled_probabilities(which, classes, n, w)
            _own_power(q, classes, gammas, n, gamma, power)
            _unrolled_gradient(which, classes, above, n, w)
            for c in range(channels):
                _write(gradient, b, c, s, n, rows[c])


# sigmoid


@_compiled()
def _read_counting(target, mask, ignored, highest, b, s, n, scratch, labels):
    """Each voxel's label, 0 if the target has channels; `highest + 1` where it does not count."""
    _whole_vectors()
    if not target.by_channel:
        _read_labels(target, mask, ignored, highest, b, s, n, scratch, labels)
    else:
        for i in range(n):
            labels[i] = I(0)
        _leave_out_masked(mask, I(highest + 1), b, s, n, scratch, labels)


@_compiled()
def _read_sides(target, mask, labels, highest, classes, ends, b, c, s, n, scratch, side):
    """1 for a positive of the channel, -1 for a negative, 0 where the voxel does not count."""
    _whole_vectors()
    if not target.by_channel:
        for i in range(n):
            side[i] = _pick(labels[i] > highest, I(0), I(-1))
        for k in range(ends[c], ends[c + 1]):
            wanted = classes[k]
            for i in range(n):
                side[i] = max(side[i], _pick(labels[i] == wanted, I(1), I(-1)))
    else:
        _read_integers(target, b, c, s, n, scratch)
        for i in range(n):
            answer = _pick(scratch[i] != 0, I(1), I(-1))
            side[i] = _pick(labels[i] > highest, I(0), answer)
    if mask.by_channel:
        _read_integers(mask, b, c, s, n, scratch)
        for i in range(n):  # 0 lies between the sides
            side[i] = max(min(side[i], I(scratch[i])), I(-scratch[i]))


@_compiled()
def _towards_side(z, side, n, p, q, nll):
    """Probability of each voxel's side, its complement, and its nll. Side 0 has p = q = 1/2."""
    _whole_vectors()
    for i in range(n):
        x = _pick(side[i] != I(0), z[i] * F(side[i]), _ZERO)
        e = _exp(-np.abs(x))
        larger = _ONE / (_ONE + e)
        smaller = e * larger
        p[i] = _pick(x < _ZERO, smaller, larger)
        q[i] = _pick(x < _ZERO, larger, smaller)
        nll[i] = _log1p(e) - _pick(x < _ZERO, x, _ZERO)


@_kernel
def sigmoid_sums(logits, target, mask, ignored, classes, ends, gammas, grid, partials, first, last):
    """Sums (7, C + 1) of each task from `first` to `last`, into `partials (B * tasks, 7, C + 1)`.

    Channel c of a target of labels is made up of `classes[ends[c] : ends[c + 1]]`.
    """
    _whole_vectors()
    block, highest = grid.block, I(classes.max() if classes.size else 0)
    rows = np.empty((5, block), np.float32)
    labels, side = np.empty(block, np.int32), np.empty(block, np.int32)
    scratch = np.empty(block, np.int64)
    z, p, q, nll, focal = rows[0], rows[1], rows[2], rows[3], rows[4]
    for task in range(first, last):
        b = task // grid.tasks
        start = (task % grid.tasks) * grid.task
        sums = partials[task]
        for s in range(start, min(start + grid.task, grid.voxels), block):
            n = min(block, grid.voxels - s)
            _read_counting(target, mask, ignored, highest, b, s, n, scratch, labels)
            for c in range(grid.channels):
                _read_sides(target, mask, labels, highest, classes, ends, b, c, s, n, scratch, side)
                _read(logits, b, c, s, n, z)
                _towards_side(z, side, n, p, q, nll)
                _power(q, gammas[0 if gammas.size == 1 else c], n, focal)
                for i in range(n):
                    focal[i] *= nll[i]
                    of_channel = _pick(side[i] > I(0), p[i], q[i])
                    z[i] = _pick(side[i] != I(0), of_channel, _ZERO)
                of_focal, overlap, total, squares = _sums_of_class(z, focal, side, I(1), n)
                sums[0, c] += of_focal
                sums[1, c] += _sum_where(focal, side, I(-1), n)
                sums[2, c] += overlap
                sums[3, c] += total
                sums[4, c] += squares
                sums[5, c] += _count_where(side, I(1), n)
                sums[6, c] += n - _count_where(side, I(0), n)


@_kernel
def sigmoid_gradient(
    upstream, logits, target, mask, ignored, classes, ends, gammas, grid, gradient, first, last
):
    """Gradient of each task from `first` to `last`, given that of the sums `(B, 7, C + 1)`."""
    _whole_vectors()
    block, highest = grid.block, I(classes.max() if classes.size else 0)
    rows = np.empty((5, block), np.float32)
    labels, side = np.empty(block, np.int32), np.empty(block, np.int32)
    scratch = np.empty(block, np.int64)
    z, p, q, nll, power = rows[0], rows[1], rows[2], rows[3], rows[4]
    for task in range(first, last):
        b = task // grid.tasks
        start = (task % grid.tasks) * grid.task
        for s in range(start, min(start + grid.task, grid.voxels), block):
            n = min(block, grid.voxels - s)
            _read_counting(target, mask, ignored, highest, b, s, n, scratch, labels)
            for c in range(grid.channels):
                above = upstream[b, :, c]
                positive, negative, overlap = -above[0], above[1], above[2]
                worth, square = above[3], _TWO * above[4]
                gamma = gammas[0 if gammas.size == 1 else c]
                _read_sides(target, mask, labels, highest, classes, ends, b, c, s, n, scratch, side)
                _read(logits, b, c, s, n, z)
                _towards_side(z, side, n, p, q, nll)
                _power(q, gamma, n, power)
                for i in range(n):
                    yes, no, nll_i = p[i], q[i], nll[i]
                    finite = _pick(nll_i > LARGEST, LARGEST, nll_i)
                    steepness = power[i] * (no + gamma * (yes * finite))
                    is_yes = side[i] > I(0)
                    of_channel = _pick(is_yes, yes, no)
                    slope = worth + square * of_channel + _pick(is_yes, overlap, _ZERO)
                    focal = steepness * _pick(is_yes, positive, negative)
                    grad = focal + yes * no * slope
                    z[i] = _pick(side[i] != I(0), grad, _ZERO)
                _write(gradient, b, c, s, n, z)
