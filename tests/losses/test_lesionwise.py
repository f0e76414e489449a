"""Blob loss and the loss of each lesion's region, against a loop over the lesions.

The oracle knows neither the op nor its algebra: one-hot in float64, a mask a lesion, autograd.
"""

from __future__ import annotations

import copy
import pickle
import re

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from segfocal.losses import (
    BlobLoss,
    ConnectedComponentLoss,
    DeepSupervisionLoss,
    DiceFocalLoss,
    DiceLoss,
    FocalLoss,
)
from tests.gpu import no_waiting

REGIONS = ((1, 2), (2,))
EXACT = {"rtol": 1e-10, "atol": 1e-12}
KINDS = pytest.mark.parametrize("kind", [BlobLoss, ConnectedComponentLoss])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def refused(message):
    return pytest.raises(ValueError, match="^" + re.escape(message) + "$")


def maps_of(mask):
    """Components and Voronoi regions of `(*S)`, by scipy."""
    found, count = ndimage.label(mask.numpy(), np.ones((3,) * mask.ndim))
    at = ndimage.distance_transform_edt(found == 0, return_distances=False, return_indices=True)
    regions = found[tuple(at)] if count else found
    return torch.from_numpy(found).long(), torch.from_numpy(regions).long()


def make_case(kind, num_channels=3, shape=(9, 8, 7), per_channel=False):
    logits = 2 * torch.randn(3, num_channels, *shape, generator=seeded(), dtype=torch.float64)
    drawn = torch.rand(3, *shape, generator=seeded(1))
    labels = torch.where(drawn > 0.97, 1, 0) + torch.where(drawn > 0.985, 1, 0)
    labels = torch.where(drawn < 0.1, 255, labels).to(torch.uint8)
    labels[1] = labels[1].where(labels[1] == 255, 0)  # a sample without a lesion
    mask = torch.rand(3, 1, *shape, generator=seeded(2)) > 0.1
    which = 0 if kind is BlobLoss else 1
    tables = REGIONS if per_channel else ((1, 2),)
    lesions = torch.stack(
        [
            torch.stack([maps_of(torch.isin(sample, torch.tensor(t)))[which] for t in tables])
            for sample in labels
        ]
    )
    return logits.requires_grad_(), labels, lesions, mask


def naive_terms(p, y, counted, *, softmax, gamma, first):
    """Dice and focal loss of one sample `(C, *S)` over the voxels where `counted` `(1, *S)`."""
    p, y = p[:, counted[0]], y[:, counted[0]]
    tp, sizes = (p * y).sum(1), p.sum(1) + y.sum(1)
    dice = (1 - (2 * tp + 1e-5) / (sizes + 1e-5))[first:].mean()
    if softmax:
        own = (p * y).sum(0)
        focal = -((1 - own) ** gamma * own.log()) * y[first:].sum(0)
        return dice, focal.sum() / y.sum()
    own = torch.where(y > 0, p, 1 - p)
    return dice, -((1 - own) ** gamma * own.log()).mean()


def naive_lesion_term(kind, logits, labels, lesions, mask, *, regions, gamma, first, of_lesion):
    """A loop over samples, channels with lesions of their own, and lesions."""
    softmax = regions is None
    table = regions or [(c,) for c in range(logits.shape[1])]
    samples = []
    for z, t, numbers, allowed in zip(logits, labels, lesions, mask, strict=True):
        p = z.softmax(0) if softmax else z.sigmoid()
        y = torch.stack([torch.isin(t, torch.tensor(classes)) for classes in table]).double()
        valid = allowed & (t != 255)[None]
        each = []
        for channel, of_channel in enumerate(numbers):
            chosen = slice(None) if len(numbers) == 1 else slice(channel, channel + 1)
            foreground = (t > 0)[None] if len(numbers) == 1 else y[chosen] > 0
            for number in range(1, int(of_channel.max()) + 1):
                own = (of_channel == number)[None]
                if not (own & valid & foreground).any():
                    continue
                around = own | (of_channel == 0)[None] if kind is BlobLoss else own
                dice, focal = naive_terms(
                    p[chosen],
                    y[chosen],
                    valid & around,
                    softmax=softmax,
                    gamma=gamma,
                    first=first,
                )
                each.append(of_lesion(dice, focal))
        if each:
            samples.append(torch.stack(each).mean())
    return torch.stack(samples).mean()


