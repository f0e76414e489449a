"""What wraps another loss: `FocalBCEWithLogitsLoss` and `ChannelLast`."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from segfocal.functional import background_alpha, focal_loss
from segfocal.losses import ChannelLast, DiceFocalLoss, FocalBCEWithLogitsLoss, FocalLoss

EXACT = {"rtol": 1e-11, "atol": 1e-13}


def binary_case():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(4, 3, 5, generator=generator, dtype=torch.float64)
    target = (torch.rand(4, 3, 5, generator=generator) > 0.6).double()
    return logits.requires_grad_(), target


def article(loss_fcn, gamma, alpha, logits, target):
    """The published wrapper's forward, on an instance of its own."""
    loss = copy.deepcopy(loss_fcn)
    reduction, loss.reduction = loss.reduction, "none"
    value = loss(logits, target)
    prob = logits.sigmoid()
    p_t = target * prob + (1 - target) * (1 - prob)
    value = value * (target * alpha + (1 - target) * (1 - alpha)) * (1 - p_t) ** gamma
    return {"mean": torch.mean, "sum": torch.sum, "none": lambda v: v}[reduction](value)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("pos_weight", [None, 3.0])
@pytest.mark.parametrize("soft", [False, True])
def test_it_is_the_article_s_wrapper(reduction, pos_weight, soft):
    logits, target = binary_case()
    if soft:
        target = (0.1 + 0.8 * target).clamp(0, 1)
    inner = nn.BCEWithLogitsLoss(
        weight=torch.tensor([1.0, 2.0, 0.5]).double()[:, None],
        pos_weight=None if pos_weight is None else torch.full((5,), pos_weight).double(),
        reduction=reduction,
    )
    ours = FocalBCEWithLogitsLoss(inner, gamma=1.5, alpha=0.75)(logits, target)
    truth = article(inner, 1.5, 0.75, logits, target)
    torch.testing.assert_close(ours, truth, **EXACT)
    grads = [torch.autograd.grad(loss.sum(), logits)[0] for loss in (ours, truth)]
    torch.testing.assert_close(*grads, **EXACT)
    assert inner.reduction == reduction


@pytest.mark.parametrize(("wrong", "shown"), [(2.0, "0 to 2"), (torch.nan, "nan to nan")])
def test_a_target_beyond_0_and_1_is_refused(wrong, shown):
    logits, target = binary_case()
    target[0, 0, 0] = wrong
    message = f"target must be in [0, 1]: got {shown}. Pass probabilities, or 0 and 1."
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        FocalBCEWithLogitsLoss(nn.BCEWithLogitsLoss())(logits, target)


@pytest.mark.parametrize("name", ["gamma", "alpha"])
def test_it_takes_single_numbers(name):
    message = f"{name} must be a number: got [0.5, 1.0]."
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        FocalBCEWithLogitsLoss(nn.BCEWithLogitsLoss(), **{name: [0.5, 1.0]})


def test_without_weights_it_is_the_focal_loss():
    logits, target = binary_case()
    ours = FocalBCEWithLogitsLoss(nn.BCEWithLogitsLoss(), gamma=2.0, alpha=0.25)(logits, target)
    truth = FocalLoss(alpha=0.25)(logits, target)
    torch.testing.assert_close(ours, truth, **EXACT)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_confident_logits_have_finite_gradients(gamma, dtype):
    logits = torch.tensor([-1e4, -200.0, 0.0, 200.0, 1e4], dtype=dtype, requires_grad=True)
    for target in (torch.zeros(5, dtype=dtype), torch.ones(5, dtype=dtype)):
        loss = FocalBCEWithLogitsLoss(nn.BCEWithLogitsLoss(), gamma=gamma)(logits, target)
        (grad,) = torch.autograd.grad(loss, logits)
        assert loss.isfinite()
        assert grad.isfinite().all()


def test_a_meta_tensor_gives_a_plain_one():
    logits, target = binary_case()
    loss = FocalBCEWithLogitsLoss(nn.BCEWithLogitsLoss())(MetaTensor(logits), MetaTensor(target))
    assert type(loss) is torch.Tensor


