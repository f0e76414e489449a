"""The backends that compute the sums, and the one rule that chooses between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from segfocal.ops import reference
from segfocal.ops.flat_target import FlatTarget


class Backend(NamedTuple):
    """A way to compute the sums and their gradient. All of them mean the same.

    Attributes:
        class_sums: `(logits_BCS, target, activation, gamma) -> sums (B, 7, C)`.
        class_sums_backward: `(upstream (B, 7, C), logits_BCS, target, activation, gamma) -> grad`.
        refusal: `(device_type, dtype, activation)` to why it cannot run there, or None if it can.
    """

    class_sums: Callable[[Tensor, FlatTarget, str, float | Tensor], Tensor]
    class_sums_backward: Callable[[Tensor, Tensor, FlatTarget, str, float | Tensor], Tensor]
    refusal: Callable[[str, torch.dtype, str], str | None]


def _runs_anywhere(_device_type: str, _dtype: torch.dtype, _activation: str) -> str | None:
    return None


BACKENDS: dict[str, Backend] = {
    "reference": Backend(reference.class_sums, reference.class_sums_backward, _runs_anywhere),
}
"""In the order in which "auto" tries them."""


def backends() -> tuple[str, ...]:
    """Names of the backends that can be asked for, besides "auto".

    Example:
        >>> backends()
        ('reference',)
    """
    return tuple(BACKENDS)


def choose_backend(requested: str, device_type: str, dtype: torch.dtype, activation: str) -> str:
    """The backend that runs: a function of its arguments and nothing else.

    Args:
        requested: A name from `backends()`, or "auto" for the first that runs.
        device_type: Such as "cpu" or "cuda".
        dtype: The logits' dtype.
        activation: "softmax" or "sigmoid".

    Raises:
        ValueError: If the name is unknown, or the backend cannot run there.

    Example:
        >>> choose_backend("auto", "cpu", torch.float32, "softmax")
        'reference'
    """
    if requested == "auto":
        return next(
            name
            for name, backend in BACKENDS.items()
            if backend.refusal(device_type, dtype, activation) is None
        )
    if requested not in BACKENDS:
        raise ValueError(
            f"backend must be auto or one of {', '.join(BACKENDS)}: got {requested!r}."
        )
    refusal = BACKENDS[requested].refusal(device_type, dtype, activation)
    if refusal is not None:
        raise ValueError(f"backend {requested} cannot run: {refusal} Use backend='auto'.")
    return requested
