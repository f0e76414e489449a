"""A network for several ranks: torch's DDP around it, dropout and batch statistics shared."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from segfocal.training.ranks import Ranks
from segfocal.training.shared_dropout import share_dropout


def share_layers(
    network: nn.Module, ranks: Ranks, device: torch.device, batch_size: int
) -> tuple[nn.Module, list[str]]:
    """Layers that look at the whole batch do so over all ranks, as far as torch can.

    Dropout draws what one process would; batch statistics become `SyncBatchNorm`, which torch has
    for GPUs alone.

    Args:
        network: Changed in place; names and weights stay.
        ranks: Which share the batch.
        device: Where it will compute.
        batch_size: Patches of a forward pass over all ranks.

    Returns:
        The network, and lines that the user should know.
    """
    if ranks.count == 1:
        return network, []
    share_dropout(network, ranks.share(batch_size), batch_size)
    if not any(isinstance(module, _BatchNorm) for module in network.modules()):
        return network, []
    if device.type == "cuda":
        synced: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return synced, ["ranks  batch statistics are those of all ranks' patches (SyncBatchNorm)"]
    line = (
        "doubt  batch statistics are those of each rank's own patches, and the first rank's are "
        "kept: torch has SyncBatchNorm for GPUs alone. A network with instance or group norm "
        "trains alike on any number of ranks."
    )
    return network, [line]


def distributed(
    network: nn.Module, ranks: Ranks, device: torch.device, image_shape: Sequence[int]
) -> nn.Module:
    """Together: the network with gradients averaged over the ranks; itself for one alone.

    Args:
        network: On its device; the same weights on every rank.
        ranks: Connected.
        device: Where the network is.
        image_shape: `(C, *S)` of a patch, to find out which parameters are used.
    """
    if ranks.count == 1:
        return network
    # A kernel of one voxel has one layout, whatever strides its axes of length 1 are said to have.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    model = DistributedDataParallel(
        network,
        device_ids=[device] if device.type == "cuda" else None,
        find_unused_parameters=has_unused_parameters(network, image_shape),
        gradient_as_bucket_view=True,
    )
    if device.type == "cpu" and ranks.count > 2:  # two numbers have one sum in either order
        model.register_comm_hook(ranks.count, _mean_in_order)
    return model


def has_unused_parameters(network: nn.Module, image_shape: Sequence[int]) -> bool:
    """Whether some parameter has no part in the output: found out on meta tensors, at no cost.

    True where the network cannot be run without data.
    """
    meta = _on_meta(network).train()
    try:
        outputs = meta(torch.empty(2, *image_shape, device="meta"))
        torch.stack([output.sum() for output in _tensors(outputs)]).sum().backward()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, TypeError, NotImplementedError):
        return True
    return any(weight.grad is None for weight in meta.parameters() if weight.requires_grad)


def _on_meta(network: nn.Module) -> nn.Module:
    """A copy that takes no memory: its weights have shapes alone."""
    known: dict[int, object] = {
        id(weight): nn.Parameter(weight.detach().to("meta"), weight.requires_grad)
        for weight in network.parameters()
    }
    known |= {id(buffer): buffer.to("meta") for buffer in network.buffers()}
    return copy.deepcopy(network, known)


def equalise_buffers(network: nn.Module, ranks: Ranks) -> None:
    """Together: the first rank's running statistics for all."""
    if ranks.count > 1:
        for buffer in network.buffers():
            dist.broadcast(buffer, 0)


def _tensors(outputs: object) -> Iterable[Tensor]:
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, dict):
        for value in outputs.values():
            yield from _tensors(value)
    elif isinstance(outputs, list | tuple):
        for value in outputs:
            yield from _tensors(value)


def _mean_in_order(count, bucket):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202 - DDP reads them
    """The mean, added up in the order of the ranks.

    Gloo's own sum starts with another rank for each part of a buffer, and DDP lays out its buffers
    anew after the first step: a run that goes on would not have the bits of one that never stopped.
    """
    own = bucket.buffer()
    parts = [torch.empty_like(own) for _ in range(count)]
    dist.all_gather(parts, own)
    total = parts[0]
    for part in parts[1:]:
        total += part
    done: torch.futures.Future[Tensor] = torch.futures.Future()
    done.set_result(total.div_(count))
    return done
