"""Focal loss against torch's and MONAI's losses, and cases computed by hand."""

from __future__ import annotations

import math

import monai.losses
import pytest
import torch
from torch.nn import functional as F

from segfocal.functional import focal_loss

EXACT = {"rtol": 1e-11, "atol": 1e-13}
FLOAT32 = {"rtol": 2e-6, "atol": 1e-6}
"""MONAI computes in float32 whatever it is given; its terms reach 10, of which 6e-8 is 6e-7."""


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_case(shape=(2, 4, 5, 6), dtype=torch.float64):
    logits = 3 * torch.randn(shape, generator=seeded(), dtype=dtype)
    labels = torch.randint(0, max(shape[1], 2), (shape[0], *shape[2:]), generator=seeded(1))
    return logits.requires_grad_(), labels


def one_hot(labels, num_classes):
    return F.one_hot(labels, num_classes).movedim(-1, 1)


def assert_same(ours, truth, logits, **tolerance):
    torch.testing.assert_close(ours, truth, **tolerance)
    grads = [
        torch.autograd.grad(loss.sum(), logits, retain_graph=True)[0] for loss in (ours, truth)
    ]
    torch.testing.assert_close(*grads, **tolerance)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("ignored", [None, 255, 2])
def test_gamma_zero_is_cross_entropy(ignored, reduction):
    logits, labels = make_case()
    if ignored is not None:
        labels[0, 2] = ignored
    truth = F.cross_entropy(
        logits, labels, ignore_index=-100 if ignored is None else ignored, reduction=reduction
    )
    ours = focal_loss(logits, labels, gamma=0, ignore_index=ignored, reduction=reduction)
    assert_same(ours, truth, logits, **EXACT)


@pytest.mark.parametrize("name", ["weight", "alpha"])
def test_normalizer_alpha_is_weighted_cross_entropy(name):
    logits, labels = make_case()
    labels[0, 2] = 255
    weight = [0.2, 1.0, 2.5, 0.7]
    truth = F.cross_entropy(
        logits, labels, weight=torch.tensor(weight, dtype=torch.float64), ignore_index=255
    )
    ours = focal_loss(
        logits, labels, gamma=0, ignore_index=255, normalizer="alpha", **{name: weight}
    )
    assert_same(ours, truth, logits, **EXACT)


@pytest.mark.parametrize("shape", [(2, 1, 5, 6), (2, 3, 5, 6), (4, 3)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gamma_zero_sigmoid_is_binary_cross_entropy(reduction, shape):
    logits, _ = make_case(shape)
    target = torch.rand(shape, generator=seeded(3), dtype=torch.float64)
    for values in (target, (target > 0.5).double()):
        truth = F.binary_cross_entropy_with_logits(logits, values, reduction=reduction)
        ours = focal_loss(logits, values, activation="sigmoid", gamma=0, reduction=reduction)
        assert_same(ours, truth, logits, **EXACT)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 3.5])
@pytest.mark.parametrize("alpha", [None, 0.25])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_sigmoid_is_monai_where_nothing_is_ignored(reduction, alpha, gamma):
    logits, labels = make_case(dtype=torch.float32)
    target = one_hot(labels, 4).float()
    truth = monai.losses.FocalLoss(gamma=gamma, alpha=alpha, reduction=reduction)(logits, target)
    for given in (labels, labels[:, None], target):
        ours = focal_loss(
            logits, given, activation="sigmoid", gamma=gamma, alpha=alpha, reduction=reduction
        )
        assert_same(ours, truth, logits, **FLOAT32)


def test_sigmoid_class_weights_and_background_are_monai_s():
    logits, labels = make_case(dtype=torch.float32)
    weight = [0.5, 2.0, 1.5]
    truth = monai.losses.FocalLoss(weight=weight, include_background=False)(
        logits, one_hot(labels, 4).float()
    )
    ours = focal_loss(logits, labels, activation="sigmoid", weight=weight, include_background=False)
    assert_same(ours, truth, logits, **FLOAT32)


@pytest.mark.parametrize("alpha", [None, 0.25, [0.3, 1.0, 2.0, 0.7]])
def test_softmax_per_voxel_terms_are_monai_s(alpha):
    logits, labels = make_case(dtype=torch.float32)
    truth = monai.losses.FocalLoss(use_softmax=True, alpha=alpha, reduction="none")(
        logits, one_hot(labels, 4).float()
    )
    ours = focal_loss(logits, labels, alpha=alpha, reduction="none")
    assert_same(ours, truth, logits, **FLOAT32)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("include_background", [True, False])
@pytest.mark.parametrize("alpha", [None, 0.25, [0.3, 1.0, 0.9, 0.7]])
def test_terms_add_up_to_the_sum(activation, include_background, alpha):
    logits, labels = make_case()
    labels[0, 2] = 255
    options = {
        "activation": activation,
        "alpha": alpha,
        "weight": [1.0, 0.5, 2.0, 3.0],
        "include_background": include_background,
        "ignore_index": 255,
    }
    terms = focal_loss(logits, labels, reduction="none", **options)
    assert terms.shape == (2, 4 if include_background else 3, 5, 6)
    total = focal_loss(logits, labels, reduction="sum", **options)
    assert_same(terms.sum(), total, logits, **EXACT)


