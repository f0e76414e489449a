"""From a caller's arguments to what an op takes: flattened tensors, then plain settings.

Shapes: B batch, C channels, S flattened voxels; BS is one number a voxel, BCS one per channel too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from segfocal import checks
from segfocal.checks import ClassNumbers, IgnoreIndex, Regions, TargetKind
from segfocal.ops.backend_choice import Request, is_recent
from segfocal.ops.elementwise import accumulation_dtype, numbers_on
from segfocal.ops.flat_target import FlatTarget, plain_classes
from segfocal.ops.formula import Formula

_WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}
"""torch compares and reduces only a few of the unsigned dtypes."""


class Settings(NamedTuple):
    """The plain settings that every op takes, in the order of its schema.

    Attributes:
        activation: "softmax" or "sigmoid".
        gamma: Focusing exponent, where there is not one per class.
        label_smoothing: Share of each voxel that the focal fields spread.
        ignored: Labels that do not count.
        classes: For labels, the classes that make up each channel, one list after the other.
        class_counts: How many of `classes` belong to each channel.
        check_target: Whether to check the target's values on a device that must be waited for.
    """

    activation: str
    gamma: float
    label_smoothing: float
    ignored: list[int]
    classes: list[int]
    class_counts: list[int]
    check_target: bool


class FlatArguments(NamedTuple):
    """Checked and flattened arguments.

    Attributes:
        logits: `(B, C, S)`.
        target: `(B, S)` labels or `(B, C, S)`.
        mask: `(B, 1, S)`, `(B, C, S)` or None.
        class_gamma: `(C,)` or None.
        settings: The rest.
    """

    logits: Tensor
    target: Tensor
    mask: Tensor | None
    class_gamma: Tensor | None
    settings: Settings

    @property
    def flat_target(self) -> FlatTarget:
        """The target and its mask, read as the settings tell."""
        settings = self.settings
        return make_target(
            self.target, self.mask, settings.ignored, settings.classes, settings.class_counts
        )


def flatten(
    logits: Tensor,
    target: Tensor,
    *,
    activation: str,
    gamma: ClassNumbers,
    label_smoothing: float,
    ignore_index: IgnoreIndex,
    mask: Tensor | None,
    regions: Regions,
    check_target: bool,
) -> FlatArguments:
    """Check the arguments of `class_sums`, and bring them into the shape its op takes.

    Raises:
        ValueError: As `class_sums` tells, but for the values inside the target.
    """
    logits = checks.plain_tensor("logits", logits)
    target = checks.plain_tensor("target", target)
    mask = checks.optional_plain("mask", mask)
    gamma = checks.class_numbers("gamma", gamma)
    num_channels = checks.check_logits(logits, activation)
    kind = checks.check_target(logits, target)
    ignored = checks.check_ignore_index(ignore_index)
    table = checks.check_regions(regions, activation)
    checks.check_target_options(kind, num_channels, ignored, table)
    checks.check_mask(logits, mask)
    checks.check_gamma(gamma)
    checks.check_class_shape("gamma", gamma, num_channels)
    checks.check_label_smoothing(label_smoothing)
    per_channel = _channel_classes(kind, num_channels, table)
    return FlatArguments(
        logits=_flat_voxels(logits),
        target=_flat_target(target, logits, kind),
        mask=None if mask is None else _flat_voxels(mask),
        class_gamma=_class_gamma(gamma, logits),
        settings=Settings(
            activation=activation,
            gamma=0.0 if isinstance(gamma, Sequence | Tensor) else float(gamma),
            label_smoothing=float(label_smoothing),
            ignored=list(ignored),
            classes=list(chain.from_iterable(per_channel)),
            class_counts=[len(classes) for classes in per_channel],
            check_target=check_target,
        ),
    )


def make_target(
    values: Tensor,
    mask: Tensor | None,
    ignored: Sequence[int],
    classes: Sequence[int],
    class_counts: Sequence[int],
) -> FlatTarget:
    """The target that an op's arguments stand for."""
    ends = accumulate(class_counts, initial=0)
    table = tuple(tuple(classes[start:end]) for start, end in pairwise(ends))
    return FlatTarget(values, mask, table, tuple(ignored))


def make_formula(
    activation: str,
    gamma: float,
    class_gamma: Tensor | None,
    label_smoothing: float,
    overlap: str = "product",
) -> Formula:
    """The formula that an op's arguments stand for."""
    exponent = gamma if class_gamma is None else class_gamma
    return Formula(activation, exponent, label_smoothing, overlap)


def make_request(flat: FlatArguments, overlap: str) -> Request:
    """What flattened arguments ask of a backend."""
    settings, mask = flat.settings, flat.mask
    if flat.target.ndim == 2:
        num_channels = flat.logits.shape[1]
        plain = [1] if num_channels == 1 else list(range(num_channels))
        target = "labels" if settings.classes == plain else "regions"
    else:
        target = "shares" if flat.target.is_floating_point() else "channels"
    return Request(
        device_type=flat.logits.device.type,
        dtype=flat.logits.dtype,
        activation=settings.activation,
        target=target,
        mask="none" if mask is None else "voxels" if mask.shape[1] == 1 else "channels",
        class_gamma=flat.class_gamma is not None,
        label_smoothing=settings.label_smoothing > 0,
        overlap=overlap,
        is_recent=is_recent(flat.logits.device),
    )


def _channel_classes(
    kind: TargetKind, num_channels: int, regions: tuple[tuple[int, ...], ...] | None
) -> tuple[tuple[int, ...], ...]:
    if kind == "channels":
        return ()
    return plain_classes(num_channels) if regions is None else regions


def _class_gamma(gamma: ClassNumbers, logits: Tensor) -> Tensor | None:
    dtype, num_channels = accumulation_dtype(logits), logits.shape[1]
    if isinstance(gamma, Tensor):
        return gamma.to(logits.device, dtype).expand(num_channels)
    if isinstance(gamma, Sequence):
        return numbers_on(logits.device, dtype, gamma)
    return None


def _flat_voxels(tensor: Tensor) -> Tensor:
    return tensor.unsqueeze(-1) if tensor.ndim == 2 else tensor.flatten(2)


def _flat_target(target: Tensor, logits: Tensor, kind: TargetKind) -> Tensor:
    target = target.to(_WIDER.get(target.dtype, target.dtype))
    if kind == "channels":
        return _flat_voxels(target)
    if target.dtype == torch.bool:
        target = target.view(torch.uint8)
    if target.ndim == logits.ndim:
        target = target[:, 0]
    return target.unsqueeze(-1) if target.ndim == 1 else target.flatten(1)
