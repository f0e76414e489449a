"""Sums and losses of each lesion, so that a small one counts as much as a large one.

Shapes: B batch, C channels, N lesions, S flattened voxels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from segfocal import checks
from segfocal.checks import Activation, ClassNumbers, IgnoreIndex, Overlap, Regions
from segfocal.ops.class_sums import ClassSums
from segfocal.ops.differentiable import is_transformed
from segfocal.ops.flat_arguments import FlatArguments, flatten
from segfocal.ops.flat_target import FlatTarget, Validity, membership, validity
from segfocal.ops.voxel_focal import voxel_focal

Scope = Literal["blob", "region"]

SCOPES = ("blob", "region")

Sides = tuple[Tensor | None, Tensor | None]


class LesionSums(NamedTuple):
    """The sums of `class_sums`, for each lesion.

    Attributes:
        sums: `(B, N, C)` each.
        present: True where the lesion has a valid voxel in this patch: `(B, N)`, or `(B, N, C)`
            where each channel has lesions of its own.
    """

    sums: ClassSums
    present: Tensor


def lesion_sums(
    logits: Tensor,
    target: Tensor,
    lesions: Tensor,
    *,
    scope: Scope,
    activation: Activation = "softmax",
    gamma: ClassNumbers = 2.0,
    label_smoothing: float = 0.0,
    overlap: Overlap = "product",
    with_focal: bool = True,
    include_background: bool = True,
    max_lesions: int = 1024,
    ignore_index: IgnoreIndex = None,
    mask: Tensor | None = None,
    regions: Regions = None,
    check_target: bool = False,
) -> LesionSums:
    """Sums of focal loss, probability and positives on the voxels of each lesion.

    One pass over the voxels: 200 lesions take the time of one (benchmarks/lesionwise.py). Lesion n
    has what `class_sums` gives with a mask that lets in

    - for `scope="blob"` the lesion and all voxels of no lesion: `lesions` is a map of connected
      components, and the other components are left out;
    - for `scope="region"` the voxels that are numbered n: `lesions` is a map of regions, such as
      the Voronoi regions of the components, each with its lesion and the background around it.

    A lesion counts as `present` if a valid voxel numbered n is foreground: one that a crop has cut
    counts with what is left of it, one whose region alone reaches into the patch does not count.
    Foreground is every channel but the background: channel 0 under softmax, and under sigmoid
    channel 0 of integer labels without regions, or of channels with `include_background=False`. A
    single channel is foreground.

    Memory: autograd keeps p `(B, C, S)` and an int64 a voxel. Forward and backward together took
    12 times the logits' size at their peak (three channels, softmax, CPU; 4 times without focal),
    where `class_sums` with its reference backend took 7. Sums are accumulated in float64. On a CUDA
    device they are added in no fixed order, unless `torch.use_deterministic_algorithms(True)` is
    set.

    Args:
        logits: `(B, C, *S)`, floating point.
        target: As for `class_sums`.
        lesions: Integer map, 0 for no lesion (no region), 1 to `max_lesions` otherwise. `(B, 1,
            *S)`: lesions of the foreground as a whole, each with the sums of all channels. `(B, C,
            *S)`: each channel has its own.
        scope: "blob" or "region".
        activation: "softmax" or "sigmoid".
        gamma: Focusing exponent >= 0, one number or one per channel.
        label_smoothing: Share of each voxel that the focal sums spread, as for `class_sums`.
        overlap: What `tp` sums, as for `class_sums`.
        with_focal: False leaves the focal sums 0 and saves their time.
        include_background: Whether channel 0 of a target `(B, C, *S)` is a foreground under
            sigmoid.
        max_lesions: Highest number in the map: N. On the CPU a higher one is an error; elsewhere,
            unless `check_target` is set, in a compiled graph and under a transform of `torch.func`
            it counts as the highest.
        ignore_index: Label or labels whose voxels do not count.
        mask: Bool, True where a voxel counts, `(B, 1, *S)` or `(B, C, *S)`.
        regions: Class indices that make up each channel.
        check_target: Check the values of target and map on every device, not on the CPU alone.

    Returns:
        The sums and which lesions are there, differentiable with respect to the logits.

    Raises:
        ValueError: As `class_sums`, or if the map does not fit.

    Reference:
        Kofler et al., blob loss, 2022, arXiv:2205.08209.

    Example:
        >>> labels = torch.tensor([[1, 1, 0, 0, 1]])
        >>> components = torch.tensor([[[1, 1, 0, 0, 2]]])
        >>> found = lesion_sums(
        ...     torch.zeros(1, 2, 5), labels, components, scope="blob", max_lesions=3
        ... )
        >>> found.sums.t[0, :, 1].tolist(), found.sums.n_valid[0, :, 1].tolist()
        ([2.0, 1.0, 0.0], [4.0, 3.0, 2.0])
        >>> found.present.tolist()
        [[True, True, False]]
    """
    checks.check_word("scope", scope, SCOPES)
    checks.check_word("overlap", overlap, ("product", "minimum"))
    flat = flatten(
        logits,
        target,
        activation=activation,
        gamma=gamma,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        mask=mask,
        regions=regions,
        check_target=check_target,
    )
    flat_target = flat.flat_target
    valid = validity(flat_target, exclusive=activation == "softmax")
    lesions = checks.plain_tensor("lesions", lesions)
    lesion_map = _numbers(lesions, logits, max_lesions, check=check_target)
    numbers = _without_invalid(lesion_map, valid, logits.shape[1], max_lesions)
    focal: Iterable[Sides] = repeat((None, None), logits.shape[1])
    if with_focal:
        focal = _focal_sides(
            logits,
            target,
            flat_target,
            activation=activation,
            gamma=gamma,
            label_smoothing=label_smoothing,
            ignore_index=ignore_index,
            mask=mask,
            regions=regions,
            check_target=check_target,
        )
    probs = _probabilities(flat, valid).unbind(1)
    channels = [
        _sums_of_channel(p, membership(flat_target, c), sides, numbers[c], max_lesions, overlap)
        for c, (p, sides) in enumerate(zip(probs, focal, strict=True))
    ]
    each = ClassSums(*torch.stack(channels, dim=-1).unbind(1))
    has_background = activation == "softmax" or (
        regions is None and (flat_target.is_labels or not include_background)
    )
    present = each.t[:, 1:] > 0
    if has_background and logits.shape[1] > 1:
        present = present & (torch.arange(logits.shape[1], device=present.device) > 0)
    if lesions.shape[1] == 1:
        present = present.any(-1)
    own = ClassSums(*(field[:, 1:] for field in each))
    if scope == "blob":
        own = ClassSums(*(field[:, 1:] + field[:, :1] for field in each))
    return LesionSums(own._replace(t=own.t.detach(), n_valid=own.n_valid.detach()), present)


def lesionwise_loss(lesions: LesionSums, loss_of_sums: Callable[[ClassSums], Tensor]) -> Tensor:
    """Mean over the lesions of a loss that is computed from sums.

    The mean of a sample's lesions, then the mean over the samples that have any. Where none has one
    the loss is 0, and so is its gradient.

    Args:
        lesions: The sums of each lesion.
        loss_of_sums: A loss from `ClassSums` of one sample, `(1, C)` each, such as
            `dice_of_sums`. Where each channel has its own lesions it gets the sums of one
            channel, and zeros for the others, which stand for channels without a valid voxel.

    Returns:
        A scalar.
    """
    fields, present = tuple(lesions.sums), lesions.present
    if present.numel() == 0:
        return lesions.sums.tp.sum()  # an empty batch: 0, and backward runs
    if present.ndim == 3:
        fields = tuple(torch.diag_embed(field) for field in fields)
    num_channels = fields[0].shape[-1]
    rows = tuple(field.reshape(-1, 1, num_channels) for field in fields)
    losses = torch.vmap(lambda *row: loss_of_sums(ClassSums(*row)))(*rows)
    losses = torch.where(present, losses.view(present.shape), 0).flatten(1)
    counts = present.flatten(1).sum(1)
    of_sample = losses.sum(1) / counts.clamp(min=1)
    return of_sample.sum() / (counts > 0).sum().clamp(min=1)


def _numbers(lesions: Tensor, logits: Tensor, max_lesions: int, *, check: bool) -> Tensor:
    """The map as int64 `(B, 1, S)` or `(B, C, S)`, its shape, type and values checked."""
    full, got = tuple(logits.shape), tuple(lesions.shape)
    single = (full[0], 1, *full[2:])
    if got not in (full, single):
        raise ValueError(
            f"the lesion map must cover every voxel of the logits: expected shape {single} or "
            f"{full}, got {got}."
        )
    if lesions.dtype not in checks.LABEL_DTYPES or lesions.dtype == torch.bool:
        raise ValueError(
            f"the lesion map must number the lesions with integers: got {lesions.dtype}. Pass "
            f"lesions.long() if every value is a whole number."
        )
    if max_lesions < 1:
        raise ValueError(f"max_lesions must be 1 or more: got {max_lesions}.")
    numbers = lesions.long().unsqueeze(-1).flatten(2)
    on_cpu = numbers.device.type == "cpu" and not torch.compiler.is_compiling()
    if (check or on_cpu) and numbers.numel() and not is_transformed():
        low, high = (int(end) for end in torch.aminmax(numbers))
        if low < 0 or high > max_lesions:
            raise ValueError(
                f"the lesion map must hold 0 to max_lesions: expected at most {max_lesions}, got "
                f"{low} to {high}. Set max_lesions to the most lesions that a case has."
            )
    return numbers.clamp(0, max_lesions)


def _sum_dtype(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)


def _without_invalid(
    numbers: Tensor, valid: Validity, num_channels: int, max_lesions: int
) -> list[Tensor]:
    """The numbers for each channel `(B, S)`; a voxel that does not count has one above all."""
    nowhere = max_lesions + 1
    if valid.voxel is not None:
        numbers = torch.where(valid.voxel.unsqueeze(1), numbers, nowhere)
    if valid.mask is not None:
        numbers = torch.where(valid.mask, numbers, nowhere)
    each = numbers.unbind(1)
    return list(each) if len(each) > 1 else list(each) * num_channels


def _probabilities(flat: FlatArguments, valid: Validity) -> Tensor:
    """`p (B, C, S)` of every valid voxel, finite at the others."""
    logits = flat.logits.to(_sum_dtype(flat.logits))
    if flat.settings.activation == "sigmoid":
        for inside in (valid.mask, None if valid.voxel is None else valid.voxel.unsqueeze(1)):
            logits = logits if inside is None else torch.where(inside, logits, 0)
        return logits.sigmoid()
    if valid.mask is not None:
        logits = logits.masked_fill(~valid.mask, -torch.inf)
    if valid.voxel is not None:
        logits = torch.where(valid.voxel.unsqueeze(1), logits, 0)
    return logits.softmax(1)


def _focal_sides(
    logits: Tensor,
    target: Tensor,
    flat_target: FlatTarget,
    *,
    activation: Activation,
    gamma: ClassNumbers,
    label_smoothing: float,
    ignore_index: IgnoreIndex,
    mask: Tensor | None,
    regions: Regions,
    check_target: bool,
) -> Iterator[Sides]:
    """For each channel the focal loss `(B, S)` of its positives and of its negatives."""
    # not of the logits: under vmap these would be as many as they are
    ones = torch.ones(logits.shape[1], dtype=_sum_dtype(logits), device=logits.device)

    def side(positive: float, negative: float) -> tuple[Tensor, ...]:
        voxels = voxel_focal(
            logits,
            target,
            torch.stack([positive * ones, negative * ones]),
            activation=activation,
            gamma=gamma,
            label_smoothing=label_smoothing,
            ignore_index=ignore_index,
            mask=mask,
            regions=regions,
            check_target=check_target,
        )
        return voxels.unsqueeze(-1).flatten(2).unbind(1)

    if activation == "softmax":
        yield from zip(side(1, 0), repeat(None))
    elif label_smoothing > 0 or not flat_target.is_hard:
        yield from zip(side(1, 0), side(0, 1), strict=True)
    else:
        for channel, loss in enumerate(side(1, 1)):
            belongs = membership(flat_target, channel)
            yield torch.where(belongs, loss, 0), torch.where(belongs, 0, loss)


def _sums_of_channel(
    p: Tensor, belongs: Tensor, sides: Sides, number: Tensor, max_lesions: int, overlap: Overlap
) -> Tensor:
    """The fields of `ClassSums` for a channel and every number of the map, `(B, 7, N + 1)`."""
    is_hard = not belongs.is_floating_point()
    nowhere = number > max_lesions
    share = belongs.to(p.dtype) if is_hard else torch.where(nowhere, 0, belongs.to(p.dtype))
    if is_hard:
        tp = torch.where(belongs != 0, p, 0)
    else:
        tp = p * share if overlap == "product" else torch.minimum(p, share)
    fields = (*sides, tp, p, p.square(), share, torch.ones_like(p))
    empty = p.new_zeros(p.shape[0], max_lesions + 1)
    sums = [
        empty if field is None else _sum_by_number(field, number, max_lesions) for field in fields
    ]
    return torch.stack(sums, dim=1)


def _sum_by_number(values: Tensor, number: Tensor, max_lesions: int) -> Tensor:
    """Sums `(B, N + 1)` of the voxels that bear each number up to N, from `(B, S)`.

    In float64, because these sums are added one by one: in float32 the two million voxels of a
    background would lose the third digit.
    """
    wide = values if values.device.type == "mps" else values.double()
    sums = wide.new_zeros(values.shape[0], max_lesions + 2).scatter_add(1, number, wide)
    return sums[:, :-1].to(values.dtype)
