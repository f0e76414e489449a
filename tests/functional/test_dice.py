"""Dice and Jaccard loss against MONAI's, and cases computed by hand."""

from __future__ import annotations

import itertools

import monai.losses
import pytest
import torch
from torch.nn import functional as F

from segfocal.functional import dice_loss

EXACT = {"rtol": 1e-11, "atol": 1e-13}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_case(shape=(2, 4, 5, 6), dtype=torch.float64):
    logits = 3 * torch.randn(shape, generator=seeded(), dtype=dtype)
    labels = torch.randint(0, max(shape[1], 2), (shape[0], *shape[2:]), generator=seeded(1))
    return logits.requires_grad_(), labels


@pytest.mark.parametrize(
    ("squared_pred", "jaccard", "batch"), list(itertools.product([False, True], repeat=3))
)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_it_is_monai_s_where_nothing_is_ignored(
    activation, reduction, squared_pred, jaccard, batch
):
    logits, labels = make_case()
    options = {
        "squared_pred": squared_pred,
        "jaccard": jaccard,
        "batch": batch,
        "reduction": reduction,
        "smooth_nr": 0.3,
        "smooth_dr": 0.7,
        "weight": [0.5, 1.0, 2.0, 1.5],
    }
    oracle = monai.losses.DiceLoss(**{activation: True}, **options)
    truth = oracle(logits, F.one_hot(labels, 4).movedim(-1, 1).double())
    ours = dice_loss(logits, labels, activation=activation, **options)
    if reduction == "none":
        assert ours.shape == ((1, 4, 1, 1) if batch else (2, 4, 1, 1))
    # MONAI's weights are float32
    torch.testing.assert_close(ours.flatten(), truth.flatten(), rtol=1e-6, atol=1e-12)
    grads = [torch.autograd.grad(loss.sum(), logits)[0] for loss in (ours, truth)]
    torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 3, 7), (1, 3, 2, 3, 4)])
def test_it_is_monai_s_with_any_number_of_axes(shape):
    logits, labels = make_case(shape)
    truth = monai.losses.DiceLoss(softmax=True)(logits, F.one_hot(labels, 3).movedim(-1, 1))
    torch.testing.assert_close(dice_loss(logits, labels), truth, **EXACT)


def test_logits_without_space_are_one_voxel():
    logits, labels = make_case((5, 3))
    ours = dice_loss(logits, labels)
    torch.testing.assert_close(ours, dice_loss(logits[..., None], labels[:, None]), **EXACT)
    assert dice_loss(logits, labels, reduction="none").shape == (5, 3)


def test_a_single_sigmoid_channel_is_monai_s():
    logits, labels = make_case((2, 1, 5, 6))
    truth = monai.losses.DiceLoss(sigmoid=True)(logits, labels[:, None])
    torch.testing.assert_close(dice_loss(logits, labels, activation="sigmoid"), truth, **EXACT)


def test_background_is_left_out_after_the_softmax():
    logits, labels = make_case()
    truth = monai.losses.DiceLoss(include_background=False)(
        torch.softmax(logits, 1), F.one_hot(labels, 4).movedim(-1, 1)
    )
    ours = dice_loss(logits, labels, include_background=False)
    torch.testing.assert_close(ours, truth, **EXACT)
    assert dice_loss(logits, labels, include_background=False, reduction="none").shape == (
        2,
        3,
        1,
        1,
    )


def test_ignored_voxels_leave_numerator_and_denominator():
    logits, labels = make_case()
    kept = labels.clone()
    labels[:, 3:] = 255
    for options in ({}, {"squared_pred": True}, {"jaccard": True}, {"batch": True}):
        ours = dice_loss(logits, labels, ignore_index=255, **options)
        truth = dice_loss(logits[:, :, :3], kept[:, :3], **options)
        torch.testing.assert_close(ours, truth, **EXACT)


def test_by_hand():
    """p of class 1: 3/4, 1/4, 1/4; labels 1, 1, 0: tp 1, p 5/4, t 2."""
    odds = torch.tensor([[[1.0, 3.0, 3.0], [3.0, 1.0, 1.0]]], dtype=torch.float64)
    labels = torch.tensor([[1, 1, 0]])
    options = {"include_background": False, "smooth_nr": 0.0, "smooth_dr": 0.0}

    def loss(**more):
        return dice_loss(odds.log(), labels, **options, **more).item()

    assert loss() == pytest.approx(1 - 2 / 3.25)
    assert loss(jaccard=True) == pytest.approx(1 - 1 / 2.25)
    assert loss(squared_pred=True) == pytest.approx(1 - 2 / (11 / 16 + 2))
    assert loss(weight=[3.0]) == pytest.approx(3 * (1 - 2 / 3.25))


