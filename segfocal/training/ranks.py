"""What a run asks of the ranks that share it; here, of the one that has it for itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from segfocal.training.launch import Launch

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


class PeerFailedError(Exception):
    """Another rank failed and tells of it; this one has nothing to add."""


class Ranks:
    """This process alone: what it decides is decided.

    `segfocal.training.rank_group.RankGroup` has the same methods for several. There all ranks call
    each method marked "together" in the same order, and wait for each other in it.

    Attributes:
        rank: Number of this one.
        count: How many there are.
        num_here: How many of them are on this machine.
    """

    rank = 0
    count = 1
    num_here = 1

    def __enter__(self) -> Ranks:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nobody waits."""

    @property
    def is_first(self) -> bool:
        """Whether this rank writes the run folder and prints."""
        return self.rank == 0

    def agents(self) -> tuple[str, ...]:
        """Names of the torchruns that started the ranks (`Launch.agent`); none here."""
        return ()

    def announce(self, job: Any) -> None:
        """From the first rank to the others: what to do; None for nothing."""

    def device(self, name: str) -> torch.device:
        """Where this rank computes.

        Args:
            name: `train.device`.

        Raises:
            UserError: If there is no such device.
        """
        from segfocal.inference.device import resolve_device

        return resolve_device(name)

    def connect(self, device: torch.device) -> None:
        """Together: lets tensors of the CPU and of `device` go between the ranks."""

    def now(self) -> float:
        """Together: `time.monotonic()` of the first rank, by which all decide."""
        return time.monotonic()

    def any(self, flag: bool) -> bool:
        """Together: whether it is so on one rank or more."""
        return flag

    def exchange(self, value: T) -> list[T]:
        """Together: every rank's value, in their order."""
        return [value]

    def to_first(self, value: T, source: int) -> T:  # noqa: ARG002 - there is one source here
        """Together: the value of one rank, on the first; each other's own elsewhere."""
        return value

    def once_a_machine(self, make: Callable[[], T]) -> T:
        """Together: what the first rank of each machine makes, copied to its other ranks."""
        return make()

    def share(self, total: int) -> range:
        """Which of `total` things are this rank's."""
        return share(total, self.rank, self.count)

    def claim_failure(self) -> bool:
        """Whether this rank failed first, so that the telling is its own."""
        return True


ALONE = Ranks()


def share(total: int, rank: int, count: int) -> range:
    """A rank's part of `total` things: neighbours, and nobody has two more than another.

    Example:
        >>> [list(share(5, rank, 3)) for rank in range(3)]
        [[0], [1, 2], [3, 4]]
    """
    return range(total * rank // count, total * (rank + 1) // count)


def join(launch: Launch | None) -> Ranks:
    """The ranks that torchrun started; without it this process alone, and nothing is imported."""
    if launch is None:
        return ALONE
    from segfocal.training.rank_group import RankGroup

    return RankGroup(launch)
