"""The losses that `losses.py` times, and what they must compute before they are timed."""

import json
import subprocess
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from monai.losses import DiceFocalLoss as MonaiDiceFocalLoss
from monai.losses import DiceLoss as MonaiDiceLoss
from monai.losses import FocalLoss as MonaiFocalLoss

from segfocal import DiceFocalLoss

REGIONS = ((1, 2, 3), (2, 3), (3,))
OURS = "segfocal DiceFocalLoss"
BYTES = f"{OURS} (uint8 labels)"
COMPILED = "torch.compile of the plain formulas"
COMPILED_MONAI = "torch.compile of it"
NNUNET = "nnU-Net DC_and_CE"


class Peer(NamedTuple):
    """A loss and the target that it takes.

    `same` tells that it computes what segfocal's loss does, so that the values must agree.
    """

    loss: Callable
    target: torch.Tensor
    same: bool


def plain_softmax(logits, target):
    """Dice + focal as one would write it down, for the compiler to fuse."""
    log_p = F.log_softmax(logits.float(), 1)
    p = log_p.exp()
    classes = torch.arange(logits.shape[1], device=logits.device).view(1, -1, 1, 1, 1)
    own = target == classes
    axes = (2, 3, 4)
    overlap, total = (p * own).sum(axes), p.sum(axes) + own.sum(axes)
    log_pt = torch.where(own, log_p, 0).sum(1)
    focal = -((1 - log_pt.exp()) ** 2 * log_pt).mean()
    return (1 - (2 * overlap + 1e-5) / (total + 1e-5)).mean() + focal


def plain_sigmoid(logits, maps):
    """The same with a sigmoid on each channel."""
    logits = logits.float()
    p, nll = logits.sigmoid(), F.binary_cross_entropy_with_logits(logits, maps, reduction="none")
    focal = ((1 - (-nll).exp()) ** 2 * nll).mean()
    axes = (2, 3, 4)
    overlap, total = (p * maps).sum(axes), p.sum(axes) + maps.sum(axes)
    return (1 - (2 * overlap + 1e-5) / (total + 1e-5)).mean() + focal


def monai_softmax(num_classes):
    """What MONAI's DiceFocalLoss(softmax=True) would be if its focal term were softmax too."""
    dice = MonaiDiceLoss(softmax=True, to_onehot_y=True)
    focal = MonaiFocalLoss(use_softmax=True, to_onehot_y=True, gamma=2.0)
    # MONAI's softmax mean divides by the classes as well.
    return lambda logits, target: dice(logits, target) + num_classes * focal(logits, target)


def our_peers(labels, **settings):
    """segfocal's loss as it comes; on a CPU in plain torch too, on a GPU with labels of a byte."""
    ours = DiceFocalLoss(**settings, gamma=2.0)
    if labels.is_cuda:
        return {OURS: Peer(ours, labels, True), BYTES: Peer(ours, labels.byte(), True)}
    plain = DiceFocalLoss(**settings, gamma=2.0, backend="chunked")
    return {OURS: Peer(ours, labels, True), f"{OURS} (chunked)": Peer(plain, labels, True)}


def softmax_peers(num_classes, labels):
    ours = our_peers(labels, softmax=True)
    monai = MonaiDiceFocalLoss(softmax=True, to_onehot_y=True, gamma=2.0)
    return ours | {
        COMPILED: Peer(torch.compile(plain_softmax, dynamic=False), labels, True),
        "MONAI DiceFocalLoss(softmax)": Peer(monai, labels, False),
        COMPILED_MONAI: Peer(torch.compile(monai, dynamic=False), labels, False),
        "MONAI DiceLoss + FocalLoss(use_softmax)": Peer(monai_softmax(num_classes), labels, True),
        "torch cross_entropy": Peer(
            lambda logits, target: F.cross_entropy(logits, target[:, 0]), labels, False
        ),
    }


def region_maps(labels):
    return torch.cat([torch.isin(labels, labels.new_tensor(r)) for r in REGIONS], 1).float()