def test_what_is_not_a_bce_is_refused():
    with pytest.raises(
        TypeError, match=r"^loss_fcn must be a torch\.nn\.BCEWithLogitsLoss: got BCE"
    ):
        FocalBCEWithLogitsLoss(nn.BCELoss())
    with pytest.raises(ValueError, match="alpha must be finite and in"):
        FocalBCEWithLogitsLoss(nn.BCEWithLogitsLoss(), alpha=2.0)


def class_case():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 7, 4, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), torch.randint(0, 4, (2, 7), generator=generator)


def article_002(preds, labels, alpha, gamma):
    """Its forward on `(B, N, C)`: alpha for the background, 1 - alpha for the rest."""
    preds, labels = preds.view(-1, preds.size(-1)), labels.view(-1)
    weights = torch.full((preds.size(1),), 1 - alpha, dtype=preds.dtype)
    weights[0] = alpha
    log_p = preds.log_softmax(1).gather(1, labels[:, None])[:, 0]
    return -(weights[labels] * (1 - log_p.exp()) ** gamma * log_p).mean()


def test_channel_last_logits_with_the_background_s_alpha_are_article_002():
    logits, labels = class_case()
    alpha = background_alpha(0.25, 4)
    ours = ChannelLast(FocalLoss(use_softmax=True, alpha=alpha))(logits, labels)
    truth = article_002(logits, labels, 0.25, 2)
    torch.testing.assert_close(ours, truth, rtol=1e-7, atol=1e-9)  # alpha is a float32 buffer
    flat = FocalLoss(use_softmax=True, alpha=alpha)(logits[0], labels[0])
    torch.testing.assert_close(
        flat, article_002(logits[:1], labels[:1], 0.25, 2), rtol=1e-7, atol=0
    )


def test_channel_last_moves_a_weight_map():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 7, 4, generator=generator)
    labels = torch.randint(0, 4, (2, 7), generator=generator)
    weights = torch.rand(2, 7, 4, generator=generator)
    loss = FocalLoss(use_softmax=True)
    wrapped = ChannelLast(loss)
    for given, moved in (
        (weights, weights.movedim(-1, 1)),
        (weights[..., 0], weights[:, None, :, 0]),
    ):
        truth = loss(logits.movedim(-1, 1), labels, voxel_weight=moved)
        torch.testing.assert_close(wrapped(logits, labels, voxel_weight=given), truth, **EXACT)


def test_channel_last_moves_targets_and_masks_with_the_logits():
    logits, labels = class_case()
    onehot = torch.nn.functional.one_hot(labels, 4)
    mask = torch.rand(2, 7, generator=torch.Generator().manual_seed(1)) > 0.4
    loss = DiceFocalLoss(sigmoid=True)
    truth = loss(logits.movedim(-1, 1), labels, mask[:, None])
    wrapped = ChannelLast(loss)
    torch.testing.assert_close(wrapped(logits, labels, mask), truth, **EXACT)
    torch.testing.assert_close(wrapped(logits, onehot, mask), truth, **EXACT)
    each = mask[..., None].expand(2, 7, 4)
    torch.testing.assert_close(wrapped(logits, MetaTensor(onehot), each), truth, **EXACT)


def test_the_background_s_alpha_is_the_opposite_of_a_single_one():
    logits, labels = class_case()
    logits = logits.movedim(-1, 1)
    single = focal_loss(logits, labels, alpha=0.25)
    listed = focal_loss(logits, labels, alpha=[0.75, 0.25, 0.25, 0.25])
    torch.testing.assert_close(single, listed, **EXACT)
    assert background_alpha(0.75, 4) == (0.75, 0.25, 0.25, 0.25)
    with pytest.raises(ValueError, match=r"^alpha must be in \[0, 1\]: got 2.$"):
        background_alpha(2.0, 3)
    with pytest.raises(ValueError, match=r"^num_classes must be 2 or more: got 1.$"):
        background_alpha(0.5, 1)