@KINDS
@pytest.mark.parametrize("include_background", [True, False])
def test_softmax_is_a_loop_over_the_lesions(kind, include_background):
    logits, labels, lesions, mask = make_case(kind)
    loss = kind(
        DiceFocalLoss(
            softmax=True,
            gamma=1.5,
            include_background=include_background,
            lambda_dice=0.5,
            lambda_focal=2.0,
            ignore_index=255,
        ),
        lambda_global=3.0,
        lambda_lesion=0.7,
    )
    whole = loss.loss(logits, labels, mask)
    lesion = naive_lesion_term(
        kind,
        logits,
        labels,
        lesions,
        mask,
        regions=None,
        gamma=1.5,
        first=0 if include_background else 1,
        of_lesion=lambda dice, focal: 0.5 * dice + 2 * focal,
    )
    ours, truth = loss(logits, labels, lesions, mask), 3 * whole + 0.7 * lesion
    torch.testing.assert_close(ours, truth, **EXACT)
    grads = [torch.autograd.grad(value, logits)[0] for value in (ours, truth)]
    torch.testing.assert_close(*grads, **EXACT)


@KINDS
@pytest.mark.parametrize("per_channel", [False, True])
def test_regions_are_a_loop_over_the_lesions(kind, per_channel):
    logits, labels, lesions, mask = make_case(kind, num_channels=2, per_channel=per_channel)
    options = {"regions": REGIONS, "ignore_index": 255}
    for inner, of_lesion in (
        (FocalLoss(gamma=0.5, **options), lambda dice, focal: focal),
        (DiceLoss(sigmoid=True, **options), lambda dice, focal: dice),
        (DiceFocalLoss(sigmoid=True, gamma=0.5, **options), lambda dice, focal: dice + focal),
    ):
        ours = kind(inner).terms(logits, labels, lesions, mask)
        truth = naive_lesion_term(
            kind,
            logits,
            labels,
            lesions,
            mask,
            regions=REGIONS,
            gamma=0.5,
            first=0,
            of_lesion=of_lesion,
        )
        torch.testing.assert_close(ours.lesion, truth, **EXACT)
        torch.testing.assert_close(ours.whole, inner(logits, labels, mask), **EXACT)
        grads = [torch.autograd.grad(value, logits)[0] for value in (ours.lesion, truth)]
        torch.testing.assert_close(*grads, **EXACT)


@KINDS
@pytest.mark.parametrize(
    "inner",
    [
        DiceFocalLoss(
            softmax=True,
            alpha=[0.2, 1.0, 2.0],
            weight=[1.0, 2.0, 0.5],
            squared_pred=True,
            jaccard=True,
            absent="skip",
            normalizer="alpha",
            include_background=False,
            focal_include_background=True,
            ignore_index=255,
        ),
        FocalLoss(alpha=0.75, normalizer="positives", weight=[1.0, 2.0, 3.0], ignore_index=255),
        DiceLoss(softmax=True, smooth_nr=0.1, smooth_dr=0.3, weight=2.0, ignore_index=255),
        FocalLoss(use_softmax=True, reduction="sum", gamma=[0.5, 1.0, 3.0], ignore_index=255),
    ],
    ids=["dice focal", "focal", "dice", "focal sum"],
)
def test_every_option_of_the_loss_holds_for_each_lesion(kind, inner):
    logits, labels, lesions, mask = make_case(kind)
    samples = []
    for b in range(len(labels)):
        one = slice(b, b + 1)
        each = []
        for number in range(1, int(lesions[b].max()) + 1):
            own = lesions[one] == number
            allowed = mask[one] & (own | (lesions[one] == 0) if kind is BlobLoss else own)
            foreground = (labels[one, None] > 0) & (labels[one, None] < 255)
            if (own & mask[one] & foreground).any():
                each.append(inner(logits[one], labels[one], allowed))
        if each:
            samples.append(torch.stack(each).mean())
    ours = kind(inner).terms(logits, labels, lesions, mask).lesion
    torch.testing.assert_close(ours, torch.stack(samples).mean(), **EXACT)


