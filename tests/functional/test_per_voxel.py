"""Weight maps, top-k and label smoothing: where single voxels matter."""

from __future__ import annotations

import re

import pytest
import torch
from torch.nn import functional as F

from segfocal.functional import dice_focal_loss, dice_focal_terms, focal_loss

EXACT = {"rtol": 1e-11, "atol": 1e-13}


def make_case(activation="softmax"):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 4, 5, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (2, 5, 6), generator=generator)
    labels[0, 2] = 255
    return logits.requires_grad_(), labels


def voxel_losses(logits, labels, activation, gamma):
    """The loss of each voxel (softmax) or element (sigmoid) that counts, by autograd."""
    valid = labels != 255
    if activation == "softmax":
        nll = F.cross_entropy(logits, labels, ignore_index=255, reduction="none")
        return ((1 - (-nll).exp()) ** gamma * nll)[valid]
    onehot = F.one_hot(labels.clamp(max=3), 4).movedim(-1, 1).double()
    nll = F.binary_cross_entropy_with_logits(logits, onehot, reduction="none")
    return ((1 - (-nll).exp()) ** gamma * nll)[valid[:, None].expand_as(nll)]


def assert_same(ours, truth, logits):
    torch.testing.assert_close(ours, truth, **EXACT)
    grads = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (ours, truth)]
    torch.testing.assert_close(*grads, **EXACT)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("top_k", [0.1, 7, 10.0, 50, 100])
