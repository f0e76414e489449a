"""What the loss costs in a whole training step: network, loss, optimiser, in time and memory.

    python benchmarks/training_step.py [--size 64] [--repeats 5]

One SegResNet step with segfocal's DiceFocalLoss, with MONAI's, and with the sum of the logits in
their place, which is what the network alone takes. The values of both losses are checked before
anything is timed (tests and `losses.py` look closer). Steps are interleaved; the median counts.
Memory is the largest that torch's allocator held during a step, over what it held before, in MiB.

On a GPU the network computes under bfloat16 autocast, time is read when the step is done, and a
second table has the network alone with cuDNN's search for the quickest convolution on and off, its
weights and images channels-last or not.
"""

import argparse
import statistics
import time
from typing import NamedTuple

import torch
from losses import heading, peak_bytes, short
from monai.losses import DiceFocalLoss as MonaiDiceFocalLoss
from monai.losses import DiceLoss as MonaiDiceLoss
from monai.networks.nets import SegResNet

from segfocal import DiceFocalLoss

OURS, MONAI, ALONE = "segfocal DiceFocalLoss", "MONAI DiceFocalLoss", "no loss: sum of the logits"
MIB = 2**20


class Workload(NamedTuple):
    """A network of so many first filters, and the patches and classes of a step."""

    filters: int
    batch: int
    classes: int
    edge: int

    def __str__(self):
        shape = "x".join(map(str, (self.batch, 4, *3 * (self.edge,))))
        return f"SegResNet of {self.filters} filters, patches {shape}, {self.classes} classes"


CPU = Workload(8, 2, 4, 64), Workload(8, 1, 32, 64)
GPU = Workload(16, 2, 4, 128), Workload(16, 1, 105, 128)


class Trainer:
    """A network with its optimiser, and a batch that stays the same."""

    def __init__(self, workload, device, *, channels_last=True):
        torch.manual_seed(0)
        network = SegResNet(
            init_filters=workload.filters, in_channels=4, out_channels=workload.classes
        )
        layout = torch.channels_last_3d if channels_last else torch.contiguous_format
        self.network = network.to(device, memory_format=layout)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), 1e-3)
        cube = 3 * (workload.edge,)
        images = torch.randn(workload.batch, 4, *cube)
        self.images = images.to(device).contiguous(memory_format=layout)
        self.labels = torch.randint(0, workload.classes, (workload.batch, 1, *cube)).to(device)

    def logits(self):
        with torch.autocast("cuda", torch.bfloat16, enabled=self.images.is_cuda):
            return self.network(self.images)

    def step(self, loss):
        self.optimizer.zero_grad(set_to_none=True)
        loss(self.logits(), self.labels).backward()
        self.optimizer.step()


def losses():
    ours = DiceFocalLoss(softmax=True, gamma=2.0)
    theirs = MonaiDiceFocalLoss(softmax=True, to_onehot_y=True, gamma=2.0)
    return {OURS: ours, MONAI: theirs, ALONE: lambda logits, _labels: logits.sum()}


def check(trainer):
    """Ours without its focal term is MONAI's Dice, which both compute alike."""
    with torch.no_grad():
        logits = trainer.logits().float()
        ours = DiceFocalLoss(softmax=True, lambda_focal=0.0)(logits, trainer.labels)
        theirs = MonaiDiceLoss(softmax=True, to_onehot_y=True)(logits, trainer.labels)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def seconds_of(trainer, loss):
    wait = torch.cuda.synchronize if trainer.images.is_cuda else lambda: None
    wait()
    began = time.perf_counter()
    trainer.step(loss)
    wait()
    return time.perf_counter() - began


def peak_mib(trainer, loss):
    """Largest sum of live allocations during a step, over those before it."""
    trainer.optimizer.zero_grad(set_to_none=True)
    return peak_bytes(lambda: trainer.step(loss), on_gpu=trainer.images.is_cuda) / MIB


def compare_losses(workload, device, repeats):
    """Rows of (loss, milliseconds, MiB), the steps interleaved."""
    trainer = Trainer(workload, device)
    check(trainer)
    contenders = losses()
    times = {name: [] for name in contenders}
    for loss in contenders.values():
        trainer.step(loss)
    for _ in range(repeats):
        for name, loss in contenders.items():
            times[name].append(seconds_of(trainer, loss))
    return [
        (name, 1000 * statistics.median(times[name]), peak_mib(trainer, loss))
        for name, loss in contenders.items()
    ]


def loss_table(rows):
    alone_ms, alone_mib = next((ms, mib) for name, ms, mib in rows if name == ALONE)
    lines = [
        "| loss | step, ms | over the network's | peak, MiB | over the network's |",
        "|---" * 5 + "|",
    ]
    for name, ms, mib in rows:
        over = "" if name == ALONE else short(ms - alone_ms)
        more = "" if name == ALONE else f"{mib - alone_mib:.0f}"
        lines.append(f"| {name} | {short(ms)} | {over} | {mib:.0f} | {more} |")
    return "\n".join(lines)


def convolution_table(workload, device, repeats):
    """The network alone under cuDNN's settings and in two layouts."""
    lines = ["| layout | cudnn.benchmark | step, ms | peak, MiB |", "|---" * 4 + "|"]
    alone = losses()[ALONE]
    for channels_last in (False, True):
        for searches in (False, True):
            torch.backends.cudnn.benchmark = searches
            trainer = Trainer(workload, device, channels_last=channels_last)
            for _ in range(3):
                trainer.step(alone)
            ms = 1000 * statistics.median(seconds_of(trainer, alone) for _ in range(repeats))
            layout = "channels last" if channels_last else "contiguous"
            lines.append(
                f"| {layout} | {searches} | {short(ms)} | {peak_mib(trainer, alone):.0f} |"
            )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, help="edge of the patches")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(heading(args.repeats))
    for workload in GPU if device == "cuda" else CPU:
        if args.size is not None:
            workload = workload._replace(edge=args.size)
        print(
            f"\n{workload}\n\n{loss_table(compare_losses(workload, device, args.repeats))}",
            flush=True,
        )
        if device == "cuda" and workload.classes == GPU[0].classes:
            print(f"\n{convolution_table(workload, device, args.repeats)}", flush=True)


if __name__ == "__main__":
    main()