def test_a_small_lesion_weighs_as_much_as_a_large_one():
    labels = torch.zeros(1, 20, 20, dtype=torch.uint8)
    labels[0, :15, :15], labels[0, 18, 18] = 1, 1
    components = maps_of(labels[0] > 0)[0][None, None]
    found_large = torch.where(labels == 1, 20.0, -20.0)
    found_large[0, 18, 18] = -20
    logits = torch.stack([torch.zeros_like(found_large), found_large], 1)
    inner = DiceLoss(softmax=True, include_background=False)
    assert inner(logits, labels).item() < 0.01
    assert BlobLoss(inner).terms(logits, labels, components).lesion.item() > 0.49


@KINDS
def test_a_lesion_that_a_crop_cuts_counts_with_what_is_left_and_others_not_at_all(kind):
    labels = torch.zeros(1, 12, 12, dtype=torch.uint8)
    labels[0, 1:4, 1:4], labels[0, 1, 10], labels[0, 9:, 4:7] = 1, 1, 1
    lesions = maps_of(labels[0] > 0)[0 if kind is BlobLoss else 1][None, None]
    logits = torch.randn(1, 2, 12, 12, generator=seeded(), dtype=torch.float64)
    crop = (..., slice(2, 12), slice(2, 9))  # cuts the first, drops the second, keeps the third
    term = kind(DiceLoss(softmax=True)).terms(logits[crop], labels[crop], lesions[crop]).lesion
    each = []
    for number in (1, 3):
        own = lesions[crop] == number
        allowed = own | (lesions[crop] == 0) if kind is BlobLoss else own
        each.append(DiceLoss(softmax=True)(logits[crop], labels[crop], allowed))
    torch.testing.assert_close(term, torch.stack(each).mean(), **EXACT)


@KINDS
def test_without_a_lesion_there_is_the_global_term_alone(kind):
    logits, labels, lesions, mask = make_case(kind)
    loss = kind(DiceFocalLoss(softmax=True, ignore_index=255), lambda_global=1.5)
    for target in (torch.zeros_like(labels), torch.full_like(labels, 255)):
        value = loss(logits, target, torch.zeros_like(lesions), mask)
        expected = 1.5 * loss.loss(logits, target, mask)
        torch.testing.assert_close(value, expected, **EXACT)
        grads = [torch.autograd.grad(v, logits)[0] for v in (value, expected)]
        torch.testing.assert_close(*grads, **EXACT)


@KINDS
def test_a_term_of_weight_zero_is_left_out(kind):
    logits, labels, lesions, mask = make_case(kind)
    inner = DiceFocalLoss(softmax=True, ignore_index=255)
    terms = kind(inner).terms(logits, labels, lesions, mask)
    for weights, expected in (((2.0, 0.0), 2 * terms.whole), ((0.0, 3.0), 3 * terms.lesion)):
        loss = kind(inner, lambda_global=weights[0], lambda_lesion=weights[1])
        torch.testing.assert_close(loss(logits, labels, lesions, mask), expected, **EXACT)


@KINDS
def test_an_empty_batch_gives_zero(kind):
    logits = torch.zeros(0, 2, 4, 4, requires_grad=True)
    labels = torch.zeros(0, 4, 4, dtype=torch.uint8)
    loss = kind(DiceFocalLoss(softmax=True))(logits, labels, labels.int()[:, None])
    assert loss.item() == 0
    loss.backward()


def test_the_defaults_of_blob_loss_are_those_of_the_paper():
    loss = BlobLoss(DiceLoss(softmax=True))
    assert (loss.lambda_global, loss.lambda_lesion) == (2.0, 1.0)


@KINDS
def test_meta_tensors_in_a_plain_tensor_out(kind):
    logits, labels, lesions, mask = make_case(kind)
    loss = kind(DiceFocalLoss(softmax=True, ignore_index=255))
    ours = loss(*(MetaTensor(tensor) for tensor in (logits, labels, lesions, mask)))
    assert type(ours) is torch.Tensor
    torch.testing.assert_close(ours, loss(logits, labels, lesions, mask), **EXACT)


@pytest.mark.parametrize(
    ("kind", "activation"), [(BlobLoss, "softmax"), (ConnectedComponentLoss, "sigmoid")]
)
def test_it_compiles_in_one_graph(kind, activation):
    case = make_case(kind, shape=(5, 6, 4))
    inner = DiceFocalLoss(**{activation: True}, ignore_index=255)
    loss = kind(inner, max_lesions=20)
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    results = [made(*case) for made in (loss, compiled)]
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-7)
    grads = [torch.autograd.grad(result, case[0])[0] for result in results]
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-6, atol=1e-9)


