"""Label smoothing and the minimum overlap, against torch's own cross-entropy and a naive oracle."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from segfocal.ops import ClassSums, class_sums, voxel_focal

EXACT = {"rtol": 1e-11, "atol": 1e-12}
"""float64 against float64, over fewer than 1000 terms."""


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_case(shape=(2, 4, 3, 5), dtype=torch.float64):
    logits = 3 * torch.randn(shape, generator=seeded(), dtype=torch.float64)
    labels = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=seeded(1))
    return logits.to(dtype).requires_grad_(), labels


def make_shares(shape=(2, 4, 3, 5)):
    noise = torch.randn(shape, generator=seeded(5), dtype=torch.float64)
    return torch.softmax(2 * noise, 1)


def combined(sums):
    """One number that weighs every differentiable sum differently for each sample and class."""
    per_class = torch.arange(1, sums.t.numel() + 1, dtype=sums.t.dtype).view_as(sums.t).sqrt()
    coefficients = (0.7, -0.3, 1.1, 0.4, -0.9)
    return sum(
        (weight * field * per_class).sum()
        for weight, field in zip(coefficients, sums[:5], strict=True)
    )


@pytest.mark.parametrize("masked", ["nowhere", "voxels", "channels"])
@pytest.mark.parametrize("kind", ["labels", "shares"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, (0.0, 0.5, 2.0, 3.0)])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_both_options_match_the_naive_formulas(naive, activation, gamma, kind, masked):
    logits, labels = make_case()
    options = {"label_smoothing": 0.2, "overlap": "minimum"}
    if masked != "nowhere":
        width = 1 if masked == "voxels" else 4
        options["mask"] = torch.rand(2, width, 3, 5, generator=seeded(4)) > 0.3
        if masked == "channels":
            options["mask"][:, :2] = True  # a class alone has p = 1, where the oracle breaks
    target = labels if kind == "labels" else make_shares()
    if kind == "shares" and masked == "channels" and activation == "softmax":
        target = F.one_hot(labels, 4).movedim(-1, 1).double()
    ours = class_sums(logits, target, activation=activation, gamma=gamma, **options)
    oracle = naive(logits, target, activation=activation, gamma=gamma, **options)
    for name, value in oracle.items():
        torch.testing.assert_close(getattr(ours, name), value, **EXACT, msg=name)
    grads = [torch.autograd.grad(combined(sums), logits)[0] for sums in (ours, ClassSums(**oracle))]
    torch.testing.assert_close(*grads, **EXACT)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("weighted", [False, True])
def test_smoothed_gamma_zero_is_cross_entropy(smoothing, weighted):
    logits, labels = make_case()
    labels[0, 1] = -100
    weight = torch.tensor([0.3, 1.0, 2.5, 0.7], dtype=torch.float64)
    weight = weight if weighted else torch.ones_like(weight)
    truth = F.cross_entropy(logits, labels, weight=weight, label_smoothing=smoothing)
    sums = class_sums(logits, labels, gamma=0, label_smoothing=smoothing, ignore_index=-100)
    loss = (sums.focal_pos * weight).sum() / (sums.t * weight).sum()
    torch.testing.assert_close(loss, truth, **EXACT)
    grads = [torch.autograd.grad(value, logits)[0] for value in (loss, truth)]
    torch.testing.assert_close(*grads, **EXACT)


def test_smoothed_shares_are_cross_entropy_of_probabilities():
    logits, _ = make_case()
    shares = make_shares()
    weight = torch.tensor([0.3, 1.0, 2.5, 0.7], dtype=torch.float64)
    truth = F.cross_entropy(logits, shares, weight=weight, label_smoothing=0.3, reduction="sum")
    sums = class_sums(logits, shares, gamma=0, label_smoothing=0.3)
    torch.testing.assert_close((sums.focal_pos * weight).sum(), truth, **EXACT)


def test_smoothed_sigmoid_is_binary_cross_entropy_towards_one_half():
    logits, labels = make_case()
    one_hot = F.one_hot(labels, 4).movedim(-1, 1).double()
    smoothed = 0.8 * one_hot + 0.1
    truth = F.binary_cross_entropy_with_logits(logits, smoothed, reduction="sum")
    sums = class_sums(logits, labels, activation="sigmoid", gamma=0, label_smoothing=0.2)
    torch.testing.assert_close((sums.focal_pos + sums.focal_neg).sum(), truth, **EXACT)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_smoothing_touches_the_focal_fields_alone(activation):
    """To the bit where both are computed in the same way, which is so in the reference."""
    logits, labels = make_case()
    options = {"activation": activation, "backend": "reference"}
    plain = class_sums(logits, labels, **options)
    smoothed = class_sums(logits, labels, **options, label_smoothing=0.1)
    for name in ("tp", "p", "p_sq", "t", "n_valid"):
        assert torch.equal(getattr(smoothed, name), getattr(plain, name)), name
    assert (smoothed.focal_pos > plain.focal_pos).any()


def test_minus_infinity_costs_infinity_with_smoothing_as_in_cross_entropy():
    logits, labels = make_case()
    with torch.no_grad():
        logits[0, 2, 0, 0] = -torch.inf
    labels[0, 0, 0] = 1
    loss = class_sums(logits, labels, gamma=0, label_smoothing=0.1).focal_pos.sum()
    truth = F.cross_entropy(logits, labels, label_smoothing=0.1, reduction="sum")
    assert loss.item() == truth.item() == torch.inf
    grads = [torch.autograd.grad(value, logits)[0] for value in (loss, truth)]
    torch.testing.assert_close(*grads, **EXACT)
    assert class_sums(logits, labels, gamma=0).focal_pos.isfinite().all()


def test_what_smoothing_would_give_to_a_masked_class_is_dropped():
    logits, labels = make_case((1, 4, 6))
    labels %= 3
    mask = torch.ones(1, 4, 6, dtype=torch.bool)
    mask[:, 3] = False
    sums = class_sums(logits, labels, gamma=0, label_smoothing=0.4, mask=mask)
    log_p = F.log_softmax(logits[:, :3], 1)
    shares = 0.6 * F.one_hot(labels, 3).movedim(-1, 1).double() + 0.4 / 4
    torch.testing.assert_close(sums.focal_pos[:, :3], -(shares * log_p).sum(-1), **EXACT)
    assert sums.focal_pos[0, 3] == 0
    (grad,) = torch.autograd.grad(combined(sums), logits)
    assert (grad[:, 3] == 0).all()
    assert grad.isfinite().all()


@pytest.mark.parametrize("form", ["labels", "bool", "float"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_for_hard_targets_the_minimum_is_the_product(activation, form):
    logits, labels = make_case()
    with torch.no_grad():
        logits[0, 1, 0] = 60.0  # p rounds to 1, the corner of the minimum
        logits[0, 2, 0] = -800.0  # and to 0
    target = labels
    if form != "labels":
        one_hot = F.one_hot(labels, 4).movedim(-1, 1)
        target = one_hot.bool() if form == "bool" else one_hot.double()
    product, minimum = (
        class_sums(logits, target, activation=activation, overlap=overlap)
        for overlap in ("product", "minimum")
    )
    assert all(torch.equal(one, other) for one, other in zip(product, minimum, strict=True))
    grads = [torch.autograd.grad(combined(sums), logits)[0] for sums in (product, minimum)]
    assert torch.equal(*grads)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_the_minimum_dice_is_best_where_the_probabilities_are_the_shares(activation):
    shares = make_shares()
    logits = shares.log() if activation == "softmax" else shares.logit()

    def dice(overlap, logits):
        sums = class_sums(logits, shares, activation=activation, overlap=overlap)
        return (2 * sums.tp / (sums.p + sums.t)).sum()

    assert dice("minimum", logits).item() == pytest.approx(8)  # 2 samples of 4 classes
    assert dice("minimum", 3 * logits) < 7.5
    assert dice("product", logits) < dice("product", 3 * logits)


def test_the_slope_at_the_corner_is_one_half():
    logits = torch.zeros(1, 2, 1, dtype=torch.float64, requires_grad=True)
    half = torch.full((1, 2, 1), 0.5, dtype=torch.float64)
    sums = class_sums(logits, half, activation="sigmoid", overlap="minimum")
    (grad,) = torch.autograd.grad(sums.tp.sum(), logits)
    assert grad.flatten().tolist() == [0.125, 0.125]  # 1/2 p (1 - p)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_gradcheck_with_both_options(activation, gamma):
    logits, _ = make_case((2, 3, 4))
    shares = make_shares((2, 3, 4))
    mask = torch.rand(2, 1, 4, generator=seeded(1)) > 0.2

    def differentiable_sums(values):
        options = {"gamma": gamma, "label_smoothing": 0.15, "overlap": "minimum", "mask": mask}
        return class_sums(values, shares, activation=activation, **options)[:5]

    assert torch.autograd.gradcheck(differentiable_sums, logits)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_smoothed_voxels_sum_to_the_smoothed_sums(activation):
    logits, labels = make_case()
    weights = torch.tensor([[0.2, 1.3, 0.6, 1.0], [0.8, 0.4, 1.1, 0.1]], dtype=torch.float64)
    options = {"activation": activation, "gamma": 1.5, "label_smoothing": 0.2}
    voxels = voxel_focal(logits, labels, weights, **options).sum()
    sums = class_sums(logits, labels, **options)
    total = (sums.focal_pos * weights[0] + sums.focal_neg * weights[1]).sum()
    torch.testing.assert_close(voxels, total, **EXACT)
    grads = [torch.autograd.grad(loss, logits)[0] for loss in (voxels, total)]
    torch.testing.assert_close(*grads, **EXACT)


def test_vmap_of_grad_carries_both_options():
    logits, _ = make_case((3, 2, 4, 5))
    shares = make_shares((3, 2, 4, 5))

    def loss(values, target):
        sums = class_sums(values, target, label_smoothing=0.1, overlap="minimum")
        return combined(sums)

    per_sample = torch.func.vmap(torch.func.grad(loss))(
        logits.detach().unsqueeze(1), shares.unsqueeze(1)
    )
    looped = [
        torch.func.grad(loss)(z[None], t[None])
        for z, t in zip(logits.detach(), shares, strict=True)
    ]
    torch.testing.assert_close(per_sample, torch.stack(looped), **EXACT)