def hand_case():
    """Three voxels, p of their own class 3/4, 1/2 and 1/4; classes 0, 1, 1."""
    odds = torch.tensor([[[3.0, 1.0, 3.0], [1.0, 1.0, 1.0]]], dtype=torch.float64)
    return odds.log(), torch.tensor([[0, 1, 1]])


HAND_TERMS = (
    0.25**2 * math.log(4 / 3),
    0.5**2 * math.log(2),
    0.75**2 * math.log(4),
)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, sum(HAND_TERMS) / 3),
        ({"reduction": "sum"}, sum(HAND_TERMS)),
        ({"normalizer": "none"}, sum(HAND_TERMS)),
        ({"normalizer": "positives"}, sum(HAND_TERMS) / 2),
        ({"alpha": 0.2}, (0.8 * HAND_TERMS[0] + 0.2 * sum(HAND_TERMS[1:])) / 3),
        ({"alpha": [0.5, 3.0]}, (0.5 * HAND_TERMS[0] + 3 * sum(HAND_TERMS[1:])) / 3),
        (
            {"alpha": [0.5, 3.0], "normalizer": "alpha"},
            (0.5 * HAND_TERMS[0] + 3 * sum(HAND_TERMS[1:])) / 6.5,
        ),
        ({"include_background": False}, sum(HAND_TERMS[1:]) / 3),
        ({"include_background": False, "normalizer": "positives"}, sum(HAND_TERMS[1:]) / 2),
        ({"include_background": False, "alpha": [3.0]}, sum(HAND_TERMS[1:])),
        ({"ignore_index": 0}, sum(HAND_TERMS[1:]) / 2),
        ({"ignore_index": (0, 1)}, 0.0),
        ({"gamma": [2.0, 0.0]}, (HAND_TERMS[0] + math.log(8)) / 3),
    ],
)
def test_softmax_by_hand(options, expected):
    logits, labels = hand_case()
    assert focal_loss(logits, labels, **options).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (1 / 16 * math.log(4 / 3) + 1 / 16 * math.log(4 / 3) + 9 / 16 * math.log(4)) / 3),
        (
            {"alpha": 0.9},
            (
                0.9 * (1 / 16) * math.log(4 / 3)
                + 0.1 / 16 * math.log(4 / 3)
                + 0.9 * 9 / 16 * math.log(4)
            )
            / 3,
        ),
        (
            {"alpha": [0.9], "normalizer": "alpha"},
            (
                0.9 * (1 / 16) * math.log(4 / 3)
                + 0.1 / 16 * math.log(4 / 3)
                + 0.9 * 9 / 16 * math.log(4)
            )
            / 1.9,
        ),
        (
            {"normalizer": "positives"},
            (2 / 16 * math.log(4 / 3) + 9 / 16 * math.log(4)) / 2,
        ),
    ],
)
def test_sigmoid_by_hand(options, expected):
    """p = 3/4, 1/4 and 1/4; the first and the last are positives."""
    logits = torch.tensor([[[3.0, 1 / 3, 1 / 3]]], dtype=torch.float64).log()
    target = torch.tensor([[[1, 0, 1]]], dtype=torch.uint8)
    loss = focal_loss(logits, target, activation="sigmoid", **options)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_mean_of_a_batch_weighs_voxels_not_samples():
    logits, labels = make_case()
    labels[0, :4] = 255
    loss = focal_loss(logits, labels, ignore_index=255)
    sums = [
        focal_loss(logits[i : i + 1], labels[i : i + 1], ignore_index=255, reduction="sum")
        for i in range(2)
    ]
    torch.testing.assert_close(loss, sum(sums) / (6 + 30), **EXACT)


def test_fewer_than_one_positive_count_as_one():
    logits, labels = make_case()
    shares = one_hot(labels * 0, 4).double()
    shares[0, :2, 0, 0] = 0.5
    for target in (labels * 0, shares):
        loss = focal_loss(logits, target, normalizer="positives")
        assert loss.item() == pytest.approx(focal_loss(logits, target, reduction="sum").item())


@pytest.mark.parametrize("normalizer", ["valid", "positives", "alpha", "none"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_an_all_ignored_batch_costs_nothing_and_backward_runs(activation, normalizer):
    logits, labels = make_case()
    loss = focal_loss(
        logits,
        torch.full_like(labels, 255),
        activation=activation,
        ignore_index=255,
        alpha=0.3,
        normalizer=normalizer,
    )
    assert loss.item() == 0
    loss.backward()
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("alpha", [0.3, [0.1, 0.5, 0.9, 0.3]])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("normalizer", ["valid", "alpha"])
def test_gradcheck(activation, alpha, normalizer):
    logits, labels = make_case((2, 4, 3))

    def loss(values):
        options = {"activation": activation, "alpha": alpha, "normalizer": normalizer}
        return focal_loss(values, labels, gamma=0.5, **options)

    assert torch.autograd.gradcheck(loss, logits)


def test_partly_masked_softmax_counts_each_voxel_once():
    logits, labels = make_case()
    mask = torch.ones(2, 4, 5, 6, dtype=torch.bool)
    mask[:, 3] = False
    labels[labels == 3] = 0
    loss = focal_loss(logits, labels, gamma=0, mask=mask)
    truth = F.cross_entropy(logits[:, :3], labels)
    torch.testing.assert_close(loss, truth, **EXACT)
