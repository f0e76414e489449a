"""One-vs-rest focal loss against the published code's formula."""

from __future__ import annotations

import re

import pytest
import torch
from torch.nn import functional as F

from segfocal.functional import focal_loss, one_vs_rest_focal_loss

EXACT = {"rtol": 1e-11, "atol": 1e-13}


def make_case():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 4, 5, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (2, 5, 6), generator=generator)
    labels[0, 2] = -100
    return logits.requires_grad_(), labels


def published(logits, labels, *, alpha, gamma, smooth_factor, reduction):
    """Rows of logits `(N, C)` and labels `(N,)`, those ignored dropped."""
    rows, labels = logits.movedim(1, -1).reshape(-1, 4), labels.flatten()
    rows, labels = rows[labels != -100], labels[labels != -100]
    targets = F.one_hot(labels, 4).double()
    ce = F.binary_cross_entropy_with_logits(rows, targets, reduction="none")
    p = rows.sigmoid()
    smooth_p = p * (1 - smooth_factor) + smooth_factor / 2
    p_t = smooth_p * targets + (1 - smooth_p) * (1 - targets)
    loss = ce * (1 - p_t) ** gamma
    if alpha is not None:
        loss = (alpha * targets + (1 - alpha) * (1 - targets)) * loss
    return loss.mean() if reduction == "mean" else loss.sum()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("alpha", [0.25, None])
@pytest.mark.parametrize("smoothing", [0.0, 0.001, 0.2])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_it_is_the_published_formula(gamma, smoothing, alpha, reduction):
    logits, labels = make_case()
    truth = published(
        logits, labels, alpha=alpha, gamma=gamma, smooth_factor=smoothing, reduction=reduction
    )
    ours = one_vs_rest_focal_loss(
        logits,
        labels,
        alpha=alpha,
        gamma=gamma,
        p_smoothing=smoothing,
        reduction=reduction,
        ignore_index=-100,
    )
    torch.testing.assert_close(ours, truth, **EXACT)
    grads = [torch.autograd.grad(loss, logits)[0] for loss in (ours, truth)]
    torch.testing.assert_close(*grads, **EXACT)


def test_a_tiny_smoothing_is_next_to_none():
    logits, labels = make_case()
    mask = torch.rand(2, 4, 5, 6, generator=torch.Generator().manual_seed(2)) > 0.3
    options = {"ignore_index": -100, "mask": mask, "alpha": [0.2, 0.4, 0.6, 0.8]}
    for reduction in ("mean", "none"):
        ours = one_vs_rest_focal_loss(
            logits, labels, p_smoothing=1e-12, reduction=reduction, **options
        )
        truth = focal_loss(logits, labels, activation="sigmoid", reduction=reduction, **options)
        torch.testing.assert_close(ours, truth, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_single_precision(dtype):
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(1, 4, 60000, generator=generator)).to(dtype)
    labels = torch.randint(0, 4, (1, 60000), generator=generator)
    options = {"p_smoothing": 0.1, "alpha": None, "gamma": 0.0, "reduction": "sum"}
    ours = one_vs_rest_focal_loss(logits, labels, **options)
    truth = F.binary_cross_entropy_with_logits(
        logits.double(), F.one_hot(labels, 4).movedim(-1, 1).double(), reduction="sum"
    )
    assert ours.dtype == torch.float32
    assert ours > 65504
    torch.testing.assert_close(ours.double(), truth, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int16]
)
def test_smoothed_labels_may_have_any_integer_dtype(dtype):
    logits, _ = make_case()
    labels = torch.randint(0, 2, (2, 5, 6), generator=torch.Generator().manual_seed(1))
    truth = one_vs_rest_focal_loss(logits, labels, p_smoothing=0.1, ignore_index=0)
    ours = one_vs_rest_focal_loss(logits, labels.to(dtype), p_smoothing=0.1, ignore_index=0)
    assert torch.equal(ours, truth)


def test_a_smoothed_loss_takes_a_gamma_for_each_class():
    logits, labels = make_case()
    options = {"p_smoothing": 0.1, "ignore_index": -100, "reduction": "none"}
    gamma = [0.0, 0.5, 1.0, 2.0]
    ours = one_vs_rest_focal_loss(logits, labels, gamma=gamma, **options)
    for channel, of_class in enumerate(gamma):
        truth = one_vs_rest_focal_loss(logits, labels, gamma=of_class, **options)
        torch.testing.assert_close(ours[:, channel], truth[:, channel], **EXACT)


@pytest.mark.parametrize("smoothing", [0.0, 0.01])
def test_confident_voxels_and_nan_under_the_ignore_label_have_finite_gradients(smoothing):
    logits, labels = make_case()
    with torch.no_grad():
        logits *= 1e4
        logits[0, :, 2] = torch.nan
    loss = one_vs_rest_focal_loss(
        logits, labels, gamma=0.5, p_smoothing=smoothing, ignore_index=-100
    )
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    assert (logits.grad[0, :, 2] == 0).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.01])
def test_an_all_ignored_batch_costs_nothing_and_backward_runs(smoothing):
    logits, labels = make_case()
    loss = one_vs_rest_focal_loss(
        logits, torch.full_like(labels, -100), ignore_index=-100, p_smoothing=smoothing
    )
    assert loss.item() == 0
    loss.backward()
    assert (logits.grad == 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z, y: (z, y, {"p_smoothing": 1.0}), "p_smoothing must be in [0, 1): got 1."),
        (
            lambda z, y: (z[:, :1], y, {}),
            "one-vs-rest needs two classes or more: got logits of shape (2, 1, 5, 6).",
        ),
        (
            lambda z, y: (z, torch.zeros(2, 4, 5, 6), {}),
            (
                "one-vs-rest takes integer labels: got a target of shape (2, 4, 5, 6). Use "
                "focal_loss(activation='sigmoid') for one value per channel."
            ),
        ),
        (
            lambda z, y: (z, y.clamp(min=0) + 1, {"p_smoothing": 0.1}),
            r"label",
        ),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    logits, labels, options = change(*make_case())
    with pytest.raises(ValueError, match="^" + re.escape(message) if message != "label" else "4"):
        one_vs_rest_focal_loss(logits, labels, **options)
