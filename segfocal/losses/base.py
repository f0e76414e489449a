"""What the loss modules share: checked arguments, buffers, and plain tensors in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from segfocal import checks
from segfocal.checks import Activation, ClassNumbers, IgnoreIndex, Regions
from segfocal.functional.focal import Reduction
from segfocal.ops.backend_choice import backends


class LogitsLoss(nn.Module):
    """Holds what every loss on logits takes; the losses name and explain it."""

    weight: Tensor | None
    alpha: Tensor | None
    gamma: float | Tensor

    def __init__(
        self,
        *,
        activation: Activation,
        include_background: bool,
        to_onehot_y: bool,
        weight: ClassNumbers | None,
        reduction: Reduction,
        ignore_index: IgnoreIndex,
        regions: Regions,
        check_target: bool,
        backend: str,
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
        self.check_target = check_target
        self.backend = backend
        self._hold("weight", weight)
        checks.check_weight(self.weight)

    def extra_repr(self) -> str:
        """The plain settings, for `print(loss)`."""
        plain_settings = {
            name: value
            for name, value in vars(self).items()
            if not name.startswith("_") and name != "training"
        }
        return ", ".join(f"{name}={value!r}" for name, value in plain_settings.items())

    def _hold(self, name: str, numbers: ClassNumbers | None) -> None:
        """Register numbers as a buffer: float32, or the dtype of a floating point tensor."""
        if numbers is None:
            self.register_buffer(name, None)
            return
        values = torch.as_tensor(numbers).detach().clone()
        if values.ndim > 1 or values.numel() == 0:
            raise ValueError(
                f"{name} must be one number or one per class: got shape {tuple(values.shape)}."
            )
        if not (isinstance(numbers, Tensor) and values.is_floating_point()):
            values = values.float()
        if self.regions is not None:
            checks.check_class_shape(name, values, len(self.regions))
        self.register_buffer(name, values)

    def _hold_gamma(self, gamma: ClassNumbers) -> None:
        """A single gamma stays a number; one per class becomes a buffer."""
        checks.check_gamma(gamma)
        if isinstance(gamma, int | float):
            self.gamma = float(gamma)
        else:
            self._hold("gamma", gamma)

    def _hold_alpha(self, alpha: ClassNumbers | None) -> None:
        self._hold("alpha", alpha)
        checks.check_alpha(self.alpha, self.activation)

    def _plain(
        self, logits: Tensor, target: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The tensors without MONAI's `MetaTensor` around them, and a target that is as told."""
        logits, target = _unwrap(logits), _unwrap(target)
        if self.to_onehot_y and target.shape == logits.shape and logits.shape[1] > 1:
            raise ValueError(
                f"to_onehot_y=True says that the target holds labels, but it has one value per "
                f"channel already: got shape {tuple(target.shape)}. Leave to_onehot_y out."
            )
        return logits, target, None if mask is None else _unwrap(mask)


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


def _unwrap(tensor: Any) -> Tensor:
    unwrap = getattr(tensor, "as_tensor", None)
    plain: Tensor = tensor if unwrap is None else unwrap()
    return plain
