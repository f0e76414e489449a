"""What the loss modules share: checked arguments, buffers, and plain tensors in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from segfocal import checks
from segfocal.checks import Activation, ClassNumbers, IgnoreIndex, Regions
from segfocal.functional.across_ranks import Group
from segfocal.functional.voxel_options import (
    Reduction,
    VoxelOptions,
    Voxels,
    plain_voxels,
)
from segfocal.ops.backend_choice import backends
from segfocal.statistics.class_alpha import ClassAlpha

Alpha = ClassNumbers | ClassAlpha
Record = TypeVar("Record", bound=tuple[Any, ...])


class LogitsLoss(nn.Module):
    """Holds what every loss on logits takes; the losses name and explain it.

    Attributes:
        alpha_origin: Where alpha comes from, as `ClassAlpha.to_dict`; None where it was given as
            numbers. It is part of the `state_dict`.
    """

    weight: float | Tensor | None
    alpha: float | Tensor | None
    gamma: float | Tensor
    _device = torch.device("cpu")  # where a buffer belongs that is made later

    def __init__(
        self,
        *,
        activation: Activation,
        to_onehot_y: bool = False,
        weight: ClassNumbers | None = None,
        reduction: Reduction = "mean",
        include_background: bool = True,
        ignore_index: IgnoreIndex = None,
        regions: Regions = None,
        process_group: Group = None,
        check_target: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        checks.check_word("backend", backend, ("auto", *backends()))
        self.activation: Activation = activation
        self.include_background = include_background
        self.to_onehot_y = to_onehot_y
        self.reduction: Reduction = reduction
        self.ignore_index = checks.check_ignore_index(ignore_index)
        self.regions = checks.check_regions(regions, activation)
        if self.regions is not None:
            checks.check_background(include_background, len(self.regions), has_regions=True)
        self.process_group = process_group
        self.check_target = check_target
        self.backend = backend
        self.alpha_origin: dict[str, Any] | None = None
        self._device = torch.empty(0).device
        self._hold("weight", weight)

    def check_numbers(self) -> None:
        """Refuse a number out of range: at construction, and for what a schedule will set.

        Raises:
            ValueError: Naming it.
        """
        checks.check_weight(self.weight)

    def settings(self) -> dict[str, Any]:
        """What the loss was told, by name; numbers of the classes as lists."""
        plain = {
            name: value
            for name, value in vars(self).items()
            if not name.startswith("_") and name not in ("training", "alpha_origin")
        }
        held = {
            name: numbers.tolist() if numbers.device.type != "meta" else numbers
            for name, numbers in self.named_buffers(recurse=False)
        }
        return plain | held

    def extra_repr(self) -> str:
        """The settings, for `print(loss)`."""
        return ", ".join(f"{name}={_shown(value)}" for name, value in self.settings().items())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LogitsLoss:
        """Move the buffers, but round none: `model.bfloat16()` is not meant for alpha."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, numbers in before.items():
            moved = self._buffers[name]
            if numbers is not None and moved is not None and moved.dtype.itemsize < 4:
                self._buffers[name] = numbers.to(moved.device)
        self._device = fn(torch.empty(0, device=self._device)).device
        return self

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.alpha_origin is not None:
            destination[f"{prefix}alpha_origin"] = self.alpha_origin

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        key = f"{prefix}alpha_origin"
        has_alpha = self._buffers.get("alpha") is not None
        if has_alpha and (key in state_dict or f"{prefix}alpha" in state_dict):
            self.alpha_origin = state_dict.get(key)
        tensors = {name: value for name, value in state_dict.items() if name != key}
        super()._load_from_state_dict(
            tensors, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _hold(self, name: str, numbers: ClassNumbers | None) -> None:
        """Register numbers as a buffer: float32, float64 for a tensor of that dtype."""
        if numbers is None:
            self.register_buffer(name, None)
            return
        numbers = checks.class_numbers(name, numbers)
        if isinstance(numbers, Tensor) and numbers.requires_grad:
            raise ValueError(
                f"{name} must not require grad: a loss holds a copy, which does not learn. Pass "
                f"{name}.detach(), or give the tensor to the function in segfocal.functional."
            )
        values = torch.as_tensor(numbers).clone()
        if values.ndim > 1 or values.numel() == 0:
            raise ValueError(
                f"{name} must be one number or one per class: got shape {tuple(values.shape)}."
            )
        if not (isinstance(numbers, Tensor) and values.dtype == torch.float64):
            values = values.float()
        if self.regions is not None:
            checks.check_class_shape(name, values, len(self.regions))
        self.register_buffer(name, values)

    def _hold_gamma(self, gamma: ClassNumbers) -> None:
        """A single gamma stays a number; one per class becomes a buffer."""
        gamma = checks.class_numbers("gamma", gamma)
        checks.check_gamma(gamma)
        if isinstance(gamma, int | float):
            self.gamma = float(gamma)
        else:
            self._hold("gamma", gamma)

    def _hold_alpha(self, alpha: Alpha | None) -> None:
        """Numbers, or a record of where they come from."""
        if isinstance(alpha, ClassAlpha):
            wanted = "class" if self.activation == "softmax" else "region"
            if alpha.kind != wanted:
                raise ValueError(
                    f"alpha holds {alpha.kind} weights, but {self.activation} takes {wanted} "
                    f"weights. Derive it with {wanted}_alpha."
                )
            self.alpha_origin = alpha.to_dict()
            alpha = alpha.weights
        self._hold("alpha", alpha)

    def _options(self, kind: type[Record]) -> Record:
        """The record whose fields this module's attributes hold."""
        return kind(*[getattr(self, name) for name in kind._fields])  # type: ignore[attr-defined]

    def _voxels(self, logits: Tensor, target: Tensor, mask: Tensor | None) -> Voxels:
        """The tensors without MONAI's `MetaTensor` around them, and a target that is as told."""
        voxels = plain_voxels(logits, target, mask, self._options(VoxelOptions))
        logits, target = voxels.logits, voxels.target
        if self.to_onehot_y and target.shape == logits.shape and logits.shape[1] > 1:
            raise ValueError(
                f"to_onehot_y=True says that the target holds labels, but it has one value per "
                f"channel already: got shape {tuple(target.shape)}. Leave to_onehot_y out."
            )
        return voxels


def chosen_activation(*, sigmoid: bool, softmax: bool) -> Activation:
    """The activation that two of MONAI's flags ask for.

    Raises:
        ValueError: If both are set, or neither: the losses take logits.
    """
    if sigmoid and softmax:
        raise ValueError("sigmoid and softmax exclude each other: got both. Set one to True.")
    if not (sigmoid or softmax):
        raise ValueError(
            "the loss takes logits: expected sigmoid=True or softmax=True, got neither. Set the "
            "one your network is trained for, and pass its raw output."
        )
    return "sigmoid" if sigmoid else "softmax"


def _shown(value: Any) -> str:
    """A value in few digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return repr(value)
