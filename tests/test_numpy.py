"""The NumPy losses: by hand, against scikit-learn, and as oracle of the torch losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

import segfocal.numpy as sfn
from segfocal.functional import focal_loss


def make_case():
    rng = np.random.default_rng(0)
    logits = 3 * rng.standard_normal((2, 4, 5, 6))
    labels = rng.integers(0, 4, (2, 5, 6))
    labels[0, 2] = 255
    return logits, labels


def test_by_hand():
    each = sfn.focal_loss([0.9, 0.2], [1, 0], alpha=0.25, gamma=2.0, reduction="none")
    by_hand = [-0.25 * 0.1**2 * np.log(0.9), -0.75 * 0.2**2 * np.log(0.8)]
    np.testing.assert_allclose(each, by_hand, rtol=1e-12)
    total = sfn.focal_loss([0.9, 0.2], [1, 0], alpha=0.25, gamma=2.0, reduction="sum")
    assert total == pytest.approx(sum(by_hand), rel=1e-12)


def test_gamma_zero_is_scikit_learn_s_log_loss():
    rng = np.random.default_rng(1)
    probs, labels = rng.uniform(0.01, 0.99, 50), rng.integers(0, 2, 50)
    ours = sfn.focal_loss(probs, labels, alpha=None, gamma=0.0)
    assert ours == pytest.approx(log_loss(labels, probs), rel=1e-12)


def test_probabilities_of_0_and_1_are_clipped_even_in_float32():
    probs = np.array([0, 1, 0, 1], dtype=np.float32)
    each = sfn.focal_loss(probs, [1, 0, 0, 1], alpha=None, gamma=2.0, reduction="none", eps=1e-9)
    assert np.isfinite(each).all()
    assert each[0] == pytest.approx(-np.log(1e-9), rel=1e-6)
    assert each[0] == pytest.approx(each[1], rel=1e-6)
    assert each[2] == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_sigmoid_focal_loss_agrees(gamma):
    logits, _ = make_case()
    target = np.random.default_rng(2).integers(0, 2, logits.shape)
    ours = focal_loss(
        torch.from_numpy(logits),
        torch.from_numpy(target),
        activation="sigmoid",
        gamma=gamma,
        alpha=0.3,
    )
    probs = 1 / (1 + np.exp(-logits))
    truth = sfn.focal_loss(probs, target, alpha=0.3, gamma=gamma)
    assert ours.item() == pytest.approx(truth, rel=1e-9)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_softmax_focal_loss_agrees(reduction):
    logits, labels = make_case()
    alpha = [0.2, 1.0, 2.0, 0.5]
    ours = focal_loss(
        torch.from_numpy(logits),
        torch.from_numpy(labels),
        alpha=alpha,
        ignore_index=255,
        reduction=reduction,
    )
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = sfn.softmax_focal_loss(
        probs, labels, alpha=alpha, ignore_index=255, reduction=reduction
    )
    assert ours.item() == pytest.approx(truth, rel=1e-9)
    each = sfn.softmax_focal_loss(probs, labels, alpha=alpha, ignore_index=255, reduction="none")
    assert (each[labels == 255] == 0).all()
    assert each.sum() == pytest.approx(truth if reduction == "sum" else truth * 54, rel=1e-9)


def test_nan_under_the_ignore_label_does_no_harm():
    logits, labels = make_case()
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = sfn.softmax_focal_loss(probs, labels, ignore_index=255)
    probs[0, :, 2] = np.nan
    assert sfn.softmax_focal_loss(probs, labels, ignore_index=255) == truth


def test_the_mean_of_nothing_is_0():
    assert sfn.focal_loss([], []) == 0
    assert sfn.softmax_focal_loss(np.zeros((0, 3, 4)), np.zeros((0, 4), int)) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sfn.focal_loss([0.5], [1, 0]), "one shape: got \\(1,\\) and \\(2,\\)"),
        (lambda: sfn.focal_loss([3.0], [1]), "probs must be in \\[0, 1\\]"),
        (lambda: sfn.focal_loss([float("nan")], [1]), "probs must be in \\[0, 1\\]"),
        (lambda: sfn.focal_loss([0.5], [1], gamma=-1), "gamma must be finite and >= 0: got -1"),
        (
            lambda: sfn.focal_loss([0.5], [1], gamma=np.inf),
            "gamma must be finite and >= 0: got inf",
        ),
        (lambda: sfn.focal_loss([0.5], [2]), "target must be in \\[0, 1\\]"),
        (lambda: sfn.focal_loss([0.5], [np.nan]), "target must be in \\[0, 1\\]"),
        (lambda: sfn.softmax_focal_loss([[0.5, 0.2]], [1]), "probs must sum to 1"),
        (lambda: sfn.softmax_focal_loss([[np.nan, 0.2]], [1]), "probs must sum to 1"),
        (lambda: sfn.softmax_focal_loss([[1.5, -0.5]], [1]), "probs must be in \\[0, 1\\]"),
        (
            lambda: sfn.softmax_focal_loss([[0.5, 0.5]], [1.0]),
            "labels must be integers: got float64",
        ),
        (
            lambda: sfn.softmax_focal_loss([[0.5, 0.5]], [1], alpha=[1.0, np.inf]),
            "alpha must have a finite weight",
        ),
        (lambda: sfn.focal_loss([0.5], [1], alpha=1.5), "alpha must be in \\[0, 1\\]: got 1.5"),
        (lambda: sfn.focal_loss([0.5], [1], eps=0), "eps must be in \\(0, 0.5\\): got 0"),
        (lambda: sfn.focal_loss([0.5], [1], reduction="all"), "reduction must be one of"),
        (lambda: sfn.softmax_focal_loss([[0.5, 0.5]], [[1]]), "shape of probs without the class"),
        (lambda: sfn.softmax_focal_loss([[0.5, 0.5]], [2]), "labels must be in \\[0, 2\\)"),
        (
            lambda: sfn.softmax_focal_loss([[0.5, 0.5]], [1], alpha=[1.0]),
            "alpha must have a",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
