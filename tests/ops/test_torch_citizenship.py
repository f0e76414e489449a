"""torch's own checks of a custom op: over dtypes, memory layouts and ignore labels."""

from __future__ import annotations

import pytest
import torch

from segfocal.losses import DiceFocalLoss
from segfocal.ops.backend_choice import Request, choose_backend

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LAYOUTS = {
    "contiguous": lambda t: t.contiguous(),
    "transposed": lambda t: t.transpose(1, 2).contiguous().transpose(1, 2),
    "strided": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "expanded": lambda t: t[:1].expand(t.shape),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def chosen(dtype, activation):
    return choose_backend("auto", Request("cpu", dtype, activation))


def make_inputs(dtype, layout, ignored):
    logits = LAYOUTS[layout](torch.randn(2, 3, 7, generator=seeded())).to(dtype)
    labels = torch.randint(0, 3, (2, 7), generator=seeded(1)).to(torch.uint8)
    labels[:, 2] = 255 if ignored else 1
    return logits.requires_grad_(), labels, [255] if ignored else []


@pytest.mark.slow
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"  # opcheck's own, from torch 2.14 on
)
def test_opcheck_s_four_tests_pass(activation, dtype, layout, ignored):
    logits, labels, ignored_labels = make_inputs(dtype, layout, ignored)
    settings = (activation, 2.0, 0.0, ignored_labels, [0, 1, 2], [1, 1, 1], False, "product")
    arguments = (logits, labels, None, None, *settings, chosen(dtype, activation))
    results = torch.library.opcheck(torch.ops.segfocal.class_sums.default, arguments)
    assert len(results) == 4
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_deterministic_mode_is_met_and_changes_no_bit(activation):
    logits, labels, _ = make_inputs(torch.float32, "contiguous", ignored=True)
    loss = DiceFocalLoss(**{activation: True}, ignore_index=255)

    def run():
        value = loss(logits, labels)
        return value.detach(), torch.autograd.grad(value, logits)[0]

    free = run()
    torch.use_deterministic_algorithms(True)
    try:
        bound = run()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(free, bound, strict=True))
