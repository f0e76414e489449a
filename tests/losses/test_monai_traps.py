"""Where this project differs from MONAI 1.6.1 on purpose: a test for every point.

Where it is cheap, the test shows MONAI's own number beside ours, so that a MONAI that changes is
noticed.
"""

from __future__ import annotations

import math
import warnings

import monai.losses
import pytest
import torch
from torch.nn import functional as F

from segfocal.losses import (
    DiceCELoss,
    DiceFocalLoss,
    DiceLoss,
    FocalLoss,
    FocalTverskyLoss,
    GeneralizedDiceFocalLoss,
    GeneralizedDiceLoss,
    TverskyFocalLoss,
    TverskyLoss,
)

EXACT = {"rtol": 1e-11, "atol": 1e-13}
REGIONS = ((1, 2, 3), (2, 3), (3,))
SOFTMAX_LOSSES = {
    "focal": lambda **o: FocalLoss(use_softmax=True, **o),
    "dice": lambda **o: DiceLoss(softmax=True, **o),
    "dice focal": lambda **o: DiceFocalLoss(softmax=True, **o),
    "dice ce": lambda **o: DiceCELoss(softmax=True, **o),
    "tversky": lambda **o: TverskyLoss(softmax=True, alpha=0.3, beta=0.7, **o),
    "focal tversky": lambda **o: FocalTverskyLoss(softmax=True, **o),
    "gdl": lambda **o: GeneralizedDiceLoss(softmax=True, **o),
    "gdl focal": lambda **o: GeneralizedDiceFocalLoss(softmax=True, **o),
    "tversky focal": lambda **o: TverskyFocalLoss(softmax=True, **o),
}
SIGMOID_LOSSES = {
    "focal": lambda **o: FocalLoss(**o),
    "dice": lambda **o: DiceLoss(sigmoid=True, **o),
    "dice focal": lambda **o: DiceFocalLoss(sigmoid=True, **o),
    "dice ce": lambda **o: DiceCELoss(sigmoid=True, **o),
    "tversky": lambda **o: TverskyLoss(sigmoid=True, alpha=0.3, beta=0.7, **o),
    "focal tversky": lambda **o: FocalTverskyLoss(sigmoid=True, **o),
    "gdl": lambda **o: GeneralizedDiceLoss(sigmoid=True, **o),
    "gdl focal": lambda **o: GeneralizedDiceFocalLoss(sigmoid=True, **o),
    "tversky focal": lambda **o: TverskyFocalLoss(sigmoid=True, **o),
}
BOTH = {f"softmax {name}": loss for name, loss in SOFTMAX_LOSSES.items()} | {
    f"sigmoid {name}": loss for name, loss in SIGMOID_LOSSES.items()
}
ALL = pytest.mark.parametrize("name", list(BOTH))
FOCAL = pytest.mark.parametrize("name", [key for key in BOTH if key.endswith("focal")])
"""Those whose alpha and gamma are the focal loss's."""


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_case(num_classes=4, dtype=torch.float64):
    logits = 3 * torch.randn(2, num_classes, 5, 6, generator=seeded(), dtype=dtype)
    labels = torch.randint(0, num_classes, (2, 5, 6), generator=seeded(1))
    return logits.requires_grad_(), labels


def one_hot(labels, num_classes=4):
    return F.one_hot(labels, num_classes).movedim(-1, 1).float()


def test_dice_focal_with_softmax_runs_softmax_focal():
    logits, labels = make_case()
    terms = DiceFocalLoss(softmax=True, gamma=0.0).terms(logits, labels)
    torch.testing.assert_close(terms.focal, F.cross_entropy(logits, labels), **EXACT)
    theirs = monai.losses.DiceFocalLoss(softmax=True, gamma=0.0, lambda_dice=0.0)
    sigmoid = F.binary_cross_entropy_with_logits(logits.float(), one_hot(labels))
    torch.testing.assert_close(theirs(logits, one_hot(labels)).float(), sigmoid)