def test_absent_classes_are_skipped_or_left_to_the_smoothing():
    logits, labels = make_case((2, 3, 40))
    labels[0][labels[0] == 2] = 1
    each = dice_loss(logits, labels, reduction="none").flatten()
    present = [True, True, False, True, True, True]
    torch.testing.assert_close(dice_loss(logits, labels), each.mean(), **EXACT)
    torch.testing.assert_close(
        dice_loss(logits, labels, absent="skip"), each[present].mean(), **EXACT
    )
    torch.testing.assert_close(
        dice_loss(logits, labels, absent="skip", reduction="sum"), each[present].sum(), **EXACT
    )
    skipped = dice_loss(logits, labels, absent="skip", reduction="none").flatten()
    assert skipped[2].item() == 0
    batch = dice_loss(logits, labels, batch=True)
    torch.testing.assert_close(dice_loss(logits, labels, batch=True, absent="skip"), batch, **EXACT)


@pytest.mark.parametrize("squared_pred", [False, True])
@pytest.mark.parametrize("batch", [False, True])
def test_an_absent_class_is_penalised_by_its_false_positives(batch, squared_pred):
    logits, labels = make_case((2, 3, 400))
    labels[labels == 2] = 1
    labels[0, :100] = 255
    options = {"batch": batch, "squared_pred": squared_pred, "reduction": "none"}
    each = dice_loss(logits, labels, absent="penalise", ignore_index=255, **options).flatten(1)
    probs = logits.softmax(1)[:, 2]
    p = torch.stack([probs[0, 100:].sum(), probs[1].sum()])
    valid = torch.tensor([300.0, 400.0], dtype=torch.float64)
    if batch:
        p, valid = p.sum(0, keepdim=True), valid.sum(0, keepdim=True)
    torch.testing.assert_close(each[:, 2], p / (p + 0.01 * valid), **EXACT)
    left = dice_loss(logits, labels, ignore_index=255, **options).flatten(1)
    torch.testing.assert_close(each[:, :2], left[:, :2], **EXACT)


def test_a_penalised_absent_class_has_a_gradient_where_a_smoothed_one_has_none():
    logits = torch.zeros(1, 2, 1000, dtype=torch.float64, requires_grad=True)
    labels = torch.zeros(1, 1000, dtype=torch.long)
    slopes = {}
    for absent in ("smooth", "penalise"):
        loss = dice_loss(logits, labels, absent=absent, include_background=False)
        (grad,) = torch.autograd.grad(loss, logits)
        slopes[absent] = grad[:, 1].sum().item()
    assert slopes["penalise"] > 1e-3
    assert slopes["smooth"] < 1e-7


def soft_case(activation):
    generator = torch.Generator().manual_seed(5)
    logits = 2 * torch.randn(2, 3, 40, generator=generator, dtype=torch.float64)
    target = torch.rand(2, 3, 40, generator=generator, dtype=torch.float64)
    if activation == "softmax":
        target = target / target.sum(1, keepdim=True)
    return logits.requires_grad_(), target


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("options", [{"soft_label": True}, {"squared_pred": True}, {}])
@pytest.mark.parametrize("jaccard", [False, True])
def test_soft_targets_are_monai_s(activation, options, jaccard):
    """MONAI's word is the same: soft_label is the semimetric form."""
    logits, target = soft_case(activation)
    probs = logits.softmax(1) if activation == "softmax" else logits.sigmoid()
    smooth = {"smooth_nr": 0.0, "smooth_dr": 0.0, "jaccard": jaccard}
    if options.get("squared_pred"):  # MONAI has the squares of the target with soft_label only
        truth = monai.losses.DiceLoss(squared_pred=True, soft_label=True, **smooth)(probs, target)
    else:
        truth = monai.losses.DiceLoss(**options, **smooth)(probs, target)
    ours = dice_loss(logits, target, activation=activation, **options, **smooth)
    torch.testing.assert_close(ours, truth, **EXACT)
    grads = [torch.autograd.grad(loss, logits)[0] for loss in (ours, truth)]
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("options", [{"soft_label": True}, {"squared_pred": True}])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_the_soft_forms_are_smallest_at_the_target_itself(activation, options):
    _, target = soft_case(activation)
    logits = target.log() if activation == "softmax" else target.logit()
    at_target = dice_loss(logits, target, activation=activation, **options)
    assert at_target.item() == pytest.approx(0, abs=1e-6)
    sharper = dice_loss(3 * logits, target, activation=activation, **options)
    assert sharper > at_target + 0.01
    linear = dice_loss(logits, target, activation=activation)
    assert dice_loss(3 * logits, target, activation=activation) < linear


