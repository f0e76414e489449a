"""Checks of what a caller handed to a loss: options, shapes, types. No voxel is read here.

Every message says what was expected, what came and what to do. The values inside a target are
checked by `segfocal.ops.target_values`, where the op runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Literal

import torch
from torch import Tensor

Activation = Literal["softmax", "sigmoid"]
ClassNumbers = float | Sequence[float] | Tensor
IgnoreIndex = int | Sequence[int] | None
Regions = Sequence[Sequence[int]] | None
TargetKind = Literal["labels", "channels"]
Overlap = Literal["product", "minimum"]

LABEL_DTYPES = frozenset(
    {
        torch.bool,
        *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
        *(torch.int8, torch.int16, torch.int32, torch.int64),
    }
)


def check_word(name: str, word: str, allowed: Sequence[str]) -> None:
    """Refuse a word that is not one of `allowed`.

    Raises:
        ValueError: If it is not.
    """
    if word not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}: got {word!r}.")


def plain_tensor(name: str, given: object) -> Tensor:
    """A tensor, without MONAI's `MetaTensor` around it.

    Raises:
        ValueError: If it is no tensor.
    """
    if type(given) is Tensor:
        return given
    unwrap = getattr(given, "as_tensor", None)
    plain = given if unwrap is None else unwrap()
    if not isinstance(plain, Tensor):
        raise ValueError(
            f"{name} must be a torch tensor: got {type(given).__name__}. "
            f"Pass torch.as_tensor({name})."
        )
    return plain


def optional_plain(name: str, given: object) -> Tensor | None:
    """`plain_tensor`, and None for None."""
    return None if given is None else plain_tensor(name, given)


def class_numbers(name: str, given: object) -> ClassNumbers:
    """One number, or one per class, as given: a number, a sequence, an array or a tensor.

    Raises:
        ValueError: If it is something else.
    """
    if isinstance(given, Tensor | float):
        return given
    to_list = getattr(given, "tolist", None)
    values = given if to_list is None else to_list()
    if isinstance(values, Real):
        return float(values)
    listed = values if isinstance(values, Sequence) and not isinstance(values, str) else None
    if listed is not None and all(isinstance(value, Real) for value in listed):
        return tuple(float(value) for value in listed)
    cure = " Pass its weights." if hasattr(given, "weights") else ""
    raise ValueError(f"{name} must be one number or one per class: got {_short_repr(given)}.{cure}")


def optional_class_numbers(name: str, given: object) -> ClassNumbers | None:
    """`class_numbers`, and None for None."""
    return None if given is None else class_numbers(name, given)


def check_logits(logits: Tensor, activation: str) -> int:
    """The number of channels C of logits `(B, C, *S)`.

    Raises:
        ValueError: If the logits are not floating point, have no channel axis, or have a single
            channel under softmax.
    """
    check_word("activation", activation, ("softmax", "sigmoid"))
    shape = tuple(logits.shape)
    if not logits.is_floating_point():
        raise ValueError(
            f"logits must be floating point: got {logits.dtype}. Pass the network's raw output."
        )
    if len(shape) < 2 or shape[1] == 0:
        raise ValueError(
            f"logits must have shape (B, C, *spatial) with C >= 1: got {shape}. "
            f"Add the batch or channel axis."
        )
    if activation == "softmax" and shape[1] == 1:
        raise ValueError(
            f"softmax needs two channels or more: got logits of shape {shape}, where it is 1 "
            f"everywhere. Use sigmoid for a single channel."
        )
    return shape[1]


def check_target(logits: Tensor, target: Tensor) -> TargetKind:
    """Whether the target holds integer labels or one number per channel, from shape and dtype.

    Labels are `(B, *S)` or `(B, 1, *S)`, of any integer dtype or bool. A target of the logits'
    own shape is per channel, except integers on a single channel, which are labels 0 and 1.

    Raises:
        ValueError: If the shape fits neither, labels are floating point, the devices differ, or a
            gradient with respect to the target is asked for.
    """
    full, got = tuple(logits.shape), tuple(target.shape)
    short, single = (full[0], *full[2:]), (full[0], 1, *full[2:])
    if got not in (full, short, single):
        raise ValueError(
            f"target does not fit logits of shape {full}: expected {short} or {single} for integer "
            f"labels, or {full} for one value per channel; got {got}."
        )
    if target.device != logits.device:
        raise ValueError(
            f"target must be on the logits' device: expected {logits.device}, got {target.device}."
        )
    if target.requires_grad:
        raise ValueError(
            "target must not require grad: no gradient flows to it. Pass target.detach()."
        )
    if target.is_complex():
        raise ValueError(f"target must be integer, bool or floating point: got {target.dtype}.")
    integer = target.dtype in LABEL_DTYPES
    if got == full and not (integer and full[1] == 1):
        return "channels"
    if not integer:
        raise ValueError(
            f"a target of shape {got} for logits of shape {full} holds labels, which must be "
            f"integers: got {target.dtype}{_broken_labels(target)}. Pass target.long() if every "
            f"value is a whole number."
        )
    return "labels"


def _broken_labels(target: Tensor) -> str:
    if torch.compiler.is_compiling() or target.device.type == "meta":
        return ""
    broken = target[target != target.round()]
    if broken.numel() == 0:
        return ""
    shown = ", ".join(f"{value:g}" for value in torch.unique(broken)[:5].tolist())
    return f" with {broken.numel()} values that are not whole, such as {shown}"


def check_mask(logits: Tensor, mask: Tensor | None) -> None:
    """Refuse a mask that is not boolean `(B, 1, *S)` or `(B, C, *S)` on the logits' device.

    Raises:
        ValueError: If it is not.
    """
    if mask is None:
        return
    full, got = tuple(logits.shape), tuple(mask.shape)
    single = (full[0], 1, *full[2:])
    if got not in (full, single):
        raise ValueError(
            f"mask must cover every voxel of the logits: expected shape {single} or {full}, "
            f"got {got}."
        )
    if mask.dtype != torch.bool:
        raise ValueError(
            f"mask must be boolean, True where a voxel counts: got {mask.dtype}. Pass mask > 0."
        )
    if mask.device != logits.device:
        raise ValueError(
            f"mask must be on the logits' device: expected {logits.device}, got {mask.device}."
        )


def check_ignore_index(ignore_index: IgnoreIndex) -> tuple[int, ...]:
    """The ignored labels as a tuple; empty for None.

    Raises:
        ValueError: If one of them is not an integer.
    """
    if ignore_index is None:
        return ()
    values = ignore_index if isinstance(ignore_index, Sequence) else (ignore_index,)
    if not all(_is_integer(value) for value in values):
        raise ValueError(f"ignore_index must be an integer label or several: got {ignore_index!r}.")
    return tuple(int(value) for value in values)


def check_regions(regions: Regions, activation: str) -> tuple[tuple[int, ...], ...] | None:
    """The region table as tuples: the class indices that make up each channel.

    Raises:
        ValueError: If regions come with softmax, a region is empty, or a class index is not an
            integer >= 0.
    """
    if regions is None:
        return None
    if activation != "sigmoid":
        raise ValueError(
            f"regions overlap, so each needs its own yes or no: expected sigmoid, got {activation}."
        )
    listed = regions if isinstance(regions, Iterable) else ()
    table = tuple(tuple(region) if isinstance(region, Iterable) else () for region in listed)
    whole = all(_is_integer(label) and label >= 0 for region in table for label in region)
    if not table or not all(table) or not whole:
        raise ValueError(
            f"regions must list the class indices of each channel, such as "
            f"((1, 2, 3), (2, 3), (3,)): got {regions!r}."
        )
    return tuple(tuple(int(label) for label in region) for region in table)


def check_target_options(
    kind: TargetKind,
    num_channels: int,
    ignored: tuple[int, ...],
    regions: tuple[tuple[int, ...], ...] | None,
) -> None:
    """Refuse options that speak of labels where the target has none, or too few channels.

    Raises:
        ValueError: If `ignore_index` or `regions` meets a per-channel target, or the region table
            does not have one entry per channel.
    """
    if kind == "channels" and ignored:
        raise ValueError(
            "ignore_index names a label, but the target has one value per channel and no labels. "
            "Pass integer labels, or mask= with False where a voxel is to be ignored."
        )
    if kind == "channels" and regions is not None:
        raise ValueError(
            "regions are made from labels, but the target already has one value per channel. "
            "Pass integer labels, or leave regions out."
        )
    if regions is not None and len(regions) != num_channels:
        raise ValueError(
            f"regions must have one entry per channel of the logits: expected {num_channels}, "
            f"got {len(regions)}."
        )


def check_background(include_background: bool, num_channels: int, *, has_regions: bool) -> None:
    """Refuse to leave out a background channel that does not exist.

    Raises:
        ValueError: With `include_background=False`, if there is one channel only or the channels
            are regions.
    """
    if include_background:
        return
    if has_regions:
        raise ValueError(
            "include_background=False would drop the first region: regions have no background "
            "channel. Leave it at True."
        )
    if num_channels == 1:
        raise ValueError(
            "include_background=False would leave no channel: the logits have one only. "
            "Leave it at True."
        )


def check_number(name: str, value: object) -> None:
    """Refuse what is not a single number.

    Raises:
        ValueError: If it is something else.
    """
    if not isinstance(value, Real) and not (isinstance(value, Tensor) and value.ndim == 0):
        raise ValueError(f"{name} must be a number: got {_short_repr(value)}.")


def check_non_negative(name: str, value: float) -> None:
    """Refuse a number that is negative, infinite or NaN.

    Raises:
        ValueError: If it is.
    """
    check_number(name, value)
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a finite number >= 0: got {value}.")


def check_voxel_weight(logits: Tensor, voxel_weight: Tensor | None) -> None:
    """Refuse a weight map that is not floating point, `(B, 1, *S)` or `(B, C, *S)`.

    Its values are not read.

    Raises:
        ValueError: If it is not, or a gradient with respect to it is asked for.
    """
    if voxel_weight is None:
        return
    full, got = tuple(logits.shape), tuple(voxel_weight.shape)
    single = (full[0], 1, *full[2:])
    if got not in (full, single):
        raise ValueError(
            f"voxel_weight must cover every voxel of the logits: expected shape {single} or "
            f"{full}, got {got}."
        )
    if not voxel_weight.is_floating_point():
        raise ValueError(
            f"voxel_weight must be floating point: got {voxel_weight.dtype}. Pass mask= for voxels "
            f"that do not count."
        )
    if voxel_weight.device != logits.device:
        raise ValueError(
            f"voxel_weight must be on the logits' device: expected {logits.device}, got "
            f"{voxel_weight.device}."
        )
    if voxel_weight.requires_grad:
        raise ValueError(
            "voxel_weight must not require grad: no gradient flows to it. "
            "Pass voxel_weight.detach()."
        )


def check_gamma(gamma: ClassNumbers) -> None:
    """Refuse a focusing exponent that is negative, infinite or NaN, or is to be learned.

    Raises:
        ValueError: If it is.
    """
    if isinstance(gamma, Tensor) and gamma.requires_grad:
        raise ValueError(
            "gamma must not require grad: no gradient flows to it. Pass gamma.detach(), and move "
            "it with LossSchedule."
        )
    _check_values("gamma", gamma, maximum=math.inf)


def check_label_smoothing(label_smoothing: float) -> None:
    """Refuse a share of smoothing outside [0, 1).

    Raises:
        ValueError: If it is, or is NaN.
    """
    check_number("label_smoothing", label_smoothing)
    if not 0 <= label_smoothing < 1:
        raise ValueError(
            f"label_smoothing must be in [0, 1), the share of each voxel that is spread: "
            f"got {label_smoothing:g}. Pass a number such as 0.1."
        )


def check_weight(weight: ClassNumbers | None) -> None:
    """Refuse a class weight that is negative, infinite or NaN.

    Raises:
        ValueError: If it is.
    """
    if weight is not None:
        _check_values("weight", weight, maximum=math.inf)


def check_alpha(alpha: ClassNumbers | None, activation: str) -> None:
    """Refuse an alpha outside its range.

    One number, and every number under sigmoid, shares a weight of 1 between two sides and lies in
    [0, 1]. A softmax sequence has a weight per class, any number >= 0.

    Raises:
        ValueError: If it is outside, infinite or NaN.
    """
    if alpha is None:
        return
    per_class = alpha.ndim > 0 if isinstance(alpha, Tensor) else isinstance(alpha, Sequence)
    shared = activation == "sigmoid" or not per_class
    _check_values("alpha", alpha, maximum=1.0 if shared else math.inf)


def check_class_shape(
    name: str, numbers: ClassNumbers, num_channels: int, *, include_background: bool = True
) -> None:
    """Refuse a sequence that has not one number per channel.

    Without the background, a sequence may leave its number out.

    Raises:
        ValueError: If the length is neither.
    """
    if isinstance(numbers, Tensor):
        got = tuple(numbers.shape)
    elif isinstance(numbers, Sequence):
        got = (len(numbers),)
    else:
        return
    if got in ((), (num_channels,)):
        return
    expected = f"expected shape ({num_channels},)"
    if not include_background:
        if got == (num_channels - 1,):
            return
        expected += f", or ({num_channels - 1},) without the background"
    hint = " Did you drop the background class?" if got == (num_channels - 1,) else ""
    raise ValueError(f"{name} must have one number per class: {expected}, got {got}.{hint}")


def _is_integer(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _check_values(name: str, numbers: ClassNumbers, *, maximum: float) -> None:
    if isinstance(numbers, Tensor):
        if torch.compiler.is_compiling() or numbers.device.type != "cpu":
            return  # reading a value would break the graph, or wait for the device
        values = numbers.detach().flatten().tolist()
    else:
        values = list(numbers) if isinstance(numbers, Sequence) else [numbers]
    wrong = [value for value in values if not (0 <= value <= maximum and value < math.inf)]
    if wrong:
        allowed = ">= 0" if math.isinf(maximum) else f"in [0, {maximum:g}]"
        raise ValueError(f"{name} must be finite and {allowed}: got {_numbers(wrong)}.")


def _short_repr(value: object) -> str:
    """The value, or its type where that would fill the line."""
    shown = repr(value)
    return shown if len(shown) <= 40 else type(value).__name__


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
