"""One loss at every level of a deeply supervised network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from segfocal import checks
from segfocal.checks import IgnoreIndex, optional_plain, plain_tensor
from segfocal.functional.downsample import downsample_target

WeightMode = Literal["same", "exp", "two"]

WEIGHT_MODES = ("same", "exp", "two")


class DeepSupervisionLoss(nn.Module):
    """Mean of a loss over the levels of a network, each against a target of its own size.

    The target of a smaller level is made by `segfocal.functional.downsample_target`: a lesion of
    one voxel is still there three levels down, and ignored and masked voxels stay out. The weights
    of the levels sum to 1, so that the loss of a single output (validation) has the same scale.

    A lesion-wise loss needs its map at full size: add it for the first level alone, as
    examples/02_small_lesions.py does. So does a `voxel_weight`, which no level takes here.

    What `forward` takes for its input:

    - A list or tuple, highest resolution first, each level at its own size or at full size
      (MONAI's SegResNetDS, nnU-Net). The first level must have the target's size.
    - One tensor `(B, C, *S)`: a single level (any network in validation).
    - One tensor `(B, levels, C, *S)`, all at full size (MONAI's DynUNet in training). Without
      `spatial_dims` a tensor of six axes is such a stack, and one of four or fewer is not. With
      five axes the target's shape decides between a volume and a stack of 2-d levels. Where both
      fit, an integer target holds the labels of a volume, without a channel axis; any other is
      refused.

    Args:
        loss: Any loss of `(input, target)`, or `(input, target, mask)` where a mask is passed:
            segfocal's, torch's, MONAI's. It is called once a level.
        weight_mode: Weight of each level, before they are normalised: "same" (1, 1, 1, ...), "exp"
            (1, 1/2, 1/4, 1/8 and 1/16 from there on) or "two" (1, 1/2, 1/2, ...).
        weights: A weight >= 0 for each level in place of `weight_mode`. A level of weight 0 is not
            computed.
        spatial_dims: Number of spatial axes, 1 to 3, where shapes alone cannot tell.
        ignore_index: Labels to leave out when a target is downsampled; None takes the loss's own
            `ignore_index`, where it has one.
        exclusive: Whether channels of a target `(B, C, *S)` exclude each other; None asks the loss,
            as far as it has segfocal's `activation`.

    Raises:
        ValueError: At construction, if an argument does not fit. At call, if levels and weights do
            not match, a level is larger than the one before it, the input's meaning is ambiguous,
            or nobody says whether a per-channel target's channels exclude each other.

    Reference:
        Lee et al., Deeply-Supervised Nets, 2015, arXiv:1409.5185. The names are those of MONAI's
        `DeepSupervisionLoss`, whose weights do not sum to 1, and which takes the nearest voxel.

    Example:
        >>> import torch
        >>> from segfocal.losses import DiceFocalLoss
        >>> loss = DeepSupervisionLoss(DiceFocalLoss(softmax=True, ignore_index=255))
        >>> labels = torch.zeros(1, 8, 8, 8, dtype=torch.uint8)
        >>> labels[0, 3, 5, 5] = 1
        >>> levels = [torch.zeros(1, 2, size, size, size) for size in (8, 4, 2)]
        >>> [round(weight, 3) for weight in loss.level_weights(3)]
        [0.571, 0.286, 0.143]
        >>> loss(levels, labels).shape
        torch.Size([])
    """

    def __init__(
        self,
        loss: Callable[..., Tensor],
        weight_mode: WeightMode = "exp",
        weights: Sequence[float] | None = None,
        *,
        spatial_dims: int | None = None,
        ignore_index: IgnoreIndex = None,
        exclusive: bool | None = None,
    ) -> None:
        super().__init__()
        checks.check_word("weight_mode", weight_mode, WEIGHT_MODES)
        if spatial_dims not in (None, 1, 2, 3):
            raise ValueError(f"spatial_dims must be 1, 2 or 3: got {spatial_dims}.")
        self.loss = loss
        self.weight_mode = weight_mode
        self.weights = None if weights is None else _checked(weights)
        self.spatial_dims = spatial_dims
        self.ignore_index = checks.check_ignore_index(
            getattr(loss, "ignore_index", None) if ignore_index is None else ignore_index
        )
        self.exclusive = _exclusive(loss) if exclusive is None else exclusive

    def extra_repr(self) -> str:
        """The plain settings, for `print(loss)`."""
        return (
            f"weight_mode={self.weight_mode!r}, weights={self.weights}, "
            f"spatial_dims={self.spatial_dims}, ignore_index={self.ignore_index}, "
            f"exclusive={self.exclusive}"
        )

    def forward(
        self,
        input: Tensor | Sequence[Tensor],  # noqa: A002 - MONAI's name
        target: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The weighted mean over the levels.

        Args:
            input: Logits of every level, as the class tells.
            target: Labels `(B, *S)` or `(B, 1, *S)`, or `(B, C, *S)`, at full size.
            mask: Bool, True where a voxel counts, `(B, 1, *S)` or `(B, C, *S)`, at full size.
        """
        target, mask = plain_tensor("target", target), optional_plain("mask", mask)
        levels = self._levels(input, target)
        weights = self.level_weights(len(levels))
        targets = self._targets(levels, target, mask)
        losses = [
            weight
            * (self.loss(level, *of_level[:1]) if mask is None else self.loss(level, *of_level))
            for weight, level, of_level in zip(weights, levels, targets, strict=True)
            if weight > 0
        ]
        if any(loss.shape != losses[0].shape for loss in losses):
            raise ValueError(
                f"the loss must give one number a level, got shapes "
                f"{', '.join(str(tuple(loss.shape)) for loss in losses)}. "
                f"Set its reduction to 'mean'."
            )
        total = losses[0]
        for loss in losses[1:]:
            total = total + loss
        return total

    def level_weights(self, num_levels: int) -> list[float]:
        """Weight of each level, highest resolution first; they sum to 1.

        Raises:
            ValueError: If weights were given, but not one for each level.
        """
        if num_levels == 1:
            return [1.0]
        if self.weights is not None:
            if len(self.weights) != num_levels:
                raise ValueError(
                    f"weights must have one number per level: expected {num_levels}, "
                    f"got {len(self.weights)}."
                )
            raw = list(self.weights)
        elif self.weight_mode == "exp":
            raw = [max(0.5**level, 0.0625) for level in range(num_levels)]
        else:
            raw = [1.0] + [1.0 if self.weight_mode == "same" else 0.5] * (num_levels - 1)
        return [weight / sum(raw) for weight in raw]

    def _levels(self, outputs: Tensor | Sequence[Tensor], target: Tensor) -> list[Tensor]:
        if not isinstance(outputs, list | tuple):
            logits = plain_tensor("input", outputs)
            return list(logits.unbind(1)) if self._is_stack(logits, target) else [logits]
        levels = [plain_tensor("input", level) for level in outputs]
        if not levels:
            raise ValueError("input must have one level or more: got an empty list.")
        for coarser, finer in zip(levels[1:], levels, strict=False):
            if any(a > b for a, b in zip(coarser.shape[2:], finer.shape[2:], strict=False)):
                raise ValueError(
                    f"levels must come highest resolution first: got {tuple(finer.shape[2:])} "
                    f"before {tuple(coarser.shape[2:])}. Reverse the list."
                )
        return levels

    def _is_stack(self, logits: Tensor, target: Tensor) -> bool:
        """Whether the second axis holds levels."""
        shape = tuple(logits.shape)
        if self.spatial_dims is not None:
            if len(shape) - self.spatial_dims not in (2, 3):
                raise ValueError(
                    f"input must be (B, C, *S) or (B, levels, C, *S) with {self.spatial_dims} "
                    f"spatial axes: got shape {shape}."
                )
            return len(shape) - self.spatial_dims == 3
        if len(shape) != 5:
            return len(shape) == 6
        batch, first, second, *plane = shape
        got = tuple(target.shape)
        is_stack = got in ((batch, *plane), (batch, 1, *plane), (batch, second, *plane))
        is_volume = got == (batch, second, *plane)
        if is_stack and is_volume:
            if target.dtype in checks.LABEL_DTYPES - {torch.bool}:
                return False
            raise ValueError(
                f"an input of shape {shape} with a target of shape {got} is a volume of {first} "
                f"channels with labels, or a stack of {first} 2-d levels with {second} channels. "
                f"Set spatial_dims to 3 or 2, or give labels a channel axis."
            )
        return is_stack

    def _targets(
        self, levels: Sequence[Tensor], target: Tensor, mask: Tensor | None
    ) -> list[tuple[Tensor, Tensor | None]]:
        """A target for each level: the given one wherever it has the first level's size."""
        full = tuple(levels[0].shape[2:])
        sizes = {tuple(level.shape[2:]) for level in levels} - {full}
        ordered = sorted(sizes, reverse=True)
        made: dict[tuple[int, ...], tuple[Tensor, Tensor | None]] = {full: (target, mask)}
        if ordered:
            num_channels = levels[0].shape[1]
            coarse = downsample_target(
                target,
                ordered,
                num_channels=num_channels,
                exclusive=self._answer(target, levels[0]),
                ignore_index=self.ignore_index,
                regions=getattr(self.loss, "regions", None),
                mask=mask,
            )
            made.update(zip(ordered, coarse, strict=True))
        return [made[tuple(level.shape[2:])] for level in levels]

    def _answer(self, target: Tensor, logits: Tensor) -> bool:
        """Whether a per-channel target's channels exclude each other. Labels need no answer."""
        if self.exclusive is not None:
            return self.exclusive
        num_channels = logits.shape[1]
        per_channel = target.ndim == logits.ndim and target.shape[1] == num_channels
        if num_channels > 1 and per_channel:
            raise ValueError(
                f"the loss does not say whether the {num_channels} channels of the target exclude "
                f"each other: set exclusive=True (one-hot classes) or exclusive=False (regions)."
            )
        return False


def _exclusive(loss: Callable[..., Tensor]) -> bool | None:
    activation = getattr(loss, "activation", None)
    return None if activation is None else activation == "softmax"


def _checked(weights: object) -> tuple[float, ...]:
    plain = weights.tolist() if hasattr(weights, "tolist") else weights
    values = plain if isinstance(plain, Sequence) else ()
    if not all(isinstance(value, int | float) and 0 <= value < math.inf for value in values):
        values = ()
    if sum(values) == 0:
        raise ValueError(
            f"weights must be a finite number >= 0 for each level, and not all 0: got {weights!r}."
        )
    return tuple(float(value) for value in values)
