"""A sum over the ranks that share a batch, with its gradient."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

Group = dist.ProcessGroup | Literal["world"] | None


def check_group(group: object) -> None:
    """Refuse what is neither a process group, "world" nor None.

    Raises:
        ValueError: If it is something else.
    """
    if group is not None and group != "world" and not isinstance(group, dist.ProcessGroup):
        raise ValueError(
            f"process_group must be a torch.distributed group, 'world' or None: got {group!r}."
        )


def sum_over_ranks(values: Tensor, group: Group) -> Tensor:
    """The sum of every rank's values.

    Each rank holds the same loss afterwards. Its gradient is summed over the ranks too, so that the
    mean which `DistributedDataParallel` takes is the gradient of that one loss, as a single process
    with the whole batch has it.

    Args:
        values: Of the same shape on every rank.
        group: The ranks that share a batch. "world" is all of them, and this process alone where
            `torch.distributed` is not initialised; None is this process alone.
    """
    if group is None or not dist.is_initialized():
        return values
    ranks = dist.group.WORLD if group == "world" else group
    total: Tensor = _SumOverRanks.apply(values, ranks)  # type: ignore[no-untyped-call]
    return total


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return _all_reduced(values, group)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        return _all_reduced(upstream[0], ctx.group), None


def _all_reduced(values: Tensor, group: dist.ProcessGroup) -> Tensor:
    total = values.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group)
    return total
