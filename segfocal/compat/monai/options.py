"""MONAI's option words, and what it says of a single channel. MONAI itself is not imported.

Its enums are recognised by their value: `monai.utils.LossReduction.MEAN` is "mean".
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

from torch import Tensor

OtherActivation = Callable[[Tensor], Tensor] | None
ClassWeight = Sequence[float] | float | Tensor | None

REDUCTIONS = ("mean", "sum", "none")
WEIGHT_TYPES = ("square", "simple", "uniform")


def reduction_word(reduction: object, allowed: Sequence[str] = REDUCTIONS) -> str:
    """The reduction as a plain word, from a word or an enum.

    Raises:
        ValueError: If it is not one of `allowed`.
    """
    return _word("reduction", getattr(reduction, "value", reduction), allowed)


def weight_type_word(w_type: object) -> str:
    """The kind of class weight of the generalised Dice loss, from a word or an enum.

    Raises:
        ValueError: If it is unknown.
    """
    word = getattr(w_type, "value", w_type)
    return _word("w_type", word.strip() if isinstance(word, str) else word, WEIGHT_TYPES)


def check_activation(sigmoid: bool, softmax: bool, other_act: object) -> None:
    """Refuse two activations at once, and one that cannot be called.

    Raises:
        TypeError: If `other_act` is neither None nor callable.
        ValueError: If more than one is asked for.
    """
    if other_act is not None and not callable(other_act):
        raise TypeError(f"other_act must be None or callable but is {type(other_act).__name__}.")
    if int(sigmoid) + int(softmax) + int(other_act is not None) > 1:
        raise ValueError(
            "Incompatible values: more than 1 of [sigmoid=True, softmax=True, "
            "other_act is not None]."
        )


def warn_of_single_channel(option: str) -> None:
    """Say that an option does nothing to a prediction with one channel."""
    warnings.warn(f"single channel prediction, `{option}` ignored.", stacklevel=3)


def check_lambda(name: str, value: float) -> float:
    """The weight of a term.

    Raises:
        ValueError: If it is negative.
    """
    if value < 0.0:
        raise ValueError(f"{name} should be no less than 0.0.")
    return value


def check_channels(logits: Tensor, target: Tensor) -> None:
    """Refuse a target that is neither of the logits' shape nor labels with a channel axis.

    Raises:
        ValueError: If the number of axes differs, or the channels are neither 1 nor C.
    """
    if logits.ndim != target.ndim:
        raise ValueError(
            f"the number of dimensions for input and target should be the same, got shape "
            f"{logits.shape} (nb dims: {logits.ndim}) and {target.shape} (nb dims: {target.ndim}). "
            f"if target is not one-hot encoded, please provide a tensor with shape B1H[WD]."
        )
    if target.shape[1] not in (1, logits.shape[1]):
        raise ValueError(
            f"number of channels for target is neither 1 (without one-hot encoding) nor the same "
            f"as input, got shape {logits.shape} and {target.shape}."
        )


def _word(name: str, word: object, allowed: Sequence[str]) -> str:
    if not isinstance(word, str) or word not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}: got {word!r}.")
    return word
