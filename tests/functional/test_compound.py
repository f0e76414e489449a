"""Dice plus focal: the two losses, in one pass."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

import segfocal.functional.voxel_options
from segfocal.functional import (
    dice_focal_loss,
    dice_focal_terms,
    dice_loss,
    focal_loss,
    generalized_dice_loss,
    one_vs_rest_focal_loss,
    tversky_loss,
    unified_focal_loss,
)
from segfocal.ops import class_sums

EXACT = {"rtol": 1e-12, "atol": 1e-14}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_case():
    logits = 3 * torch.randn(2, 4, 5, 6, generator=seeded(), dtype=torch.float64)
    labels = torch.randint(0, 4, (2, 5, 6), generator=seeded(1))
    labels[0, 2] = 255
    return logits.requires_grad_(), labels


@pytest.mark.parametrize("num_channels", [2, 4])
@pytest.mark.parametrize("dice_has_it", [True, False])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_per_voxel_a_term_without_the_background_is_0_there(activation, dice_has_it, num_channels):
    logits, labels = make_case()
    logits, labels = logits[:, :num_channels], labels.clamp(max=num_channels - 1)
    options = {"activation": activation, "reduction": "none"}
    dice = dice_loss(logits, labels, include_background=dice_has_it, **options)
    focal = focal_loss(logits, labels, include_background=not dice_has_it, **options)
    truth = torch.zeros_like(logits)
    truth[:, 0 if dice_has_it else 1 :] += dice
    truth[:, 1 if dice_has_it else 0 :] += focal
    ours = dice_focal_loss(
        logits,
        labels,
        include_background=dice_has_it,
        focal_include_background=not dice_has_it,
        **options,
    )
    torch.testing.assert_close(ours, truth, **EXACT)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("include_background", [True, False])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_it_is_the_weighted_sum_of_the_two_losses(activation, include_background, reduction):
    logits, labels = make_case()
    both = {
        "activation": activation,
        "weight": [1.0, 0.5, 2.0, 3.0],
        "include_background": include_background,
        "reduction": reduction,
        "ignore_index": 255,
        "mask": torch.rand(2, 1, 5, 6, generator=seeded(2)) > 0.2,
    }
    of_focal = {"gamma": 1.5, "alpha": [0.1, 0.9, 0.8, 0.7], "normalizer": "alpha"}
    of_dice = {"squared_pred": True, "jaccard": True, "batch": True, "smooth_nr": 0.1}
    of_dice |= {"smooth_dr": 0.2, "absent": "skip"}
    dice = dice_loss(logits, labels, **both, **of_dice)
    focal = focal_loss(logits, labels, **both, **of_focal)
    terms = dice_focal_terms(logits, labels, **both, **of_dice, **of_focal)
    torch.testing.assert_close(terms.dice, dice, **EXACT)
    torch.testing.assert_close(terms.focal, focal, **EXACT)
    loss = dice_focal_loss(
        logits, labels, **both, **of_dice, **of_focal, lambda_dice=0.3, lambda_focal=1.7
    )
    torch.testing.assert_close(loss, 0.3 * dice + 1.7 * focal, **EXACT)
    if reduction == "none":
        assert loss.shape == (2, 4 if include_background else 3, 5, 6)
    grads = [
        torch.autograd.grad(value.sum(), logits)[0] for value in (loss, 0.3 * dice + 1.7 * focal)
    ]
    torch.testing.assert_close(*grads, **EXACT)


def test_regions_reach_both_terms():
    logits, _ = make_case()
    logits = logits[:, :3]
    labels = torch.randint(0, 4, (2, 5, 6), generator=seeded(1)).to(torch.uint8)
    table = ((1, 2, 3), (2, 3), (3,))
    maps = torch.stack([torch.isin(labels, torch.tensor(r)) for r in table], 1)
    ours = dice_focal_terms(logits, labels, activation="sigmoid", regions=table, alpha=0.8)
    truth = dice_focal_terms(logits, maps, activation="sigmoid", alpha=0.8)
    assert torch.equal(ours.dice, truth.dice)
    assert torch.equal(ours.focal, truth.focal)


def test_both_terms_come_from_one_pass(monkeypatch):
    passes = []
    once = segfocal.functional.voxel_options.sums_with_backend

    def counted(*arguments, **options):
        passes.append(options["gamma"])
        return once(*arguments, **options)

    monkeypatch.setattr(segfocal.functional.voxel_options, "sums_with_backend", counted)
    logits, labels = make_case()
    dice_focal_loss(logits, labels, ignore_index=255, gamma=1.3)
    assert passes == [1.3]


def test_a_term_without_weight_is_left_out_even_if_infinite():
    logits = torch.tensor([[[-torch.inf], [0.0]]])
    label = torch.tensor([[0]])
    assert dice_focal_loss(logits, label).isinf()
    dice_only = dice_focal_loss(logits, label, lambda_focal=0.0)
    assert dice_only.item() == dice_loss(logits, label).item()
    focal_only = dice_focal_loss(*make_case(), ignore_index=255, lambda_dice=0.0, lambda_focal=2.0)
    assert focal_only.item() == pytest.approx(2 * focal_loss(*make_case(), ignore_index=255).item())


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_an_all_ignored_batch_costs_nothing_and_backward_runs(activation):
    logits, labels = make_case()
    loss = dice_focal_loss(
        logits, torch.full_like(labels, 255), activation=activation, ignore_index=255
    )
    assert loss.item() == 0
    loss.backward()
    assert (logits.grad == 0).all()


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (focal_loss, {}),
        (focal_loss, {"voxel_weight": torch.ones(2, 1, 5, 6)}),
        (dice_focal_loss, {"top_k": 10, "voxel_weight": torch.ones(2, 1, 5, 6)}),
        (dice_loss, {}),
        (dice_loss, {"squared_pred": True, "is_soft": True}),
        (generalized_dice_loss, {}),
        (tversky_loss, {}),
        (unified_focal_loss, {}),
        (one_vs_rest_focal_loss, {"p_smoothing": 0.1}),
        (lambda *given, **options: class_sums(*given, **options).focal_pos.sum(), {}),
    ],
)
def test_a_meta_tensor_gives_a_plain_loss(loss, options):
    logits, labels = make_case()
    labels = labels.clamp(max=3)
    options = dict(options)
    if options.pop("is_soft", False):
        labels = logits.detach().softmax(1)
    plain = loss(logits, labels, mask=torch.ones(2, 1, 5, 6) > 0, **options)
    wrapped = {
        name: MetaTensor(given) if isinstance(given, torch.Tensor) else given
        for name, given in options.items()
    }
    ours = loss(
        MetaTensor(logits),
        MetaTensor(labels, meta={"filename_or_obj": "case.nii.gz"}),
        mask=MetaTensor(torch.ones(2, 1, 5, 6) > 0),
        **wrapped,
    )
    assert type(ours) is torch.Tensor
    assert torch.equal(ours, plain)


def test_the_backend_that_is_named_computes_the_sums_beside_values_per_voxel(monkeypatch):
    logits, labels = make_case()
    options = {"ignore_index": 255, "voxel_weight": torch.full((2, 1, 5, 6), 0.5)}
    truth = dice_focal_loss(logits, labels, **options)
    asked = []
    sums = segfocal.functional.voxel_options.sums_with_backend

    def spy(*given, **more):
        asked.append(more["backend"])
        return sums(*given, **more)

    monkeypatch.setattr("segfocal.functional.voxel_options.sums_with_backend", spy)
    ours = dice_focal_loss(logits, labels, backend="chunked", **options)
    torch.testing.assert_close(ours, truth, **EXACT)
    assert set(asked) == {"chunked"}
