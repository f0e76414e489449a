"""The reference formulas where plain ones break, against 60-digit arithmetic."""

from __future__ import annotations

import mpmath
import pytest
import torch

from segfocal.ops import class_sums

GAMMAS = [0.0, 0.1, 0.5, 0.9, 1.0, 1.5, 2.0, 5.0]
RELATIVE = {torch.float32: 2e-5, torch.float64: 1e-12}
"""Some rounding steps more than the dtype's own 6e-8 and 1e-16; gamma 5 multiplies them."""


def softmax_focal(logits, label, gamma):
    total = mpmath.fsum(mpmath.exp(z) for z in logits)
    rest = mpmath.fsum(mpmath.exp(z) for i, z in enumerate(logits) if i != label)
    return (rest / total) ** gamma * -(logits[label] - mpmath.log(total))


def sigmoid_focal(logit, label, gamma):
    x = logit if label else -logit
    return (1 / (1 + mpmath.exp(x))) ** gamma * mpmath.log1p(mpmath.exp(-x))


def loss_and_gradient(formula, logits, gamma):
    """A formula of logits and its gradient, with 60 digits."""
    with mpmath.workdps(60):
        exact = [mpmath.mpf(z) for z in logits]
        slopes = []
        for i in range(len(exact)):

            def along(z, i=i):
                return formula([*exact[:i], z, *exact[i + 1 :]], gamma)

            slopes.append(float(mpmath.diff(along, exact[i])))
        return float(formula(exact, gamma)), slopes


def assert_close(value, truth, dtype):
    smallest = torch.finfo(dtype).tiny / RELATIVE[dtype]
    assert value == pytest.approx(truth, rel=RELATIVE[dtype], abs=smallest)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize(
    "logits",
    [
        (0.0, 0.0, 0.0),
        (20.0, 0.0, 1.0),
        (60.0, 0.0, 1.0),
        (-40.0, 0.0, 3.0),
        (5.0, 5.0, -60.0),
        (1000.0, 990.0, 985.0),
        (-1000.0, -990.0, -1010.0),
    ],
)
def test_softmax_loss_and_gradient_keep_their_digits(logits, gamma, dtype):
    truth, slopes = loss_and_gradient(lambda z, g: softmax_focal(z, 0, g), logits, gamma)
    tensor = torch.tensor(logits, dtype=dtype)[None].requires_grad_()
    loss = class_sums(tensor, torch.tensor([0]), gamma=gamma).focal_pos.sum()
    loss.backward()
    assert_close(loss.item(), truth, dtype)
    for got, expected in zip(tensor.grad[0].tolist(), slopes, strict=True):
        assert_close(got, expected, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("logit", [-60.0, -17.5, -1.0, 0.0, 1.0, 17.5, 60.0])
def test_sigmoid_loss_and_gradient_keep_their_digits(logit, label, gamma, dtype):
    truth, (slope,) = loss_and_gradient(lambda z, g: sigmoid_focal(z[0], label, g), (logit,), gamma)
    tensor = torch.tensor([[logit]], dtype=dtype, requires_grad=True)
    target = torch.tensor([[label]])
    sums = class_sums(tensor, target, activation="sigmoid", gamma=gamma)
    loss = (sums.focal_pos + sums.focal_neg).sum()
    loss.backward()
    assert_close(loss.item(), truth, dtype)
    assert_close(tensor.grad.item(), slope, dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_everything_is_finite_up_to_the_largest_logits(activation, gamma, dtype):
    sizes = torch.tensor([0.0, 1e-8, 1.0, 16.0, 88.0, 104.0, 700.0, 3e4], dtype=torch.float64)
    ends = torch.cat([-sizes, sizes])
    logits = torch.stack([*torch.meshgrid(ends, ends, indexing="ij")]).flatten(1)
    logits = logits[None].to(dtype).requires_grad_()
    labels = (torch.arange(logits.shape[2]) % 2)[None]
    sums = class_sums(logits, labels, activation=activation, gamma=gamma)
    assert all(field.isfinite().all() for field in sums)
    sum(field.sum() for field in sums).backward()
    assert logits.grad.isfinite().all()


def test_tied_largest_logits_share_the_softmax():
    logits = torch.full((1, 4, 1), 3.0, dtype=torch.float64, requires_grad=True)
    sums = class_sums(logits, torch.tensor([[2]]), gamma=1)
    assert sums.p.tolist() == [[0.25] * 4]
    assert sums.focal_pos[0, 2].item() == pytest.approx(0.75 * torch.log(torch.tensor(4.0)).item())
    assert torch.autograd.gradcheck(
        lambda z: class_sums(z, torch.tensor([[2]]), gamma=1)[:5], logits
    )


def test_gamma_one_hand_computed():
    """Two logits ln 3 and 0: p = 3/4 and 1/4."""
    logits = torch.tensor([[[3.0, 3.0], [1.0, 1.0]]], dtype=torch.float64).log()
    sums = class_sums(logits, torch.tensor([[0, 1]]), gamma=1)
    log = torch.tensor([4 / 3, 4.0], dtype=torch.float64).log()
    assert sums.focal_pos[0].tolist() == pytest.approx([0.25 * log[0].item(), 0.75 * log[1].item()])
    assert sums.tp[0].tolist() == pytest.approx([0.75, 0.25])
    assert sums.p[0].tolist() == pytest.approx([1.5, 0.5])
    assert sums.p_sq[0].tolist() == pytest.approx([1.125, 0.125])