@ALL
def test_ignore_index_with_nothing_ignored_changes_nothing(name):
    logits, labels = make_case()
    assert BOTH[name](ignore_index=255)(logits, labels) == BOTH[name]()(logits, labels)
    theirs = [
        monai.losses.FocalLoss(to_onehot_y=True, ignore_index=i)(logits, labels[:, None])
        for i in (255, None)
    ]
    assert (theirs[0] / theirs[1]).item() == pytest.approx(4.0)


@pytest.mark.parametrize("name", list(SIGMOID_LOSSES))
def test_region_targets_with_ignore_keep_their_background(name):
    logits, labels = make_case()
    logits = logits.detach()[:, :3].requires_grad_()
    labels[:, 2] = 0
    labels[:, 3] = 255
    SIGMOID_LOSSES[name](regions=REGIONS, ignore_index=255)(logits, labels).backward()
    assert (logits.grad[:, :, 3] == 0).all()
    assert (logits.grad[:, :, 2] != 0).all()


@pytest.mark.parametrize("name", list(BOTH))
def test_one_hot_targets_have_no_ignore_label_and_say_so(name):
    logits, labels = make_case()
    with pytest.raises(ValueError, match="the target has one value per channel and no labels"):
        BOTH[name](ignore_index=255)(logits, one_hot(labels))


@ALL
def test_ignored_voxels_are_as_if_cut_out(name):
    """In the focal mean, and in Dice's numerator and both parts of its denominator."""
    logits, labels = make_case()
    cut = BOTH[name]()(logits[:, :, :3], labels[:, :3])
    labels[:, 3:] = 255
    ours = BOTH[name](ignore_index=255)(logits, labels)
    torch.testing.assert_close(ours, cut, **EXACT)
    (grad,) = torch.autograd.grad(ours, logits)
    assert (grad[:, :, 3:] == 0).all()
    assert (grad[:, :, :3] != 0).all()


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
@ALL
def test_a_poisoned_logit_under_an_ignored_voxel_does_no_harm(name, poison):
    logits, labels = make_case()
    labels[:, 0] = 255
    clean = BOTH[name](ignore_index=255)(logits, labels)
    poisoned = logits.detach().clone()
    poisoned[:, :, 0] = poison
    poisoned.requires_grad_()
    loss = BOTH[name](ignore_index=255)(poisoned, labels)
    assert loss == clean
    loss.backward()
    assert (poisoned.grad[:, :, 0] == 0).all()
    assert torch.equal(poisoned.grad, torch.autograd.grad(clean, logits)[0])


@pytest.mark.parametrize("name", list(SOFTMAX_LOSSES))
def test_without_background_the_softmax_still_sees_it(name):
    logits, labels = make_case(2)
    loss = SOFTMAX_LOSSES[name](include_background=False)(logits, labels)
    assert loss > 0.1
    loss.backward()
    assert (logits.grad[:, 0] != 0).float().mean() > 0.4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = monai.losses.FocalLoss(use_softmax=True, include_background=False)(
            logits, one_hot(labels, 2)
        )
    assert theirs == 0


def test_the_softmax_mean_is_over_voxels_not_channels():
    logits, labels = make_case()
    truth = F.cross_entropy(logits, labels)
    ours = FocalLoss(use_softmax=True, gamma=0.0)(logits, labels)
    torch.testing.assert_close(ours, truth, **EXACT)
    theirs = monai.losses.FocalLoss(use_softmax=True, gamma=0.0)(logits, one_hot(labels))
    assert theirs.item() == pytest.approx(truth.item() / 4)


@pytest.mark.parametrize("use_softmax", [True, False])
def test_sum_is_a_sum(use_softmax):
    logits, labels = make_case()
    terms = FocalLoss(use_softmax=use_softmax, reduction="none")(logits, labels)
    total = FocalLoss(use_softmax=use_softmax, reduction="sum")(logits, labels)
    torch.testing.assert_close(total, terms.sum(), **EXACT)


