"""Generalized Dice loss against MONAI's, and cases computed by hand."""

from __future__ import annotations

import itertools
import re

import monai.losses
import pytest
import torch
from torch.nn import functional as F

from segfocal.functional import generalized_dice_loss

EXACT = {"rtol": 1e-11, "atol": 1e-13}
FLOAT32 = {"rtol": 2e-6, "atol": 1e-9}
"""MONAI's class weights are float32."""
NO_SMOOTHING = {"smooth_nr": 0.0, "smooth_dr": 0.0}
ONE_FOR_ALL = (
    "weight of a generalized Dice loss must be one number per class: one for all of them cancels. "
    "Leave it out."
)


def make_case(shape=(2, 4, 5, 6)):
    logits = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.randint(
        0, shape[1], (shape[0], *shape[2:]), generator=torch.Generator().manual_seed(1)
    )
    labels[0][labels[0] == 2] = 1  # class 2 is absent from the first sample
    return logits.requires_grad_(), labels


@pytest.mark.parametrize(
    ("activation", "batch", "w_type", "include_background"),
    list(
        itertools.product(
            ["softmax", "sigmoid"], [False, True], ["square", "simple", "uniform"], [True, False]
        )
    ),
)
def test_it_is_monai_s_without_smoothing(activation, batch, w_type, include_background):
    logits, labels = make_case()
    target = F.one_hot(labels, 4).movedim(-1, 1).double()
    options = {"batch": batch, "w_type": w_type, "include_background": include_background}
    probs = logits.softmax(1) if activation == "softmax" else logits.sigmoid()
    truth = monai.losses.GeneralizedDiceLoss(**options, **NO_SMOOTHING)(probs, target)
    ours = generalized_dice_loss(logits, labels, activation=activation, **options, **NO_SMOOTHING)
    torch.testing.assert_close(ours, truth, **FLOAT32)
    grads = [torch.autograd.grad(loss, logits)[0] for loss in (ours, truth)]
    torch.testing.assert_close(*grads, **FLOAT32)


def test_by_hand():
    """p = 1/2, labels 0 0 0 1: weights 1/9 and 1, overlaps 3/2 and 1/2, unions 5 and 3."""
    logits = torch.zeros(1, 2, 4, dtype=torch.float64)
    labels = torch.tensor([[0, 0, 0, 1]])
    ours = generalized_dice_loss(logits, labels, **NO_SMOOTHING)
    assert ours.item() == pytest.approx(1 - 2 * (1.5 / 9 + 0.5) / (5 / 9 + 3))
    weighed = generalized_dice_loss(logits, labels, weight=[9.0, 1.0], **NO_SMOOTHING)
    assert weighed.item() == pytest.approx(1 - 2 * 2 / 8)


def test_smoothing_stays_small_beside_a_large_volume():
    """MONAI adds 1e-5 to sums of 1 / t, so that a large class hides behind it."""
    logits = torch.zeros(1, 2, 400_000)
    labels = torch.ones(1, 400_000, dtype=torch.uint8)
    options = {"include_background": False}
    ours = generalized_dice_loss(logits, labels, **options)
    assert ours.item() == pytest.approx(1 / 3, rel=1e-4)
    monais = monai.losses.GeneralizedDiceLoss(**options)(
        logits.softmax(1), F.one_hot(labels.long(), 2).movedim(-1, 1)
    )
    assert monais.item() < 0.2


def test_absent_classes_weigh_as_the_rarest_or_nothing():
    logits, labels = make_case((1, 3, 40))
    labels[labels == 2] = 1
    probs = logits.softmax(1).detach()
    t = torch.stack([(labels == c).sum() for c in range(3)]).double()
    for absent, of_absent in (("penalise", 1 / t[:2].min() ** 2), ("skip", 0.0)):
        weights = torch.tensor([1 / t[0] ** 2, 1 / t[1] ** 2, of_absent], dtype=torch.float64)
        overlap = torch.stack([probs[0, c][labels[0] == c].sum() for c in range(3)])
        union = probs[0].sum(1) + t
        truth = 1 - 2 * (weights * overlap).sum() / (weights * union).sum()
        ours = generalized_dice_loss(logits, labels, absent=absent, **NO_SMOOTHING)
        torch.testing.assert_close(ours.detach(), truth, **EXACT)


def test_ignored_voxels_leave_every_sum_and_every_weight():
    logits, labels = make_case()
    kept = labels.clone()
    labels[:, 3:] = 255
    ours = generalized_dice_loss(logits, labels, ignore_index=255)
    truth = generalized_dice_loss(logits[:, :, :3], kept[:, :3])
    torch.testing.assert_close(ours, truth, **EXACT)


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("smooth", [0.0, 1e-5])
def test_an_all_ignored_batch_costs_nothing_and_backward_runs(batch, smooth):
    logits, labels = make_case()
    loss = generalized_dice_loss(
        logits,
        torch.full_like(labels, 9),
        ignore_index=9,
        batch=batch,
        smooth_nr=smooth,
        smooth_dr=smooth,
    )
    assert loss.item() == 0
    loss.backward()
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("options", [{}, {"batch": True}, {"reduction": "sum"}, NO_SMOOTHING])
def test_nan_is_not_hidden(options):
    logits, labels = make_case()
    logits.detach()[0, 0, 0, 0] = torch.nan
    assert generalized_dice_loss(logits, labels, **options).isnan()


def test_an_all_ignored_sample_is_not_part_of_the_mean():
    logits, labels = make_case()
    labels[0] = 255
    ours = generalized_dice_loss(logits, labels, ignore_index=255)
    alone = generalized_dice_loss(logits[1:], labels[1:], ignore_index=255)
    torch.testing.assert_close(ours, alone, **EXACT)


def test_a_value_a_sample_without_reduction():
    logits, labels = make_case()
    each = generalized_dice_loss(logits, labels, reduction="none")
    assert each.shape == (2, 1, 1, 1)
    torch.testing.assert_close(each.mean(), generalized_dice_loss(logits, labels), **EXACT)
    total = generalized_dice_loss(logits, labels, reduction="sum")
    torch.testing.assert_close(each.sum(), total, **EXACT)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_gradcheck(activation):
    logits, labels = make_case((2, 3, 4))
    labels[0, 1] = 255
    assert torch.autograd.gradcheck(
        lambda z: generalized_dice_loss(z, labels, activation=activation, ignore_index=255), logits
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"w_type": "cube"}, "w_type must be one of square, simple, uniform: got 'cube'."),
        (
            {"absent": "smooth"},
            "absent of a generalized Dice must be one of penalise, skip: got 'smooth'.",
        ),
        ({"weight": 2.0}, ONE_FOR_ALL),
        ({"weight": torch.tensor(2.0)}, ONE_FOR_ALL),
    ],
)
def test_what_has_no_meaning_is_refused(options, message):
    logits, labels = make_case()
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        generalized_dice_loss(logits, labels, **options)