def test_top_k_is_the_mean_of_the_hardest_among_those_that_count(activation, top_k):
    logits, labels = make_case()
    each = voxel_losses(logits, labels, activation, 1.5)
    number = -(-each.numel() * top_k // 100)  # rounded up
    kept = each.sort(descending=True).values[: int(number)]
    options = {"activation": activation, "gamma": 1.5, "ignore_index": 255}
    assert_same(focal_loss(logits, labels, top_k=top_k, **options), kept.mean(), logits)
    total = focal_loss(logits, labels, top_k=top_k, reduction="sum", **options)
    assert_same(total, kept.sum(), logits)


def test_top_k_of_a_batch_that_is_ignored_is_0_and_backward_runs():
    logits, labels = make_case()
    loss = focal_loss(logits, torch.full_like(labels, 9), ignore_index=9, top_k=10)
    assert loss.item() == 0
    loss.backward()
    assert (logits.grad == 0).all()


def test_nan_under_the_ignore_label_is_not_among_the_hardest():
    logits, labels = make_case()
    clean = focal_loss(logits, labels, ignore_index=255, top_k=20)
    with torch.no_grad():
        logits[0, :, 2] = torch.nan
    loss = focal_loss(logits, labels, ignore_index=255, top_k=20)
    assert loss.item() == clean.item()
    loss.backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[0, :, 2] == 0).all()


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("normalizer", ["valid", "alpha", "positives", "none"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_weight_map_weighs_every_voxel(activation, normalizer, channels):
    logits, labels = make_case()
    weight_map = torch.rand(
        2, channels, 5, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    alpha = [0.9, 0.3, 0.6, 0.2]
    valid = (labels != 255)[:, None]
    onehot = F.one_hot(labels.clamp(max=3), 4).movedim(-1, 1) * valid
    weights = torch.tensor(alpha, dtype=torch.float64).view(1, 4, 1, 1)
    if activation == "softmax":
        nll = -logits.log_softmax(1)
        share = onehot * weights
        counts = valid.sum()
    else:
        nll = F.binary_cross_entropy_with_logits(logits, onehot.double(), reduction="none")
        share = torch.where(onehot == 1, weights, 1 - weights) * valid
        counts = valid.expand_as(share).sum()
    total = (share * weight_map * (1 - (-nll).exp()) ** 2 * nll).sum()
    count = {
        "valid": counts,
        "alpha": (share * weight_map).sum(),
        "positives": onehot[:, 1:].sum() if activation == "softmax" else onehot.sum(),
        "none": 1,
    }[normalizer]
    ours = focal_loss(
        logits,
        labels,
        activation=activation,
        alpha=alpha,
        normalizer=normalizer,
        voxel_weight=weight_map,
        ignore_index=255,
    )
    assert_same(ours, total / count, logits)


def test_a_weight_map_of_ones_changes_nothing_and_of_zeros_costs_nothing():
    logits, labels = make_case()
    ones = torch.ones(2, 1, 5, 6, dtype=torch.float64)
    plain = focal_loss(logits, labels, ignore_index=255)
    assert_same(focal_loss(logits, labels, ignore_index=255, voxel_weight=ones), plain, logits)
    nothing = focal_loss(
        logits, labels, ignore_index=255, voxel_weight=0 * ones, normalizer="alpha"
    )
    assert nothing.item() == 0


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_smoothed_labels_are_torch_s(smoothing):
    logits, labels = make_case()
    weight = torch.tensor([0.5, 1.0, 2.0, 0.1], dtype=torch.float64)
    truth = F.cross_entropy(
        logits, labels, weight=weight, ignore_index=255, label_smoothing=smoothing
    )
    ours = focal_loss(
        logits,
        labels,
        gamma=0.0,
        weight=weight,
        normalizer="alpha",
        ignore_index=255,
        label_smoothing=smoothing,
    )
    assert_same(ours, truth, logits)
    mapped = focal_loss(
        logits,
        labels,
        gamma=0.0,
        weight=weight,
        normalizer="alpha",
        ignore_index=255,
        label_smoothing=smoothing,
        voxel_weight=torch.ones(2, 1, 5, 6, dtype=torch.float64),
    )
    assert_same(mapped, truth, logits)


def test_a_compound_takes_them_for_its_focal_term_only():
    logits, labels = make_case()
    weight_map = torch.rand(2, 1, 5, 6, generator=torch.Generator().manual_seed(3)).double()
    common = {"ignore_index": 255, "gamma": 1.0}
    for more in (
        {"voxel_weight": weight_map},
        {"top_k": 10},
        {"label_smoothing": 0.2},
        {"top_k": 30, "voxel_weight": weight_map, "label_smoothing": 0.1},
    ):
        terms = dice_focal_terms(logits, labels, **common, **more)
        torch.testing.assert_close(terms.focal, focal_loss(logits, labels, **common, **more))
        torch.testing.assert_close(
            terms.dice, dice_focal_terms(logits, labels, **common).dice, **EXACT
        )
    loss = dice_focal_loss(logits, labels, **common, top_k=10, backend="reference")
    assert loss.isfinite()


@pytest.mark.parametrize("hidden", [torch.nan, torch.inf, -1.0])
@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize(
    "options",
    [{}, {"normalizer": "alpha"}, {"reduction": "none"}, {"top_k": 20}, {"activation": "sigmoid"}],
)
def test_a_weight_has_no_say_where_a_voxel_does_not_count(options, channels, hidden):
    logits, labels = make_case()
    weight_map = torch.rand(2, channels, 5, 6, generator=torch.Generator().manual_seed(3)).double()
    mask = torch.rand(2, channels, 5, 6, generator=torch.Generator().manual_seed(4)) > 0.2
    counted = mask & (labels != 255)[:, None]
    both = [weight_map.masked_fill(~counted, value) for value in (0.5, hidden)]
    truth, ours = (
        focal_loss(logits, labels, ignore_index=255, mask=mask, voxel_weight=given, **options)
        for given in both
    )
    assert torch.equal(ours, truth)
    (grad,) = torch.autograd.grad(ours.sum(), logits)
    assert torch.equal(grad, torch.autograd.grad(truth.sum(), logits)[0])
    assert (grad.masked_select(~counted.expand_as(grad)) == 0).all()


def test_a_compound_takes_a_weight_map_with_nan_under_the_ignore_label():
    logits, labels = make_case()
    weight_map = torch.ones(2, 1, 5, 6).masked_fill((labels == 255)[:, None], torch.nan)
    ours = dice_focal_loss(logits, labels, ignore_index=255, voxel_weight=weight_map)
    assert_same(ours, dice_focal_loss(logits, labels, ignore_index=255), logits)


def test_a_weight_map_does_not_decide_the_dtype():
    logits, labels = make_case()
    weight_map = torch.ones(2, 1, 5, 6, dtype=torch.float64)
    loss = focal_loss(logits.float(), labels, ignore_index=255, voxel_weight=weight_map)
    assert loss.dtype == torch.float32


def test_weights_that_cannot_be_are_named_and_counted():
    logits, labels = make_case()
    weight_map = torch.ones(2, 1, 5, 6)
    weight_map[1, 0, 0, :3] = torch.tensor([-1.0, torch.nan, torch.nan])
    with pytest.raises(
        ValueError,
        match=re.escape(
            "voxel_weight must be finite and >= 0 where a voxel counts: got -1 (1 voxel), nan "
            "(2 voxels). Pass mask= for voxels that do not count."
        ),
    ):
        focal_loss(logits, labels, ignore_index=255, voxel_weight=weight_map)


@pytest.mark.parametrize(
    "options",
    [
        {"reduction": "none"},
        {"top_k": 20},
        {"voxel_weight": True},
        {"voxel_weight": True, "normalizer": "alpha", "alpha": [0.9, 0.3, 0.6, 0.2]},
    ],
)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_vmap_is_a_loop_over_the_samples(activation, options):
    logits, labels = make_case()
    labels = labels.clamp(max=3)
    weight_map = torch.rand(2, 1, 5, 6, generator=torch.Generator().manual_seed(3)).double()

    def of_sample(z, t, w):
        given = {**options, **({"voxel_weight": w[None]} if "voxel_weight" in options else {})}
        return focal_loss(z[None], t[None], activation=activation, **given)

    ours = torch.vmap(of_sample)(logits, labels, weight_map)
    each = [of_sample(*sample) for sample in zip(logits, labels, weight_map, strict=True)]
    torch.testing.assert_close(ours, torch.stack(each), **EXACT)


@pytest.mark.parametrize("name", ["alpha", "weight"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reduction": "none"},
        {"top_k": 30},
        {"voxel_weight": torch.full((2, 1, 5, 6), 0.5)},
        {"voxel_weight": torch.full((2, 1, 5, 6), 0.5), "normalizer": "alpha"},
        {"label_smoothing": 0.1, "reduction": "none"},
    ],
)
def test_a_learnable_weight_gets_its_gradient(name, activation, options):
    logits, labels = make_case()
    numbers = torch.tensor([0.9, 0.3, 0.6, 0.2], dtype=torch.float64, requires_grad=True)

    def loss(given):
        return focal_loss(
            logits, labels, activation=activation, ignore_index=255, **{name: given}, **options
        ).sum()

    value = loss(numbers)
    torch.testing.assert_close(value, loss(numbers.detach()), **EXACT)
    torch.autograd.gradcheck(loss, numbers)
    frozen, learned = (
        torch.autograd.grad(loss(given), logits)[0] for given in (numbers.detach(), numbers)
    )
    torch.testing.assert_close(learned, frozen, **EXACT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": "10"}, "top_k must be a number: got '10'."),
        (
            {"gamma": torch.tensor(2.0, requires_grad=True)},
            (
                "gamma must not require grad: no gradient flows to it. Pass gamma.detach(), and "
                "move it with LossSchedule."
            ),
        ),
        (
            {"voxel_weight": torch.ones(2, 1, 5, 6, requires_grad=True)},
            (
                "voxel_weight must not require grad: no gradient flows to it. Pass "
                "voxel_weight.detach()."
            ),
        ),
        ({"top_k": 0}, "top_k must be a per cent in (0, 100]: got 0."),
        ({"top_k": 101}, "top_k must be a per cent in (0, 100]: got 101."),
        (
            {"top_k": 5, "normalizer": "alpha"},
            (
                "top_k divides by the number of voxels that it keeps: expected "
                "normalizer='valid', got 'alpha'."
            ),
        ),
        (
            {"top_k": 5, "reduction": "none"},
            "top_k keeps some voxels: use reduction='mean' or 'sum', not 'none'.",
        ),
        (
            {"top_k": 5, "process_group": "world"},
            "top_k chooses among the voxels of one process: leave process_group out.",
        ),
        (
            {"voxel_weight": torch.ones(2, 5, 6)},
            (
                "voxel_weight must cover every voxel of the logits: expected shape (2, 1, 5, 6) or "
                "(2, 4, 5, 6), got (2, 5, 6)."
            ),
        ),
        (
            {"voxel_weight": torch.ones(2, 1, 5, 6, dtype=torch.bool)},
            (
                "voxel_weight must be floating point: got torch.bool. Pass mask= for voxels that "
                "do not count."
            ),
        ),
        (
            {"process_group": "all"},
            "process_group must be a torch.distributed group, 'world' or None: got 'all'.",
        ),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    logits, labels = make_case()
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        focal_loss(logits, labels, ignore_index=255, **options)
