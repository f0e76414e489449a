"""Numbers of a loss that change while it trains: gamma, alpha, the weights of its terms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from typing import Any, Literal

import torch
from torch import Tensor, nn

from segfocal import checks
from segfocal.losses.base import LogitsLoss
from segfocal.losses.focal import FocalLoss
from segfocal.losses.one_vs_rest import OneVsRestFocalLoss
from segfocal.losses.overlap_focal import OverlapFocalLoss

Value = float | tuple[float, ...]
Shape = Literal["linear", "cosine"]

SHAPES = ("linear", "cosine")


@dataclass(frozen=True)
class Ramp:
    """A value that goes from `start` to `end` while training goes from `begin` to `finish`.

    Before `begin` it is `start`, from `finish` on it is `end`. In between it moves on a straight
    line, or on half a cosine, which leaves and arrives slowly.

    Attributes:
        start: First value >= 0, one number or one per class.
        end: Last value >= 0, of the same length.
        begin: Progress at which it leaves `start`, 0 to 1.
        finish: Progress at which it reaches `end`, `begin` to 1. Equal to `begin` it is a jump.
        shape: "linear" or "cosine".

    Raises:
        ValueError: If a value is negative, infinite or NaN, or begin and finish are out of order.

    Example:
        >>> [Ramp(0.0, 2.0, begin=0.5).value(progress) for progress in (0.0, 0.5, 0.75, 1.0)]
        [0.0, 0.0, 1.0, 2.0]
    """

    start: float | Sequence[float]
    end: float | Sequence[float]
    begin: float = 0.0
    finish: float = 1.0
    shape: Shape = "linear"

    def __post_init__(self) -> None:
        checks.check_word("shape", self.shape, SHAPES)
        _check_values("start", self.start)
        _check_values("end", self.end)
        if _length(self.start) != _length(self.end):
            raise ValueError(
                f"start and end must be alike, one number or one per class each: got {self.start} "
                f"and {self.end}."
            )
        if not 0 <= self.begin <= self.finish <= 1:
            raise ValueError(
                f"expected 0 <= begin <= finish <= 1, shares of the training: got begin "
                f"{self.begin}, finish {self.finish}."
            )

    @property
    def extremes(self) -> Sequence[float | Sequence[float]]:
        """The values that all others lie between."""
        return self.start, self.end

    def value(self, progress: float) -> Value:
        """The value at a share of the training, 0 to 1; a tuple where there is one per class."""
        if progress >= self.finish:
            share = 1.0
        else:
            span = self.finish - self.begin
            share = max(progress - self.begin, 0.0) / span if span else 0.0
        if self.shape == "cosine":
            share = 0.5 * (1 - math.cos(math.pi * share))
        if isinstance(self.start, Sequence) and isinstance(self.end, Sequence):
            pairs = zip(self.start, self.end, strict=True)
            return tuple(float(a + share * (b - a)) for a, b in pairs)
        assert not isinstance(self.start, Sequence)
        assert not isinstance(self.end, Sequence)
        return float(self.start + share * (self.end - self.start))


@dataclass(frozen=True)
class Steps:
    """A value that jumps: `values[0]` at first, `values[i]` from progress `at[i - 1]` on.

    Attributes:
        values: Values >= 0, each one number or one per class.
        at: Where it jumps, rising shares of the training, one fewer than values.

    Raises:
        ValueError: If a value is negative, infinite or NaN, or `at` does not fit.

    Example:
        >>> schedule = Steps((5.0, 3.0, 1.0), at=(0.25, 0.5))
        >>> [schedule.value(progress) for progress in (0.0, 0.25, 0.4, 1.0)]
        [5.0, 3.0, 3.0, 1.0]
    """

    values: Sequence[float | Sequence[float]]
    at: Sequence[float]

    def __post_init__(self) -> None:
        for value in self.values:
            _check_values("values", value)
        if len({_length(value) for value in self.values}) != 1:
            raise ValueError(
                f"values must be alike, one number or one per class each: got {self.values}."
            )
        edges = [0.0, *self.at, 1.0]
        rising = all(first <= second for first, second in pairwise(edges))
        if len(self.at) != len(self.values) - 1 or not rising:
            raise ValueError(
                f"at must hold rising shares of the training, one fewer than the "
                f"{len(self.values)} values: got {self.at}."
            )

    @property
    def extremes(self) -> Sequence[float | Sequence[float]]:
        """The values that all others lie between."""
        return self.values

    def value(self, progress: float) -> Value:
        """The value at a share of the training, 0 to 1; a tuple where there is one per class."""
        current = self.values[sum(progress >= edge for edge in self.at)]
        if isinstance(current, Sequence):
            return tuple(float(number) for number in current)
        return float(current)


class LossSchedule:
    """Moves numbers of a loss while it trains.

    The training loop calls `step` after each optimiser step, or `set_progress` whenever it likes
    (once an epoch, by the clock). Nothing else changes the loss: its `forward` never does. A value
    is a function of the progress alone, so a resumed run has the value of an unbroken one.

    The scheduled gamma of a focal term becomes a tensor (a buffer that is not in the loss's
    `state_dict`, for this schedule's own tells the same), and is changed in place, as alpha, weight
    and any other tensor is: a compiled loss stays compiled. A plain number, such as `lambda_dice`,
    stays one: `torch.compile` compiles the loss once more when the number first changes, then takes
    it for a variable, and compiles again only where it arrives at exactly 0. Give the schedule the
    loss itself, on its device, and compile it after. Change values between `backward` and the next
    forward: of a tensor that changes between a forward and its `backward`, torch refuses the
    gradient.

    A gamma that falls from high to low is a schedule in the sense of Mukhoti et al. 2020; their
    FLSD, whose gamma depends on each voxel's own p_t, is another loss and not made here. Handing
    the weight over from a region term to another is the rebalancing of Kervadec et al. 2019.

    Args:
        loss: The loss.
        values: A `Ramp` or `Steps` for each name: an argument of the loss that is a number, with
            dots for the loss inside a wrapper (`"loss.gamma"`).
        total_steps: Number of `step` calls in the whole training; None if only `set_progress` is
            used.

    Raises:
        ValueError: If the loss has no such number, a value has not its number of classes, or is one
            that the loss's constructor would refuse, or is no `Ramp` or `Steps`.

    Reference:
        Mukhoti et al., Calibrating Deep Neural Networks using Focal Loss, 2020, arXiv:2002.09437.
        Kervadec et al., Boundary loss for highly unbalanced segmentation, 2019, arXiv:1812.07032.

    Example:
        >>> from segfocal.losses import DiceFocalLoss
        >>> loss = DiceFocalLoss(softmax=True)
        >>> schedule = LossSchedule(
        ...     loss, {"gamma": Ramp(3.0, 1.0), "lambda_dice": Ramp(0.0, 1.0)}, total_steps=4
        ... )
        >>> schedule.step()
        >>> schedule.values
        {'gamma': 2.5, 'lambda_dice': 0.25}
    """

    def __init__(
        self,
        loss: nn.Module,
        values: Mapping[str, Ramp | Steps],
        *,
        total_steps: int | None = None,
    ) -> None:
        if total_steps is not None and total_steps < 1:
            raise ValueError(f"total_steps must be 1 or more: got {total_steps}.")
        self.loss = loss
        self.total_steps = total_steps
        self._curves = dict(values)
        self._steps = 0
        self._progress = 0.0
        for name, curve in self._curves.items():
            _prepare(loss, name, curve)
        self._apply()

    @property
    def progress(self) -> float:
        """Share of the training that is done, 0 to 1."""
        return self._progress

    @property
    def values(self) -> dict[str, Value]:
        """The current value of each name, for a log."""
        return {name: curve.value(self._progress) for name, curve in self._curves.items()}

    def step(self) -> None:
        """One more of `total_steps` is done. Past the last one the values stay at their end.

        Raises:
            ValueError: If `total_steps` was not given.
        """
        if self.total_steps is None:
            raise ValueError(
                "step() needs to know how many there are: give LossSchedule total_steps, or call "
                "set_progress()."
            )
        self._steps += 1
        self.set_progress(min(1.0, self._steps / self.total_steps))

    def set_progress(self, progress: float) -> None:
        """Set every value to what it is at a share of the training.

        Raises:
            ValueError: If it is not in [0, 1].
        """
        if not 0 <= progress <= 1:
            raise ValueError(f"progress is a share of the training, 0 to 1: got {progress}.")
        self._progress = float(progress)
        self._apply()

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, safe under `torch.load(weights_only=True)`."""
        return {"progress": self._progress, "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._steps = int(state["steps"])
        self.set_progress(float(state["progress"]))

    def _apply(self) -> None:
        for name, value in self.values.items():
            owner, attribute = _place(self.loss, name)
            held = getattr(owner, attribute)
            if not isinstance(held, Tensor):
                setattr(owner, attribute, value)
            elif isinstance(value, tuple):
                held.copy_(torch.tensor(value, dtype=held.dtype))
            else:
                held.fill_(value)


def _prepare(loss: nn.Module, name: str, curve: Ramp | Steps) -> None:
    """Refuse a curve that does not fit the number it moves; make a single gamma a tensor."""
    if not isinstance(curve, Ramp | Steps):
        raise ValueError(f"{name} must be scheduled by a Ramp or Steps: got {curve!r}.")
    try:
        owner, attribute = _place(loss, name)
        held = getattr(owner, attribute)
    except AttributeError:
        held = None
    if not _is_number(held):
        raise ValueError(
            f"the loss has no number {name!r} to schedule: {type(loss).__name__} holds "
            f"{', '.join(_names(loss)) or 'none'}."
        )
    expected = _length(held)
    for value in curve.extremes:
        if _length(value) not in (None, expected):
            raise ValueError(
                f"{name} is scheduled per class, with {_length(value)} numbers, but the loss holds "
                f"{'one' if expected is None else expected}. Give both the same number of classes."
            )
        if isinstance(owner, LogitsLoss):
            _check_value(owner, attribute, value)
    has_focal_gamma = isinstance(owner, FocalLoss | OverlapFocalLoss | OneVsRestFocalLoss)
    if attribute == "gamma" and has_focal_gamma and not isinstance(held, Tensor):
        del owner.gamma
        gamma = torch.tensor(float(held), device=owner._device)
        owner.register_buffer("gamma", gamma, persistent=False)


def _check_value(owner: LogitsLoss, attribute: str, value: float | Sequence[float]) -> None:
    """Refuse what the constructor would refuse."""
    held = getattr(owner, attribute)
    setattr(owner, attribute, torch.tensor(value) if isinstance(held, Tensor) else value)
    try:
        owner.check_numbers()
    finally:
        setattr(owner, attribute, held)


def _is_number(held: object) -> bool:
    return isinstance(held, int | float | Tensor) and not isinstance(held, bool)


def _names(loss: nn.Module) -> list[str]:
    """The numbers that a loss and those inside it hold, as a schedule names them."""
    return sorted(
        f"{path}.{name}" if path else name
        for path, owner in loss.named_modules()
        for name, held in (vars(owner) | dict(owner.named_buffers(recurse=False))).items()
        if _is_number(held) and not name.startswith("_")
    )


def _place(loss: nn.Module, name: str) -> tuple[Any, str]:
    path, _, attribute = name.rpartition(".")
    return (attrgetter(path)(loss) if path else loss), attribute


def _length(value: float | Sequence[float] | Tensor) -> int | None:
    """How many classes a value has a number for; None for a single number."""
    if isinstance(value, Tensor):
        return value.shape[0] if value.ndim else None
    return len(value) if isinstance(value, Sequence) else None


def _check_values(name: str, value: float | Sequence[float]) -> None:
    for number in value if isinstance(value, Sequence) else (value,):
        checks.check_non_negative(name, number)
