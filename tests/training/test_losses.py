"""Every loss of the family from a config."""

import pytest
import torch

from segfocal.config.schema import LossConfig
from segfocal.functional import (
    generalized_dice_loss,
    tversky_loss,
    unified_focal_loss,
)
from segfocal.labels import IGNORE_CLASS, LabelScheme
from segfocal.ops import backend_choice
from segfocal.training.losses import TERM_NAMES, idle_settings, loss_backend, loss_terms, make_loss

SOFTMAX = LabelScheme(("background", "a"), (0, 1))
REGIONS = LabelScheme.preset("msd-task01")


@pytest.mark.parametrize("scheme", [SOFTMAX, REGIONS], ids=["softmax", "regions"])
@pytest.mark.parametrize("name", list(TERM_NAMES))
def test_every_loss_is_finite_and_blind_to_ignored_voxels(scheme, name):
    terms = loss_terms(make_loss(LossConfig(name=name), scheme, None))
    torch.manual_seed(0)
    logits = torch.randn(2, scheme.num_outputs, 4, 4, 4)
    label = torch.randint(0, scheme.num_classes, (2, 1, 4, 4, 4), dtype=torch.uint8)
    label[:, :, :2] = IGNORE_CLASS
    changed = logits.clone()
    changed[:, :, :2] = float("nan")
    found = terms(logits, label)
    assert tuple(found) == ("loss", *TERM_NAMES[name])
    value = found["loss"]
    assert torch.isfinite(value)
    assert torch.equal(value, terms(changed, label)["loss"])


def test_smoothing_that_a_loss_does_not_look_at_costs_no_backend():
    def told(**settings):
        loss = LossConfig(name="UnifiedFocalLoss", **settings)
        return loss_backend(loss, SOFTMAX, torch.device("cpu"), torch.float32, partial=False)

    assert told(label_smoothing=0.1) == told()


OTHERWISE = {
    "gamma": 1.0, "include_background": True, "batch": True, "squared_pred": True, "jaccard": True,
    "smooth_nr": 0.5, "smooth_dr": 0.5, "absent": "skip", "tversky_alpha": 0.4,
    "tversky_beta": 0.4, "tversky_gamma": 1.5, "unified_weight": 0.4, "unified_delta": 0.5,
    "unified_gamma": 0.4, "label_smoothing": 0.1, "top_k": 50.0, "normalizer": "positives",
    "lambda_dice": 2.0, "lambda_focal": 2.0,
}  # fmt: skip


@pytest.mark.parametrize("name", list(TERM_NAMES))
def test_what_a_loss_does_not_look_at_is_told(name):
    """A setting is idle exactly where the loss that is made of it is the same."""
    others = {"name", "alpha", "alpha_unit", "alpha_max_ratio", "alpha_beta", "ignore_index"}
    assert {*OTHERWISE, *others} == {*LossConfig.model_fields}
    assert idle_settings(LossConfig(name=name)) == []

    def made(**settings):
        return make_loss(LossConfig(name=name, **settings), SOFTMAX, None).settings()

    idle = {n for n, value in OTHERWISE.items() if made(**{n: value}) == made()}
    for setting, value in OTHERWISE.items():
        expected = [f"loss.{setting}"] if setting in idle else []
        assert idle_settings(LossConfig(name=name, **{setting: value})) == expected


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("gamma", [2.0, [1.0, 2.0]])
def test_the_backend_that_is_told_is_the_one_that_runs(monkeypatch, partial, smoothing, gamma):
    ran = []

    def telling(backend, name):
        def class_sums(*arguments):
            ran.append(name)
            return backend.class_sums(*arguments)

        return backend._replace(class_sums=class_sums)

    for name, backend in backend_choice.BACKENDS.items():
        monkeypatch.setitem(backend_choice.BACKENDS, name, telling(backend, name))
    config = LossConfig(gamma=gamma, label_smoothing=smoothing)
    label = torch.randint(0, 2, (1, 1, 4, 4, 4), dtype=torch.uint8)
    mask = torch.ones(1, 2, 4, 4, 4, dtype=torch.bool) if partial else None
    make_loss(config, SOFTMAX, None)(torch.randn(1, 2, 4, 4, 4), label, mask)
    told = loss_backend(config, SOFTMAX, torch.device("cpu"), torch.float32, partial=partial)
    assert {told.name} == set(ran)
    assert (told.passed_over is None) == (told.name == "numba")


