"""How the kernels of `triton_kernels.py` read and fold a tile: `@triton.jit` only.

A tile is (channels, voxels). Tensors come as the `View` of `triton_form.py`, a pointer with its
strides; offsets are counted in 64 bits. `present` tells which rows are channels and `inside` which
columns are voxels: the rest pads the tile to powers of two.
"""

import triton
import triton.language as tl

from segfocal.ops.triton_formulas import any_channel, number

LABEL_LIMIT = tl.constexpr(1 << 30)

COUNTS = ["num_channels", "num_programs", "num_blocks"]
"""Arguments of which no property is worth a kernel of its own."""


@triton.jit
def pointers(view, sample, channels, voxels):
    """Where the values of a tile, or of one channel, lie."""
    at_sample = view.pointer + sample * view.batch
    return at_sample + tl.cast(channels, tl.int64) * view.channel + voxels * view.voxel


@triton.jit
def load_tile(view, sample, channels, voxels, here):
    """One value per channel and voxel; 0 outside of `here`."""
    return tl.load(pointers(view, sample, channels, voxels), mask=here, other=0)


@triton.jit
def load_voxels(view, sample, voxels, inside):
    """One value per voxel; 0 outside of `inside`."""
    at_sample = view.pointer + sample * view.batch
    return tl.load(at_sample + voxels * view.voxel, mask=inside, other=0)


@triton.jit
def load_gamma(class_gamma, gamma, channels, present, FORM: tl.constexpr):
    """The exponent, one number (1, 1) or (channels, 1)."""
    if FORM.gamma == "class":
        return tl.load(class_gamma + channels, mask=present, other=0)
    else:
        return tl.full([1, 1], gamma, FORM.acc)


@triton.jit
def load_numbers(pointer, first_channel, num_channels, FORM: tl.constexpr):
    """A number for each of a program's channels, from memory; 0 where there is no such channel."""
    CHANNELS: tl.constexpr = FORM.channels
    values = ()
    for c in tl.static_range(CHANNELS):
        channel = first_channel + c
        values = values + (tl.load(pointer + channel, mask=channel < num_channels, other=0),)
    return values


@triton.jit
def load_gammas(class_gamma, gamma, first_channel, num_channels, FORM: tl.constexpr):
    """The exponent of each of a program's channels."""
    if FORM.gamma == "class":
        return load_numbers(class_gamma, first_channel, num_channels, FORM)
    else:
        CHANNELS: tl.constexpr = FORM.channels
        values = ()
        for _ in tl.static_range(CHANNELS):
            values = values + (number(gamma, FORM),)
        return values


