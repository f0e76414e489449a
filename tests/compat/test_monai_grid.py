"""Every combination of MONAI's options on fixed inputs, so that no two of them go unmet."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional as F

from tests.compat.twins import assert_same

KINDS = pytest.mark.parametrize("kind", ["labels", "one hot", "soft", "one class"])
ACTIVATIONS = ({"softmax": True}, {"sigmoid": True}, {"other_act": torch.tanh})


def make_case(kind):
    generator = torch.Generator().manual_seed(4)
    channels = 1 if kind == "one class" else 3
    logits = 2 * torch.randn(2, channels, 4, 5, generator=generator)
    labels = torch.randint(0, 3, (2, 1, 4, 5), generator=generator)
    labels[labels == 2] *= torch.randint(0, 2, labels[labels == 2].shape, generator=generator)
    labels[1, 0, 0] = 1
    if kind == "labels":
        return logits, labels
    if kind == "one hot":
        return logits, F.one_hot(labels[:, 0], 3).movedim(-1, 1).float()
    if kind == "soft":
        return logits, torch.rand(logits.shape, generator=generator).round(decimals=1)
    return logits, (labels > 0).float()


def combinations(**choices):
    for values in itertools.product(*choices.values()):
        yield dict(zip(choices, values, strict=True))


@KINDS
def test_focal(kind):
    logits, target = make_case(kind)
    for options in combinations(
        use_softmax=(False, True),
        include_background=(True, False),
        alpha=(None, 0.25, torch.tensor(0.7), "each"),
        weight=(None, "each"),
        reduction=("mean", "sum", "none"),
        ignore_index=(None, 255, 1),
    ):
        counted = logits.shape[1] - (logits.shape[1] > 1 and not options["include_background"])
        for name in ("alpha", "weight"):
            if isinstance(options[name], str):
                options[name] = [0.3 + 0.4 * c for c in range(counted)]
        assert_same("FocalLoss", options | {"to_onehot_y": kind == "labels"}, logits, target)


@KINDS
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_dice_and_tversky(kind, activation):
    logits, target = make_case(kind)
    for options in combinations(
        include_background=(True, False),
        batch=(False, True),
        soft_label=(False, True),
        ignore_index=(None, 255, 1),
    ):
        options |= {"to_onehot_y": kind == "labels", **activation}
        assert_same("TverskyLoss", options | {"alpha": 0.3, "beta": 0.9}, logits, target)
        for squared_pred, jaccard in itertools.product((False, True), repeat=2):
            forms = {"squared_pred": squared_pred, "jaccard": jaccard}
            assert_same("DiceLoss", options | forms, logits, target)


@KINDS
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_generalized_dice(kind, activation):
    logits, target = make_case(kind)
    for options in combinations(
        include_background=(True, False),
        batch=(False, True),
        soft_label=(False, True),
        w_type=("square", "simple", "uniform"),
        reduction=("mean", "sum"),
    ):
        options |= {"to_onehot_y": kind == "labels", **activation}
        assert_same("GeneralizedDiceLoss", options, logits, target)


@KINDS
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_dice_ce(kind, activation):
    logits, target = make_case(kind)
    each = torch.linspace(0.5, 2.0, logits.shape[1])
    for options in combinations(
        include_background=(True, False),
        weight=(None, each),
        reduction=("mean", "sum"),
        label_smoothing=(0.0, 0.2),
    ):
        options |= {"to_onehot_y": kind == "labels", **activation}
        assert_same("DiceCELoss", options, logits, target)


@pytest.mark.parametrize("kind", ["labels", "one hot", "soft", "one class"])
def test_asymmetric_unified_focal(kind):
    logits, target = make_case(kind)
    if kind != "one class":
        logits, target = logits[:, :2], target[:, :2].clamp(max=1)
    for options in combinations(
        weight=(0.5, 0.2),
        gamma=(0.5, 0.25),
        delta=(0.7, 0.4),
        reduction=("mean", "none"),
        ignore_index=(None, 255, 1),
    ):
        options["to_onehot_y"] = kind == "labels"
        theirs = assert_same("AsymmetricUnifiedFocalLoss", options, logits.sigmoid(), target)
        assert theirs.error is None
