"""A row of the table, and what its measurements share."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

import segfocal.losses

NOT_YET = "not yet"


class Row(NamedTuple):
    """One line of the table.

    Attributes:
        trap: What MONAI does, as the contract of the losses words it.
        measured: What the numbers are.
        monai: MONAI's number.
        ours: segfocal's.
        is_right: Whether ours is as promised; None where segfocal has no such loss yet.
    """

    trap: str
    measured: str
    monai: str
    ours: str
    is_right: bool | None


def our_loss(name: str):
    """The class of `segfocal.losses`, or None while there is none."""
    return getattr(segfocal.losses, name, None)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_case(num_classes: int = 4, size: int = 12, dtype: torch.dtype = torch.float32):
    """Logits `(2, C, n, n, n)` that ask for a gradient, and labels `(2, 1, n, n, n)`."""
    shape = (2, num_classes, size, size, size)
    logits = 2 * torch.randn(shape, generator=seeded(), dtype=dtype)
    labels = torch.randint(0, num_classes, (2, 1, size, size, size), generator=seeded(1))
    return logits.requires_grad_(), labels


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    return F.one_hot(labels[:, 0], num_classes).movedim(-1, 1).float()


def gradient(loss: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(loss, logits)[0]


def error_of(call: Callable[[], object]) -> str:
    """Type and text of the error that a call raises, or an empty word."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call()
        except Exception as problem:  # noqa: BLE001 - what is raised is what is measured
            return f"{type(problem).__name__}: {problem}"
    return ""


def number(value: Tensor | float) -> str:
    return f"{torch.as_tensor(value).detach().item():.4g}"


def is_close(value: Tensor | float, truth: Tensor | float, tolerance: float = 1e-5) -> bool:
    first, second = (torch.as_tensor(number).detach().item() for number in (value, truth))
    return math.isclose(first, second, rel_tol=tolerance)


def percent(where: Tensor) -> str:
    return f"{100 * where.float().mean().item():.3g} %"


def shortened(text: str, length: int = 110) -> str:
    """One line of at most so many characters, fit for a Markdown table."""
    line = " ".join(text.split()).replace("|", "/")
    return line if len(line) <= length else line[: length - 3] + "..."


def in_order(rows: Sequence[Callable[[], Row]]) -> list[Row]:
    return [row() for row in rows]