@triton.jit
def region_words(channel, word: tl.constexpr, FORM: tl.constexpr):
    """One word of the channel's classes, a number.

    `FORM.regions` holds `FORM.words` words of 32 labels for each channel, as signed integers.
    """
    WORDS: tl.constexpr = FORM.words
    bits = 0
    for i in tl.static_range(len(FORM.regions) // WORDS):
        bits = tl.where(channel == i, FORM.regions[i * WORDS + word], bits)
    return bits


@triton.jit
def load_label(target, sample, voxels, inside, FORM: tl.constexpr):
    """Each voxel's label in 32 bits, and whether it is not ignored."""
    label = load_voxels(target, sample, voxels, inside)
    if label.dtype != tl.int64:
        label = label.to(tl.int32)
    kept = inside
    for i in tl.static_range(len(FORM.ignored)):
        kept &= label != FORM.ignored[i]
    if label.dtype == tl.int64:
        label = tl.where((label >= 0) & (label < LABEL_LIMIT), label, -1).to(tl.int32)
    return label, kept


@triton.jit
def load_class(inputs, sample, voxels, sizes, FORM: tl.constexpr):
    """Each voxel's class, -1 for none, and whether it counts by its label and a mask per voxel."""
    _logits, target, mask, _class_gamma = inputs
    inside = voxels < sizes[1]
    label, kept = load_label(target, sample, voxels, inside, FORM)
    if FORM.mask == "voxels":
        kept &= load_voxels(mask, sample, voxels, inside) != 0
    return tl.where(kept & (label >= 0) & (label < sizes[0]), label, -1), kept


@triton.jit
def load_share(target, sample, channels, voxels, present, inside, FORM: tl.constexpr):
    """How much of each voxel is in a channel, and which voxels are not ignored."""
    if FORM.has_labels:
        label, kept = load_label(target, sample, voxels, inside, FORM)
        return (channels == label) & present, kept
    else:
        values = load_tile(target, sample, channels, voxels, present & inside)
        if FORM.is_hard:
            return values != 0, inside
        else:
            return values.to(FORM.acc), inside


@triton.jit
def load_softmax(inputs, sample, channels, voxels, sizes, FORM: tl.constexpr):
    """Logits (minus infinity where a channel is not in the softmax), shares, and validity.

    Validity comes in two parts: per voxel as far as the labels and a mask per voxel go, and which
    channels are in the softmax.
    """
    present, inside = channels < sizes[0], voxels < sizes[1]
    here = present & inside
    logits, target, mask, _class_gamma = inputs
    z = load_tile(logits, sample, channels, voxels, here).to(FORM.acc)
    share, kept = load_share(target, sample, channels, voxels, present, inside, FORM)
    allowed = present
    if FORM.mask == "voxels":
        kept &= load_voxels(mask, sample, voxels, inside) != 0
    if FORM.mask == "channels":
        allowed = load_tile(mask, sample, channels, voxels, here) != 0
    return tl.where(allowed, z, float("-inf")), share, kept, allowed


@triton.jit
def is_silenced(share, allowed):
    """Whether the voxel's own class is masked out: then it says nothing about the others."""
    return any_channel((share != 0) & (allowed == 0))


@triton.jit
def zeros_of_channels(dtype: tl.constexpr, FORM: tl.constexpr):
    """A tuple of what sums start from, one for each channel."""
    CHANNELS: tl.constexpr = FORM.channels
    zeros = ()
    for _ in tl.static_range(CHANNELS):
        zeros = zeros + (tl.full([FORM.width], 0, dtype),)
    return zeros


@triton.jit
def fold_voxels(values, FORM: tl.constexpr):
    """One number a voxel, summed over the neighbours that one thread holds."""
    return tl.sum(tl.reshape(values, (FORM.width, FORM.voxels // FORM.width)), 1)


@triton.jit
def count_inside(first_block, num_blocks, num_voxels, FORM: tl.constexpr):
    """How many voxels a program has."""
    first_voxel = first_block * FORM.voxels
    return tl.minimum(tl.maximum(num_voxels - first_voxel, 0), num_blocks * FORM.voxels)


@triton.jit
def store_field(partials, program, counts, field: tl.constexpr, channels, sums):
    """Write a program's sums of one field into `(B, 7, C, programs)`; `counts` are the last two."""
    num_channels, num_programs = counts
    sample, column = program // num_programs, program % num_programs
    at = partials + ((sample * 7 + field) * num_channels + channels) * num_programs + column
    tl.store(at, sums, mask=channels < num_channels)


@triton.jit
def fold(tile, FORM: tl.constexpr):
    """A tile as it is added up from block to block, `FORM.width` columns of sums."""
    folded = tl.reshape(tile, (tile.shape[0], FORM.width, FORM.voxels // FORM.width))
    return tl.sum(folded, 2)


@triton.jit
def store_sums(partials, program, counts, channels, sums):
    """Write a program's tiles of sums, in the order of `ClassSums`."""
    for field in tl.static_range(7):
        values = tl.sum(sums[field], 1, keep_dims=True)
        values = tl.broadcast_to(values, channels.shape)
        store_field(partials, program, counts, field, channels, values)


@triton.jit
def load_upstream(upstream, sample, channels, num_channels):
    """Gradient of the loss by the first five of the sums `(B, 7, C)`, (channels, 1) each."""
    at = upstream + sample * 7 * num_channels + channels
    here = channels < num_channels
    return (
        tl.load(at, mask=here, other=0),
        tl.load(at + num_channels, mask=here, other=0),
        tl.load(at + 2 * num_channels, mask=here, other=0),
        tl.load(at + 3 * num_channels, mask=here, other=0),
        tl.load(at + 4 * num_channels, mask=here, other=0),
    )