def test_background_counts_in_the_focal_term_and_not_in_dice():
    terms = loss_terms(make_loss(LossConfig(gamma=0.0), SOFTMAX, None))
    logits = torch.randn(1, 2, 4, 4, 4)
    label = torch.randint(0, 2, (1, 1, 4, 4, 4), dtype=torch.uint8)
    found = terms(logits, label)
    expected = torch.nn.functional.cross_entropy(logits, label[:, 0].long())
    assert torch.allclose(found["focal"], expected)
    p, t = logits.softmax(1)[:, 1], (label[:, 0] == 1).float()
    dice = 1 - (2 * (p * t).sum() + 1e-5) / (p.sum() + t.sum() + 1e-5)
    assert torch.allclose(found["dice"], dice)
    assert torch.allclose(found["loss"], expected + dice)


def test_lambdas_weigh_the_terms():
    config = LossConfig(lambda_dice=0.5, lambda_focal=3.0)
    found = loss_terms(make_loss(config, SOFTMAX, None))(
        torch.randn(1, 2, 3, 3, 3), torch.ones(1, 1, 3, 3, 3, dtype=torch.uint8)
    )
    assert torch.allclose(found["loss"], 0.5 * found["dice"] + 3 * found["focal"])


def make_case():
    torch.manual_seed(1)
    logits = torch.randn(2, 2, 4, 4, 4)
    return logits, torch.randint(0, 2, (2, 1, 4, 4, 4), dtype=torch.uint8)


def test_the_numbers_of_the_config_reach_each_loss():
    logits, label = make_case()
    config = LossConfig(
        name="TverskyFocalLoss",
        tversky_alpha=0.2,
        tversky_beta=0.9,
        tversky_gamma=1.5,
        lambda_dice=0.5,
        lambda_focal=2.0,
        gamma=0.0,
        label_smoothing=0.1,
    )
    found = loss_terms(make_loss(config, SOFTMAX, None))(logits, label)
    tversky = tversky_loss(logits, label, alpha=0.2, beta=0.9, gamma=1.5, include_background=False)
    ce = torch.nn.functional.cross_entropy(logits, label[:, 0].long(), label_smoothing=0.1)
    torch.testing.assert_close(found["tversky"], tversky)
    torch.testing.assert_close(found["focal"], ce)
    torch.testing.assert_close(found["loss"], 0.5 * tversky + 2 * ce)
    config = LossConfig(name="DiceCELoss", normalizer="valid", lambda_focal=3.0)
    found = loss_terms(make_loss(config, SOFTMAX, None))(logits, label)
    torch.testing.assert_close(found["loss"], found["dice"] + 3 * found["ce"])
    ce = torch.nn.functional.cross_entropy(logits, label[:, 0].long())
    torch.testing.assert_close(found["ce"], ce)
    config = LossConfig(
        name="UnifiedFocalLoss", unified_weight=0.3, unified_delta=0.8, unified_gamma=0.2
    )
    truth = unified_focal_loss(logits, label, weight=0.3, delta=0.8, gamma=0.2)
    torch.testing.assert_close(
        loss_terms(make_loss(config, SOFTMAX, None))(logits, label)["loss"], truth
    )
    config = LossConfig(name="GeneralizedDiceLoss")
    truth = generalized_dice_loss(logits, label, include_background=False)
    torch.testing.assert_close(
        loss_terms(make_loss(config, SOFTMAX, None))(logits, label)["loss"], truth
    )


@pytest.mark.parametrize("name", ["DiceCELoss", "DiceLoss", "TverskyLoss", "UnifiedFocalLoss"])
def test_an_alpha_that_nothing_takes_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} has no focal term for alpha to weigh"):
        LossConfig(name=name, alpha="balanced")