@pytest.mark.parametrize("gamma", [0.0, 0.25, 0.5, 0.99, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@FOCAL
def test_confident_voxels_have_a_finite_gradient_for_every_gamma(name, dtype, gamma):
    sizes = torch.tensor([0.0, 1.0, 10.0, 17.0, 30.0, 100.0, 1000.0])
    logits = torch.stack([sizes, -sizes])[None].to(dtype).requires_grad_()
    for label in (0, 1):
        loss = BOTH[name](gamma=gamma)(logits, torch.full((1, 7), label))
        (grad,) = torch.autograd.grad(loss, logits)
        assert loss.isfinite()
        assert grad.isfinite().all()


def test_sigmoid_alpha_sequence_weighs_negatives_by_what_is_left():
    logits = torch.zeros(1, 2, 1)
    target = torch.tensor([[[1], [0]]], dtype=torch.uint8)
    terms = FocalLoss(gamma=0.0, alpha=[0.9, 0.7], reduction="none")(logits, target)
    assert terms.flatten().tolist() == pytest.approx([0.9 * math.log(2), 0.3 * math.log(2)])
    theirs = monai.losses.FocalLoss(gamma=0.0, alpha=[0.9, 0.7], reduction="none")
    assert theirs(logits, target.float()).flatten().tolist() == pytest.approx(
        [0.9 * math.log(2), 1.0 * math.log(2)]
    )


@pytest.mark.parametrize("alpha", [0.25, [0.25, 0.5]])
def test_alpha_is_in_the_state_dict(alpha):
    assert FocalLoss(alpha=alpha).state_dict()["alpha"].tolist() == alpha
    assert "alpha" not in monai.losses.FocalLoss(alpha=alpha).state_dict()


@pytest.mark.parametrize("how", ["plain", "autocast"])
@pytest.mark.parametrize(
    ("name", "options"),
    [(name, {}) for name in BOTH] + [(n, {"squared_pred": True}) for n in BOTH if "dice" in n],
)
def test_float16_over_more_voxels_than_it_can_count(name, options, how):
    """300^2 voxels: 90000 > 65504, float16's largest number."""
    logits = 2 * torch.randn(1, 3, 300, 300, generator=seeded())
    labels = torch.randint(0, 3, (1, 300, 300), generator=seeded(1)).to(torch.uint8)
    low = logits.half().requires_grad_()
    full = logits.half().float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.float16, enabled=how == "autocast"):
        loss = BOTH[name](**options)(low, labels)
    truth = BOTH[name](**options)(full, labels)
    torch.testing.assert_close(loss, truth, rtol=1e-3, atol=0)
    grads = [
        torch.autograd.grad(1000 * value, leaf)[0].float()
        for value, leaf in ((loss, low), (truth, full))
    ]
    # the gradient is rounded to float16 once; below 6e-5 that is in steps of 6e-8
    torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-7)


@pytest.mark.slow
def test_float16_volume_of_128_cubed():
    logits = 2 * torch.randn(1, 2, 128, 128, 128, generator=seeded())
    labels = (torch.rand(1, 128, 128, 128, generator=seeded(1)) > 0.9).to(torch.uint8)
    low = logits.half().requires_grad_()
    loss = DiceFocalLoss(softmax=True)(low, labels)
    truth = DiceFocalLoss(softmax=True)(logits.half().double(), labels)
    torch.testing.assert_close(loss.double(), truth, rtol=1e-3, atol=0)
    (1e6 * loss).backward()
    assert (low.grad != 0).float().mean() > 0.99
    assert DiceLoss(softmax=True)(low, labels) < 0.9


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("jaccard", [False, True])
@pytest.mark.parametrize("squared_pred", [False, True])
def test_no_smoothing_on_an_empty_class_is_finite(squared_pred, jaccard, batch):
    options = {"squared_pred": squared_pred, "jaccard": jaccard, "batch": batch}
    logits = torch.tensor([[[500.0, 500.0], [-500.0, -500.0]]], requires_grad=True)
    labels = torch.tensor([[0, 0]])
    loss = DiceLoss(softmax=True, smooth_nr=0.0, smooth_dr=0.0, **options)(logits, labels)
    assert loss.item() == 0
    loss.backward()
    assert logits.grad.isfinite().all()


@ALL
def test_float64_stays_float64_and_passes_gradcheck(name):
    logits, labels = make_case()
    logits = logits.detach()[:1, :, :2, :3].requires_grad_()
    loss = BOTH[name](ignore_index=255)
    labels = labels[:1, :2, :3]
    assert loss(logits, labels).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda z: loss(z, labels), logits)


