"""Unified focal loss against the authors' formulas, written here on probabilities."""

from __future__ import annotations

import re

import pytest
import torch
from torch.nn import functional as F

from segfocal.functional import unified_focal_loss

EXACT = {"rtol": 1e-10, "atol": 1e-12}
SMOOTH = 1e-5


def make_case(shape=(2, 3, 5, 6)):
    logits = 2 * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.randint(
        0, shape[1], (shape[0], *shape[2:]), generator=torch.Generator().manual_seed(1)
    )
    return logits.requires_grad_(), labels


def authors_loss(probs, onehot, *, asymmetric, weight, delta, gamma):
    """mlyg/unified-focal-loss (2022), channels at axis 1, mean over voxels and over classes."""
    ce = -onehot * probs.log()
    back = (1 - delta) * (1 - probs[:, :1]) ** gamma * ce[:, :1]
    focus = torch.ones_like(probs) if asymmetric else (1 - probs) ** gamma
    fore = delta * focus[:, 1:] * ce[:, 1:]
    focal = torch.cat([back, fore], 1).sum(1).mean()
    axes = tuple(range(2, probs.ndim))
    tp = (onehot * probs).sum(axes)
    fn, fp = (onehot * (1 - probs)).sum(axes), ((1 - onehot) * probs).sum(axes)
    miss = 1 - (tp + SMOOTH) / (tp + delta * fn + (1 - delta) * fp + SMOOTH)
    back = miss[:, :1] if asymmetric else miss[:, :1] ** (1 - gamma)
    tversky = torch.cat([back, miss[:, 1:] ** (1 - gamma)], 1).mean()
    return weight * focal + (1 - weight) * tversky


@pytest.mark.parametrize("asymmetric", [True, False])
@pytest.mark.parametrize("num_classes", [2, 4])
def test_softmax_is_the_authors_formula_on_probabilities(asymmetric, num_classes):
    logits, labels = make_case((2, num_classes, 5, 6))
    numbers = {"asymmetric": asymmetric, "weight": 0.3, "delta": 0.7, "gamma": 0.4}
    onehot = F.one_hot(labels, num_classes).movedim(-1, 1)
    truth = authors_loss(logits.softmax(1), onehot, **numbers)
    ours = unified_focal_loss(logits, labels, **numbers)
    torch.testing.assert_close(ours, truth, **EXACT)
    grads = [torch.autograd.grad(loss, logits)[0] for loss in (ours, truth)]
    torch.testing.assert_close(*grads, **EXACT)


@pytest.mark.parametrize("asymmetric", [True, False])
def test_a_sigmoid_channel_is_two_classes_under_softmax(asymmetric):
    logits, labels = make_case((2, 1, 5, 6))
    labels = (torch.arange(60).view(2, 5, 6) % 3 == 0).long()
    pair = torch.cat([torch.zeros_like(logits), logits], 1)
    ours = unified_focal_loss(logits, labels, activation="sigmoid", asymmetric=asymmetric)
    truth = unified_focal_loss(pair, labels, asymmetric=asymmetric)
    torch.testing.assert_close(ours, truth, **EXACT)
    grads = [torch.autograd.grad(loss, logits)[0] for loss in (ours, truth)]
    torch.testing.assert_close(*grads, **EXACT)


def test_regions_are_the_mean_over_their_channels():
    logits, labels = make_case((2, 2, 5, 6))
    labels = torch.arange(60).view(2, 5, 6) % 4
    regions = ((1, 2, 3), (3,))
    ours = unified_focal_loss(logits, labels, activation="sigmoid", regions=regions)
    each = [
        unified_focal_loss(
            logits[:, c : c + 1],
            sum((labels == v).long() for v in region),
            activation="sigmoid",
        )
        for c, region in enumerate(regions)
    ]
    torch.testing.assert_close(ours, torch.stack(each).mean(), **EXACT)


def test_ignored_voxels_leave_both_terms():
    logits, labels = make_case()
    kept = labels.clone()
    labels[:, 3:] = 255
    ours = unified_focal_loss(logits, labels, ignore_index=255)
    torch.testing.assert_close(ours, unified_focal_loss(logits[:, :, :3], kept[:, :3]), **EXACT)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_an_all_ignored_batch_costs_nothing_and_backward_runs(activation):
    logits, labels = make_case()
    loss = unified_focal_loss(
        logits, torch.full_like(labels, 9), activation=activation, ignore_index=9
    )
    assert loss.item() == 0
    loss.backward()
    assert (logits.grad == 0).all()


def test_confident_logits_have_gradients():
    """MONAI takes logits for probabilities and clips them: most gradients are 0 there."""
    logits, labels = make_case()
    (grad,) = torch.autograd.grad(unified_focal_loss(5 * logits, labels), logits)
    assert (grad != 0).all()


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("asymmetric", [True, False])
def test_gradcheck(activation, asymmetric):
    logits, labels = make_case((2, 3, 4))
    labels[0, 1] = 255
    assert torch.autograd.gradcheck(
        lambda z: unified_focal_loss(
            z, labels, activation=activation, asymmetric=asymmetric, ignore_index=255
        ),
        logits,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": 1.5}, "weight of a unified focal loss must be in [0, 1]: got 1.5."),
        ({"delta": -1.0}, "delta of a unified focal loss must be in [0, 1]: got -1."),
        (
            {"gamma": 2.0},
            (
                "gamma of a unified focal loss must be in [0, 1): got 2. It is the focal loss's "
                "exponent and 1 minus the Tversky loss's."
            ),
        ),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    logits, labels = make_case()
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        unified_focal_loss(logits, labels, **options)
