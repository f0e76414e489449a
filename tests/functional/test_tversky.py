"""Tversky and focal Tversky loss against MONAI's, and cases computed by hand."""

from __future__ import annotations

import itertools
import re

import monai.losses
import pytest
import torch
from torch.nn import functional as F

from segfocal.functional import dice_loss, tversky_loss

EXACT = {"rtol": 1e-11, "atol": 1e-13}


def make_case(shape=(2, 4, 5, 6)):
    logits = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.randint(
        0, shape[1], (shape[0], *shape[2:]), generator=torch.Generator().manual_seed(1)
    )
    return logits.requires_grad_(), labels


@pytest.mark.parametrize(
    ("activation", "batch", "include_background"),
    list(itertools.product(["softmax", "sigmoid"], [False, True], [False, True])),
)
def test_it_is_monai_s_where_nothing_is_ignored(activation, batch, include_background):
    logits, labels = make_case()
    target = F.one_hot(labels, 4).movedim(-1, 1).double()
    numbers = {"alpha": 0.3, "beta": 0.8, "smooth_nr": 0.3, "smooth_dr": 0.7, "batch": batch}
    probs = logits.softmax(1) if activation == "softmax" else logits.sigmoid()
    truth = monai.losses.TverskyLoss(include_background=include_background, **numbers)(
        probs, target
    )
    ours = tversky_loss(
        logits, labels, activation=activation, include_background=include_background, **numbers
    )
    torch.testing.assert_close(ours, truth, **EXACT)
    grads = [torch.autograd.grad(loss, logits)[0] for loss in (ours, truth)]
    torch.testing.assert_close(*grads, **EXACT)


def test_a_half_and_a_half_is_dice_and_one_and_one_is_jaccard():
    logits, labels = make_case()
    smooth = {"smooth_nr": 0.2, "smooth_dr": 0.2}
    twice = {"smooth_nr": 0.4, "smooth_dr": 0.4}
    ours = tversky_loss(logits, labels, alpha=0.5, beta=0.5, **smooth)
    torch.testing.assert_close(ours, dice_loss(logits, labels, **twice), **EXACT)
    ours = tversky_loss(logits, labels, alpha=1.0, beta=1.0, **smooth)
    torch.testing.assert_close(ours, dice_loss(logits, labels, jaccard=True, **twice), **EXACT)


def test_by_hand():
    """p of class 1: 3/4, 1/4, 1/4; labels 1, 1, 0: tp 1, fp 1/4, fn 1."""
    odds = torch.tensor([[[1.0, 3.0, 3.0], [3.0, 1.0, 1.0]]], dtype=torch.float64)
    labels = torch.tensor([[1, 1, 0]])

    def loss(**more):
        options = {"include_background": False, "smooth_nr": 0.0, "smooth_dr": 0.0}
        return tversky_loss(odds.log(), labels, **options, **more).item()

    assert loss(alpha=0.4, beta=0.6) == pytest.approx(1 - 1 / 1.7)
    assert loss(alpha=0.4, beta=0.6, gamma=4 / 3) == pytest.approx((1 - 1 / 1.7) ** 0.75)
    assert loss(alpha=2.0, beta=0.0, weight=[3.0]) == pytest.approx(3 * (1 - 1 / 1.5))


def test_ignored_voxels_leave_every_sum():
    logits, labels = make_case()
    kept = labels.clone()
    labels[:, 3:] = 255
    ours = tversky_loss(logits, labels, ignore_index=255, gamma=1.5)
    truth = tversky_loss(logits[:, :, :3], kept[:, :3], gamma=1.5)
    torch.testing.assert_close(ours, truth, **EXACT)


@pytest.mark.parametrize("smooth", [0.0, 1e-5])
def test_a_perfect_class_has_no_slope_where_the_power_s_is_infinite(smooth):
    logits = torch.tensor([[[200.0, -200.0], [-200.0, 200.0]]], requires_grad=True)
    loss = tversky_loss(
        logits, torch.tensor([[0, 1]]), gamma=2.0, smooth_nr=smooth, smooth_dr=smooth
    )
    assert loss.item() == pytest.approx(0, abs=1e-6)
    loss.backward()
    assert (logits.grad == 0).all()


def test_an_empty_class_without_smoothing_costs_nothing():
    logits = torch.tensor([[[200.0, 200.0], [-200.0, -200.0]]], requires_grad=True)
    loss = tversky_loss(
        logits, torch.tensor([[0, 0]]), smooth_nr=0.0, smooth_dr=0.0, alpha=0.5, gamma=4 / 3
    )
    assert loss.item() == 0
    loss.backward()
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("gap", [80, 95, 100, 103])
@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_an_all_but_empty_class_without_smoothing_is_finite(gap, gamma):
    """p = exp(-gap) has no inverse in float32, and a slope of infinity met a voxel's 0."""
    logits = torch.tensor([[[0.0, 0.0], [-gap, -gap]]], requires_grad=True)
    loss = tversky_loss(
        logits,
        torch.tensor([[0, 0]]),
        gamma=gamma,
        smooth_nr=0.0,
        smooth_dr=0.0,
        backend="reference",
    )
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.isfinite().all()


def test_an_all_ignored_batch_costs_nothing_and_backward_runs():
    logits, labels = make_case()
    loss = tversky_loss(logits, torch.full_like(labels, 7), ignore_index=7, gamma=1.3)
    assert loss.item() == 0
    loss.backward()
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_gradcheck(activation):
    logits, labels = make_case((2, 3, 4))
    labels[0, 1] = 255
    assert torch.autograd.gradcheck(
        lambda z: tversky_loss(
            z, labels, activation=activation, alpha=0.3, beta=0.7, gamma=4 / 3, ignore_index=255
        ),
        logits,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -0.1}, "alpha must be a finite number >= 0: got -0.1."),
        ({"beta": float("nan")}, "beta must be a finite number >= 0: got nan."),
        (
            {"gamma": 0.75},
            (
                "gamma of a Tversky loss must be 1 or more: the loss is (1 - TI)^(1 / gamma). "
                "Got 0.75."
            ),
        ),
        ({"absent": "no"}, "absent must be one of smooth, skip, penalise: got 'no'."),
    ],
)
def test_bad_numbers_are_refused(options, message):
    logits, labels = make_case()
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        tversky_loss(logits, labels, **options)
