"""A loss made of sums by one kernel on a real device: the interpreter's cases, and a whole step."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed here")

from segfocal.losses import DiceFocalLoss
from tests.gpu import no_waiting
from tests.ops.loss_cases import LOSSES, assert_kernel_equals_plain_torch, make_sums, seeded

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_loss_terms_and_slopes_equal_plain_torch(dtype):
    for case in LOSSES:
        assert_kernel_equals_plain_torch(case, make_sums().cuda(), dtype)


@pytest.mark.parametrize("size", [(1, 2), (5, 105), (32, 128), (4, 1000)])
def test_any_number_of_samples_and_channels(size):
    for case in LOSSES[-2:]:
        assert_kernel_equals_plain_torch(
            case._replace(overlap=case.overlap._replace(weight=None), focal=None),
            make_sums(*size).cuda(),
            torch.float64,
        )


def make_batch():
    logits = torch.randn(2, 4, 24, 24, 24, generator=seeded(0)).cuda().requires_grad_()
    return logits, torch.randint(0, 4, (2, 1, 24, 24, 24), generator=seeded(1)).cuda().byte()


def test_a_step_starts_few_kernels_and_waits_for_none():
    logits, labels = make_batch()
    loss = DiceFocalLoss(softmax=True, alpha=[0.1, 1.0, 1.0, 2.0], ignore_index=255).cuda()
    loss(logits, labels).backward()
    logits.grad = None
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with no_waiting():
        loss(logits, labels).backward()
    logits.grad = None
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=activities) as profile:
        loss(logits, labels).backward()
        torch.cuda.synchronize()
    kernels = [event.name for event in profile.events() if "CUDA" in str(event.device_type)]
    # sums, their fold, the loss; the upstream 1, slopes times upstream, the gradient
    assert 4 <= len(kernels) <= 9, kernels


def test_a_step_gives_the_same_bits_again():
    logits, labels = make_batch()
    loss = DiceFocalLoss(softmax=True)
    steps = [loss(logits, labels) for _ in range(2)]
    grads = [torch.autograd.grad(step, logits)[0] for step in steps]
    assert torch.equal(*steps)
    assert torch.equal(*grads)