@ALL
def test_a_second_derivative_is_refused_by_name(name):
    logits, labels = make_case()
    loss = BOTH[name]()(logits, labels)
    (grad,) = torch.autograd.grad(loss, logits, create_graph=True)
    with pytest.raises(RuntimeError, match="segfocal::class_sums has no second derivative"):
        grad.sum().backward()


@pytest.mark.parametrize("name", list(SOFTMAX_LOSSES))
def test_softmax_with_one_channel_is_refused(name):
    with pytest.raises(ValueError, match="softmax needs two channels or more"):
        SOFTMAX_LOSSES[name]()(torch.zeros(1, 1, 4), torch.zeros(1, 4, dtype=torch.uint8))


@pytest.mark.parametrize(
    "bad", [{"alpha": 1.5}, {"alpha": -0.5}, {"gamma": -1}, {"gamma": math.nan}]
)
@FOCAL
def test_alpha_and_gamma_out_of_range_are_refused_at_construction(name, bad):
    with pytest.raises(ValueError, match=f"^{next(iter(bad))} must be finite and "):
        BOTH[name](**bad)


@ALL
def test_a_float_label_map_is_refused_with_its_values(name):
    logits, labels = make_case()
    target = labels.float()
    target[0, 0, :2] = 1.5
    with pytest.raises(ValueError, match=r"with 2 values that are not whole, such as 1\.5"):
        BOTH[name]()(logits, target)


@pytest.mark.parametrize("value", [-1, 4, 255])
@ALL
def test_a_label_out_of_range_is_refused_with_its_value_and_count(name, value):
    logits, labels = make_case()
    labels[0, 0, :3] = value
    with pytest.raises(ValueError, match=rf"expected 0 to 3, got {value} \(3 voxels\)"):
        BOTH[name]()(logits, labels)


@ALL
def test_minus_infinity_on_a_wrong_class_is_finite(name):
    logits, labels = make_case()
    with torch.no_grad():
        logits[:, 3] = -torch.inf
    labels[labels == 3] = 0
    loss = BOTH[name]()(logits, labels)
    assert loss.isfinite()
    loss.backward()
    assert logits.grad.isfinite().all()


@ALL
def test_vmap_works_with_to_onehot_y(name):
    logits, labels = make_case()
    loss = BOTH[name](to_onehot_y=True)
    mapped = torch.vmap(loss)(logits[:, None], labels[:, None, None])
    looped = [loss(logits[i : i + 1], labels[i : i + 1, None]) for i in range(2)]
    torch.testing.assert_close(mapped, torch.stack(looped), **EXACT)


@pytest.mark.parametrize("name", [key for key in BOTH if not key.endswith(" gdl")])
def test_a_scalar_class_weight_stays_scalar(name):
    logits, labels = make_case()
    loss = BOTH[name](weight=2.0)
    loss(logits, labels)
    assert loss.weight.shape == ()


@ALL
def test_an_all_ignored_batch_is_zero_and_backward_runs(name):
    logits, labels = make_case()
    loss = BOTH[name](ignore_index=255)(logits, torch.full_like(labels, 255))
    assert loss == 0
    loss.backward()
    assert (logits.grad == 0).all()


@ALL
def test_what_lies_under_the_ignore_label_changes_no_bit(name):
    logits, labels = make_case()
    labels[:, 1:3] = 255
    other = logits.detach().clone()
    other[:, :, 1:3] = 7 * torch.randn(2, 4, 2, 6, generator=seeded(9), dtype=torch.float64)
    loss = BOTH[name](ignore_index=255)
    assert loss(logits, labels) == loss(other, labels)


@ALL
def test_voxel_order_does_not_matter(name):
    logits, labels = make_case()
    order = torch.randperm(30, generator=seeded(3))
    shuffled = BOTH[name]()(logits.flatten(2)[:, :, order], labels.flatten(1)[:, order])
    torch.testing.assert_close(shuffled, BOTH[name]()(logits, labels), **EXACT)