def region_peers(labels):
    maps = region_maps(labels)
    ours = our_peers(labels, sigmoid=True, regions=REGIONS)
    monai = MonaiDiceFocalLoss(sigmoid=True, gamma=2.0)
    return ours | {
        COMPILED: Peer(torch.compile(plain_sigmoid, dynamic=False), maps, True),
        "MONAI DiceFocalLoss(sigmoid)": Peer(monai, maps, True),
        COMPILED_MONAI: Peer(torch.compile(monai, dynamic=False), maps, True),
        "torch binary_cross_entropy": Peer(F.binary_cross_entropy_with_logits, maps, False),
    }


def check(peers, logits):
    """Stop the benchmark where a value or a gradient is wrong."""
    is_softmax = peers[OURS].loss.regions is None
    plain = plain_softmax if is_softmax else plain_sigmoid
    target = peers[OURS].target if is_softmax else region_maps(peers[OURS].target)
    exact = logits.detach().double().requires_grad_()
    reference = float64_truth(plain, exact, target)
    (gradient,) = torch.autograd.grad(reference, exact)
    scale = gradient.abs().max()
    rounding = 1e-2 if logits.dtype == torch.bfloat16 else 1e-4
    for name, peer in peers.items():
        if logits.dtype != torch.float32 and not name.startswith(OURS):
            continue  # what a peer makes of bfloat16 is its own affair
        leaf = logits.detach().clone().requires_grad_()
        value = peer.loss(leaf, peer.target)
        value.backward()
        if peer.same:
            torch.testing.assert_close(
                value.double(), reference, rtol=rounding, atol=1e-5, msg=f"{name}: value"
            )
            worst = (leaf.grad.double() - gradient).abs().max() / scale
            assert worst < rounding, f"{name}: gradient is off by {worst:.1e} of its largest"


def float64_truth(plain, logits, target):
    """The plain formulas without their cast to float32."""
    original = torch.Tensor.float
    try:
        torch.Tensor.float = lambda tensor: tensor
        return plain(logits, target)
    finally:
        torch.Tensor.float = original


def nnunet_peer(labels):
    """nnU-Net's loss as its trainer sets it up, but for the background; None without nnunetv2."""
    if find_spec("nnunetv2") is None:
        return None
    from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

    loss = DC_and_CE_loss(
        {"batch_dice": False, "smooth": 1e-5, "do_bg": True, "ddp": False},
        {},
        dice_class=MemoryEfficientSoftDiceLoss,
    )
    return Peer(loss, labels, False)


def check_nnunet(found, logits, labels):
    """Stop where nnU-Net's value is not cross-entropy minus the mean Dice."""
    exact = logits.detach().double()
    p, own = exact.softmax(1), F.one_hot(labels[:, 0], logits.shape[1]).movedim(-1, 1)
    axes = (2, 3, 4)
    dice = (2 * (p * own).sum(axes) + 1e-5) / (p.sum(axes) + own.sum(axes) + 1e-5)
    expected = F.cross_entropy(exact, labels[:, 0]) - dice.mean()
    torch.testing.assert_close(found, expected.item(), rtol=1e-4, atol=1e-5)


class NnunetProcess:
    """nnU-Net's loss in another Python, one timed step for each call of `step`."""

    def __init__(self, python, threads):
        worker = Path(__file__).with_name("nnunet_worker.py")
        self.process = subprocess.Popen(
            [python, str(worker)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.folder = tempfile.TemporaryDirectory()
        self.say({"threads": threads})

    def say(self, order):
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def step(self, *, backward, file=None):
        self.say({"backward": backward} | ({} if file is None else {"file": file}))
        return json.loads(self.process.stdout.readline())

    def load(self, logits, labels):
        """Hand over the tensors, and check the first value: cross-entropy minus the mean Dice."""
        file = str(Path(self.folder.name) / "case.pt")
        torch.save((logits.detach(), labels), file)
        check_nnunet(self.step(backward=True, file=file)["value"], logits, labels)

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.folder.cleanup()
