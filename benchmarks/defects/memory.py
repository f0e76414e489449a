"""The row about memory: what a forward and backward pass allocates."""

import monai.losses
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from defects.row import Row, seeded
from segfocal.losses import DiceFocalLoss


def dice_focal(size: int) -> Row:
    logits = torch.randn(1, 4, size, size, size, generator=seeded()).requires_grad_()
    labels = torch.randint(0, 4, (1, 1, size, size, size), generator=seeded(1)).to(torch.uint8)
    options = {"softmax": True, "to_onehot_y": True}
    theirs = _allocations(monai.losses.DiceFocalLoss(**options), logits, labels)
    ours = _allocations(DiceFocalLoss(**options), logits, labels)
    texts = [f"{peak:.2f} x and {count}" for peak, count in (theirs, ours)]
    return Row(
        "DiceFocal: a multiple of the logits' size at peak",
        f"peak of memory beside the logits, in multiples of their size, and allocations of their "
        f"size or more; forward and backward, 4 x {size}^3",
        *texts,
        ours[1] == 1 and ours[0] < theirs[0],
    )


def _allocations(loss, logits: Tensor, labels: Tensor) -> tuple[float, int]:
    """Peak of live memory over the logits' size, and how many allocations were as large."""
    loss(logits, labels).backward()  # what is made once and kept is not counted
    logits.grad = None
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        loss(logits, labels).backward()
    logits.grad = None
    full = logits.numel() * logits.element_size()
    live = peak = count = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
            count += event.nbytes() >= full
    return peak / full, count