def test_forward_changes_nothing_and_the_state_dict_is_that_of_the_loss_inside():
    case = make_case(BlobLoss)
    loss = BlobLoss(FocalLoss(use_softmax=True, alpha=[1, 2, 3], ignore_index=255))
    kept = [tensor.detach().clone() for tensor in case], copy.deepcopy(loss.state_dict())
    value = loss(*case)
    assert all(torch.equal(a, b) for a, b in zip(case, kept[0], strict=True))
    assert set(loss.state_dict()) == {"loss.alpha"}
    assert torch.equal(loss.state_dict()["loss.alpha"], kept[1]["loss.alpha"])
    for twin in (pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss)):
        assert torch.equal(twin(*case), value)
    assert "lambda_global=2.0, lambda_lesion=1.0, max_lesions=1024" in repr(loss)


def test_half_precision_agrees_with_double():
    logits, labels, lesions, mask = make_case(BlobLoss)
    loss = BlobLoss(DiceFocalLoss(softmax=True, ignore_index=255))
    truth = loss(logits, labels, lesions, mask)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float16, 1e-3), (torch.bfloat16, 1e-2)):
        value = loss(logits.detach().to(dtype), labels, lesions, mask)
        torch.testing.assert_close(value.double(), truth, rtol=tolerance, atol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"loss": DeepSupervisionLoss(DiceLoss(softmax=True))},
            (
                "loss must be a Dice, Tversky or focal loss of segfocal, or a compound of them: "
                "got DeepSupervisionLoss."
            ),
        ),
        (
            {"loss": FocalLoss(reduction="none")},
            (
                "a loss with reduction='none' has no single number a lesion. Set its reduction to "
                "'mean'."
            ),
        ),
        ({"lambda_lesion": -1.0}, "lambda_lesion must be a finite number >= 0: got -1.0."),
        ({"lambda_global": -1.0}, "lambda_global must be a finite number >= 0: got -1.0."),
        (
            {"lambda_global": 0.0, "lambda_lesion": 0.0},
            "lambda_global and lambda_lesion are both 0, which leaves no loss. Give one a weight.",
        ),
        ({"max_lesions": 0}, "max_lesions must be 1 or more: got 0."),
        (
            {"loss": FocalLoss(top_k=10)},
            "top_k has no meaning for each lesion: leave it out of the loss.",
        ),
        (
            {"loss": DiceLoss(softmax=True, process_group="world")},
            "process_group has no meaning for each lesion: leave it out of the loss.",
        ),
    ],
)
@KINDS
def test_construction_refuses(kind, arguments, message):
    with refused(message):
        kind(**{"loss": DiceLoss(softmax=True), **arguments})


@pytest.mark.gpu
@KINDS
def test_forward_and_backward_never_wait_for_the_device(kind):
    logits, labels, lesions, mask = make_case(kind)
    loss = kind(DiceFocalLoss(softmax=True, ignore_index=255))
    expected = loss(logits, labels, lesions, mask)
    moved = [tensor.detach().cuda() for tensor in (logits, labels, lesions, mask)]
    moved[0].requires_grad_()
    loss(*moved)
    with no_waiting():
        value = loss(*moved)
        value.backward()
    torch.testing.assert_close(value.cpu(), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", [BlobLoss, ConnectedComponentLoss])
def test_vmap_is_a_loop_over_the_samples(kind):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 2, 12, generator=generator)
    labels = torch.tensor([[1, 1, 0, 0, 1, 0] * 2, [0] * 12, [0, 1] * 6])
    lesions = torch.tensor([[1, 1, 0, 0, 2, 0, 3, 3, 0, 0, 4, 0], [0] * 12, [0, 1, 0, 2, 0, 3] * 2])
    loss = kind(DiceFocalLoss(softmax=True), max_lesions=5)

    def of_sample(z, t, n):
        return loss(z[None], t[None], n[None, None])

    each = [of_sample(*sample) for sample in zip(logits, labels, lesions, strict=True)]
    ours = torch.vmap(of_sample)(logits, labels, lesions)
    torch.testing.assert_close(ours, torch.stack(each))
