"""Two processes with half a batch each have the gradient of one with all of it (gloo)."""

from __future__ import annotations

import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from segfocal.losses import (
    DiceCELoss,
    DiceFocalLoss,
    DiceLoss,
    FocalLoss,
    GeneralizedDiceFocalLoss,
    TverskyFocalLoss,
    UnifiedFocalLoss,
)

LOSSES = {
    "focal": lambda group: FocalLoss(use_softmax=True, ignore_index=255, process_group=group),
    "focal alpha": lambda group: FocalLoss(
        use_softmax=True,
        alpha=[0.2, 1.0, 3.0],
        normalizer="alpha",
        ignore_index=255,
        process_group=group,
    ),
    "positives": lambda group: FocalLoss(
        normalizer="positives", ignore_index=255, process_group=group
    ),
    "dice batch": lambda group: DiceLoss(
        softmax=True, batch=True, ignore_index=255, process_group=group
    ),
    "dice skip": lambda group: DiceLoss(
        softmax=True, absent="skip", ignore_index=255, process_group=group
    ),
    "dice focal": lambda group: DiceFocalLoss(
        sigmoid=True, batch=True, ignore_index=255, process_group=group
    ),
    "dice ce": lambda group: DiceCELoss(
        softmax=True, weight=[0.5, 1.0, 2.0], ignore_index=255, process_group=group
    ),
    "gdl": lambda group: GeneralizedDiceFocalLoss(
        softmax=True, batch=True, ignore_index=255, process_group=group
    ),
    "tversky": lambda group: TverskyFocalLoss(
        softmax=True, tversky_gamma=4 / 3, batch=True, ignore_index=255, process_group=group
    ),
    "unified": lambda group: UnifiedFocalLoss(
        softmax=True, batch=True, ignore_index=255, process_group=group
    ),
}


def make_case():
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(4, 2, 5, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (4, 5, 6), generator=generator)
    labels[0, :4] = 255  # the ranks do not count the same number of voxels
    labels[1][labels[1] == 2] = 0
    labels[0][labels[0] == 2] = 0  # and class 2 is on one of them only
    return image, labels


def make_network():
    torch.manual_seed(0)
    return nn.Conv2d(2, 3, 1).double()


def gradient_of_one_process(name):
    network, (image, labels) = make_network(), make_case()
    loss = LOSSES[name](None)(network(image), labels)
    loss.backward()
    return loss.item(), network.weight.grad


def run_rank(rank, port, path):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    image, labels = (part[2 * rank : 2 * rank + 2] for part in make_case())
    found = {}
    for name, make in LOSSES.items():
        network = DistributedDataParallel(make_network())
        loss = make("world" if rank == 0 else dist.group.WORLD)(network(image), labels)
        loss.backward()
        found[name] = (loss.item(), network.module.weight.grad)
    torch.save(found, f"{path}.{rank}")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("ranks") / "found")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    mp.spawn(run_rank, (port, path), nprocs=2)
    return [torch.load(f"{path}.{rank}", weights_only=True) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("name", list(LOSSES))
def test_two_ranks_have_the_loss_and_the_gradient_of_one(ranks, name):
    loss, gradient = gradient_of_one_process(name)
    for rank in ranks:
        assert rank[name][0] == pytest.approx(loss, rel=1e-12)
        torch.testing.assert_close(rank[name][1], gradient, rtol=1e-11, atol=1e-13)


def test_without_a_process_group_world_is_this_process():
    image, labels = make_case()
    logits = make_network()(image)
    for make in LOSSES.values():
        assert make("world")(logits, labels).item() == make(None)(logits, labels).item()