def test_squares_of_a_soft_target_leave_masked_voxels_out():
    logits, target = soft_case("sigmoid")
    mask = torch.ones(2, 1, 40, dtype=torch.bool)
    mask[..., 30:] = False
    options = {"activation": "sigmoid", "squared_pred": True}
    poisoned = torch.where(mask, target, torch.nan)
    ours = dice_loss(logits, poisoned, mask=mask, **options)
    truth = dice_loss(logits[..., :30], target[..., :30], **options)
    torch.testing.assert_close(ours, truth, **EXACT)


def test_soft_label_and_squared_pred_exclude_each_other():
    logits, target = soft_case("sigmoid")
    message = "^soft_label and squared_pred are two remedies for one thing, targets between 0 and 1"
    with pytest.raises(ValueError, match=message):
        dice_loss(logits, target, activation="sigmoid", soft_label=True, squared_pred=True)


def test_a_batch_without_any_lesion_skips_to_zero_with_gradient():
    logits, labels = make_case()
    loss = dice_loss(logits, labels * 0, absent="skip", include_background=False)
    assert loss.item() == 0
    loss.backward()
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("smooth_nr", [0.0, 1e-5, 1.0])
@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_an_all_ignored_batch_costs_nothing_and_backward_runs(activation, batch, smooth_nr):
    logits, labels = make_case()
    loss = dice_loss(
        logits,
        torch.full_like(labels, 255),
        activation=activation,
        ignore_index=255,
        batch=batch,
        smooth_nr=smooth_nr,
    )
    assert loss.item() == 0
    loss.backward()
    assert (logits.grad == 0).all()


def test_a_channel_that_nobody_annotated_is_not_in_the_mean():
    logits, _ = make_case((2, 3, 5, 6))
    target = torch.rand(2, 3, 5, 6, generator=seeded(4)) > 0.5
    mask = torch.ones(2, 3, 5, 6, dtype=torch.bool)
    mask[0, 1] = False
    options = {"activation": "sigmoid"}
    each = dice_loss(logits, target, reduction="none", **options).flatten()
    ours = dice_loss(logits, target, mask=mask, **options)
    torch.testing.assert_close(ours, each[[0, 2, 3, 4, 5]].mean(), **EXACT)


def test_an_empty_class_without_smoothing_is_finite():
    logits = torch.tensor([[[200.0, 200.0], [-200.0, -200.0]]], requires_grad=True)
    labels = torch.tensor([[0, 0]])
    loss = dice_loss(logits, labels, smooth_nr=0.0, smooth_dr=0.0)
    assert loss.item() == 0
    loss.backward()
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("gap", [40, 46, 50, 88, 95, 103])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize(
    "options", [{}, {"squared_pred": True}, {"jaccard": True, "weight": 100.0}]
)
def test_an_all_but_empty_class_without_smoothing_is_finite(gap, activation, options):
    """Between p = 0 and what 1 / p can hold, a slope of infinity met a voxel's 0."""
    labels = torch.zeros(1, 4, dtype=torch.uint8)
    for backend in ("chunked", "reference"):
        logits = torch.full((1, 2, 4), float(gap))
        logits[:, 1] *= -1 if activation == "sigmoid" else 0
        logits.requires_grad_()
        loss = dice_loss(
            logits,
            labels,
            activation=activation,
            smooth_nr=0.0,
            smooth_dr=0.0,
            backend=backend,
            **options,
        )
        loss.backward()
        assert loss.isfinite()
        assert logits.grad.isfinite().all()


def test_nan_is_not_hidden():
    logits, labels = make_case()
    with torch.no_grad():
        logits[0, 0, 0, 0] = torch.nan
    assert dice_loss(logits, labels).isnan()
    assert dice_loss(logits, labels, smooth_nr=0.0, smooth_dr=0.0).isnan()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"jaccard": True, "batch": True},
        {"squared_pred": True, "include_background": False},
        {"absent": "skip", "weight": [0.1, 1.0, 2.0, 0.5]},
    ],
)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_gradcheck(activation, options):
    logits, labels = make_case((2, 4, 3))
    labels[0, 1] = 255
    assert torch.autograd.gradcheck(
        lambda z: dice_loss(z, labels, activation=activation, ignore_index=255, **options), logits
    )
