"""Logits and target of one call: as the op sums over them, and spelled out as MONAI does.

A loss asks for the op's sums first. Where its number is not algebra on them, or MONAI would raise
an error, there are none, and the loss takes the spelled-out target instead, in MONAI's order of
operations, which raises the same errors.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from segfocal.checks import Activation, plain_tensor
from segfocal.ops.class_sums import ClassSums, class_sums

_LABEL_DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class _HardTarget(NamedTuple):
    """What the op takes, of a target where every voxel is in a class or out of it."""

    target: Tensor
    mask: Tensor | None
    ignore_index: int | None


class Pair:
    """Logits and target of one call. The op's pass over them is made once for each activation.

    Args:
        logits: `(B, C, *S)`.
        target: `(B, C, *S)`, or `(B, 1, *S)` labels.
        to_onehot: Whether a target of several classes holds labels.
        ignore_index: MONAI's: a label; on a target with several channels, a channel, or any other
            number for the voxels that are 0 in all of them.
        gamma: Exponent of the focal sums.

    Attributes:
        logits: As a plain tensor.
        target: As a plain tensor, as it came.
        num_classes: C.
    """

    def __init__(
        self,
        logits: Tensor,
        target: Tensor,
        *,
        to_onehot: bool,
        ignore_index: int | None = None,
        gamma: float = 0.0,
    ) -> None:
        self.logits = plain_tensor("logits", logits)
        self.target = plain_tensor("target", target)
        self.num_classes = self.logits.shape[1]
        self.has_labels = to_onehot and self.num_classes > 1
        self._ignore_index = ignore_index
        self._gamma = gamma if is_usual_gamma(gamma) else 0.0
        self._taken: dict[str, ClassSums] = {}
        self._channels: Tensor | None = None
        self._hard: _HardTarget | None = None

    @property
    def channels(self) -> Tensor:
        """The target as MONAI would compare it to the logits: one-hot where it holds labels.

        Raises:
            AssertionError: If labels come with several channels.
            RuntimeError: If a label is out of range.
        """
        if not self.has_labels:
            return self.target
        if self._channels is None:
            labels, ignored = self.target, self._ignore_index
            if ignored is not None and not 0 <= ignored < self.num_classes:
                labels = torch.where(labels == ignored, torch.zeros_like(labels), labels)
            self._channels = one_hot(labels, self.num_classes)
        return self._channels

    @property
    def mask(self) -> Tensor | None:
        """MONAI's mask, 1 where a voxel counts; None where all do."""
        return ignore_mask(self.target, self._ignore_index)

    @property
    def target_dtype(self) -> torch.dtype:
        """The dtype of `channels`."""
        return torch.float32 if self.has_labels else self.target.dtype

    @property
    def ignores(self) -> bool:
        """Whether there is an `ignore_index`."""
        return self._ignore_index is not None

    @property
    def mask_dtype(self) -> torch.dtype:
        """The dtype of `mask`; float32 without one."""
        ignored, dtype = self._ignore_index, self.target.dtype
        is_channel = ignored is not None and not self.has_labels and 0 <= ignored < self.num_classes
        is_of_target = is_channel and self.num_classes > 1 and dtype.is_floating_point
        return dtype if is_of_target else torch.float32

    def sums(self, activation: Activation) -> ClassSums | None:
        """The op's sums, or None where they are not what MONAI would sum."""
        if activation not in self._taken:
            if self._hard is None:
                self._hard = self._hard_target()
            hard = self._hard
            if hard is None or (activation == "softmax" and not self._excludes(hard)):
                return None
            self._taken[activation] = class_sums(
                self.logits,
                hard.target,
                activation=activation,
                gamma=self._gamma,
                ignore_index=hard.ignore_index,
                mask=hard.mask,
            )
        return self._taken[activation]

    def _hard_target(self) -> _HardTarget | None:
        if not self._is_regular():
            return None
        return self._hard_labels() if self.has_labels else self._hard_channels()

    def _excludes(self, hard: _HardTarget) -> bool:
        """Whether each voxel that counts is in one of several classes."""
        if self.has_labels or self.num_classes == 1:
            return self.num_classes > 1
        once = hard.target.sum(1, keepdim=True) == 1
        return bool((once if hard.mask is None else once | ~hard.mask).all())

    def _is_regular(self) -> bool:
        logits, target, ignored = self.logits, self.target, self._ignore_index
        channels = 1 if self.has_labels else self.num_classes
        return (
            logits.is_floating_point()
            and logits.ndim > 2
            and logits.numel() > 0
            and target.shape == (logits.shape[0], channels, *logits.shape[2:])
            and target.device == logits.device
            and target.device.type != "meta"
            and not target.requires_grad
            and not target.is_complex()
            and (ignored is None or type(ignored) is int)
        )

    def _hard_labels(self) -> _HardTarget | None:
        labels, is_compiling = self.target, torch.compiler.is_compiling()
        if labels.dtype not in _LABEL_DTYPES:
            labels = labels.long()
            # MONAI looks for ignore_index before it truncates
            is_whole = not self.ignores or (
                not is_compiling and bool((labels == self.target).all())
            )
            if not is_whole:
                return None
        if labels.device.type == "cpu" and not is_compiling and not self._are_classes(labels):
            return None
        return _HardTarget(labels, None, self._ignore_index)

    def _are_classes(self, labels: Tensor) -> bool:
        smallest, largest = (int(end) for end in torch.aminmax(labels))
        if smallest >= 0 and largest < self.num_classes:
            return True
        wide = labels.long()
        wrong = (wide < 0) | (wide >= self.num_classes)
        return self.ignores and not bool((wrong & (wide != self._ignore_index)).any())

    def _hard_channels(self) -> _HardTarget | None:
        if torch.compiler.is_compiling():
            return None  # whether every value is 0 or 1 cannot be asked in a graph
        weight = self.mask
        mask = None if weight is None else weight != 0
        is_hard = (self.target == 0) | (self.target == 1)
        if mask is not None:
            is_hard |= ~mask
        return _HardTarget(self.target.bool(), mask, None) if bool(is_hard.all()) else None


def is_usual_gamma(gamma: object) -> bool:
    """Whether gamma is one finite number >= 0, as the op takes it."""
    return isinstance(gamma, int | float) and math.isfinite(gamma) and gamma >= 0


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Labels `(B, 1, *S)`, truncated to whole numbers, as float32 `(B, C, *S)`.

    Raises:
        AssertionError: If there is more than one channel.
        RuntimeError: If a label is not in `[0, C)`.
    """
    if labels.ndim < 2:
        labels = labels.reshape(*labels.shape, *(1,) * (2 - labels.ndim))
    if labels.shape[1] != 1:
        raise AssertionError("labels should have a channel with length equal to one.")
    shape = (labels.shape[0], num_classes, *labels.shape[2:])
    return torch.zeros(shape, device=labels.device).scatter_(1, labels.long(), 1)


def ignore_mask(target: Tensor, ignore_index: int | None) -> Tensor | None:
    """1 where a voxel counts, `(B, 1, *S)`; None without an `ignore_index`.

    Of a target with several channels, `ignore_index` takes out the voxels of that channel; a number
    that is no channel takes out the voxels that are 0 in all of them.
    """
    if ignore_index is None:
        return None
    num_channels = target.shape[1]
    if num_channels == 1:
        return (target != ignore_index).float()
    if 0 <= ignore_index < num_channels:
        return 1.0 - target[:, ignore_index : ignore_index + 1]
    return (target.sum(dim=1, keepdim=True) > 0).float()
