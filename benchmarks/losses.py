"""Time and peak memory of DiceFocalLoss against peers, as ratios within one process.

    python benchmarks/losses.py [--size 96] [--repeats 7]

Values are checked before anything is timed: ours against `F.cross_entropy` plus a Dice written out
here, MONAI's softmax terms against ours. Runs are interleaved; the median counts. Memory is what
the allocator hands out between the start of forward and the end of backward, the gradient of the
logits left out, in multiples of the logits' size.
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from monai.losses import DiceFocalLoss as MonaiDiceFocalLoss
from monai.losses import DiceLoss as MonaiDiceLoss
from monai.losses import FocalLoss as MonaiFocalLoss
from torch.profiler import ProfilerActivity, profile

from segfocal import DiceFocalLoss


def monai_softmax(num_classes):
    """What MONAI's DiceFocalLoss(softmax=True) would be if its focal term were softmax too."""
    dice = MonaiDiceLoss(softmax=True, to_onehot_y=True)
    focal = MonaiFocalLoss(use_softmax=True, to_onehot_y=True, gamma=2.0)
    # MONAI's softmax mean divides by the classes as well.
    return lambda logits, target: dice(logits, target) + num_classes * focal(logits, target)


def losses(num_classes):
    return {
        "segfocal DiceFocalLoss(softmax)": DiceFocalLoss(softmax=True, gamma=2.0),
        "MONAI DiceFocalLoss(softmax)": MonaiDiceFocalLoss(
            softmax=True, to_onehot_y=True, gamma=2.0
        ),
        "MONAI DiceLoss + FocalLoss(use_softmax)": monai_softmax(num_classes),
        "torch cross_entropy": lambda logits, target: F.cross_entropy(logits, target[:, 0]),
    }


def check(logits, target):
    """Stops the benchmark where a value is wrong."""
    num_classes = logits.shape[1]
    exact = logits.double()
    probs = exact.softmax(1)
    onehot = F.one_hot(target[:, 0], num_classes).movedim(-1, 1)
    axes = tuple(range(2, logits.dim()))
    overlap = 2 * (probs * onehot).sum(axes)
    dice = 1 - (overlap + 1e-5) / (probs.sum(axes) + onehot.sum(axes) + 1e-5)
    log_pt = F.log_softmax(exact, 1).gather(1, target)
    focal = -((1 - log_pt.exp()) ** 2 * log_pt).mean()
    expected = (dice.mean() + focal).float()
    found = losses(num_classes)
    names = ("segfocal DiceFocalLoss(softmax)", "MONAI DiceLoss + FocalLoss(use_softmax)")
    for name in names:
        torch.testing.assert_close(found[name](logits, target), expected, rtol=1e-4, atol=1e-5)
    gradients = []
    for name in names:
        leaf = logits.clone().requires_grad_()
        found[name](leaf, target).backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-8)


def step(loss, logits, target):
    logits.grad = None
    loss(logits, target).backward()


def peak_extra(loss, logits, target):
    """Largest sum of live allocations over the gradient, in sizes of the logits."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step(loss, logits, target)
    live = peak = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    size = logits.numel() * logits.element_size()
    return peak / size - 1


def measure(num_classes, size, repeats):
    torch.manual_seed(0)
    logits = torch.randn(1 if num_classes > 4 else 2, num_classes, size, size, size)
    target = torch.randint(0, num_classes, (logits.shape[0], 1, size, size, size))
    check(logits, target)
    logits.requires_grad_()
    found = losses(num_classes)
    times = {name: [] for name in found}
    for repeat in range(repeats + 1):
        for name, loss in found.items():
            began = time.perf_counter()
            step(loss, logits, target)
            if repeat:
                times[name].append(time.perf_counter() - began)
    ours = statistics.median(times["segfocal DiceFocalLoss(softmax)"])
    shape = "x".join(map(str, logits.shape))
    print(f"\nlogits {shape}, forward and backward, {torch.get_num_threads()} threads\n")
    print("| loss | time, segfocal = 1 | peak extra memory, x logits |")
    print("|---|---|---|")
    for name, loss in found.items():
        ratio = statistics.median(times[name]) / ours
        print(f"| {name} | {ratio:.2f} | {peak_extra(loss, logits, target):.2f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=96, help="edge of the volume at 4 classes")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    print(f"torch {torch.__version__}, one process, interleaved, median of {args.repeats}")
    measure(4, args.size, args.repeats)
    measure(32, args.size * 2 // 3, args.repeats)


if __name__ == "__main__":
    main()
