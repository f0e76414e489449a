"""One loss at every level: which levels, which targets, which weights."""

from __future__ import annotations

import copy
import math
import pickle
import re

import monai.losses
import pytest
import torch
from monai.data import MetaTensor
from monai.networks.nets import DynUNet, SegResNetDS
from torch import nn

from segfocal.functional import downsample_target
from segfocal.losses import DeepSupervisionLoss, DiceFocalLoss, DiceLoss, FocalLoss
from tests.gpu import no_waiting

REGIONS = ((1, 2), (1,))
LEVEL_WEIGHTS = "weights must be a finite number >= 0 for each level, and not all 0"
EXACT = {"rtol": 1e-12, "atol": 1e-14}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def refused(message):
    return pytest.raises(ValueError, match="^" + re.escape(message) + "$")


def make_levels(sizes=((8, 8, 6), (4, 4, 3), (3, 2, 2)), channels=3, batch=2):
    levels = [
        torch.randn(batch, channels, *size, generator=seeded(i), dtype=torch.float64)
        for i, size in enumerate(sizes)
    ]
    labels = (torch.rand(batch, *sizes[0], generator=seeded(9)) > 0.9).to(torch.uint8)
    labels[0, 0, 0, 0] = 2
    labels[:, -1] = 255
    return [level.requires_grad_() for level in levels], labels


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("same", [1, 1, 1, 1, 1, 1]),
        ("exp", [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 16]),
        ("two", [1, 1 / 2, 1 / 2, 1 / 2, 1 / 2, 1 / 2]),
    ],
)
def test_weights_are_monai_s_and_sum_to_one(mode, expected):
    weights = DeepSupervisionLoss(DiceLoss(softmax=True), mode).level_weights(6)
    monais = monai.losses.DeepSupervisionLoss(nn.Identity(), mode).get_weights(6)
    assert monais == expected
    assert weights == pytest.approx([weight / sum(expected) for weight in expected])
    assert sum(weights) == pytest.approx(1)


def test_given_weights_are_normalised_and_must_match_the_levels():
    loss = DeepSupervisionLoss(DiceLoss(softmax=True), weights=[4, 0, 1])
    assert loss.level_weights(3) == [0.8, 0, 0.2]
    assert loss.level_weights(1) == [1.0]
    with refused("weights must have one number per level: expected 2, got 3."):
        loss.level_weights(2)


@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("with_channel_axis", [False, True])
def test_it_is_the_weighted_mean_of_the_levels(with_channel_axis, with_mask):
    levels, labels = make_levels()
    mask = torch.rand(2, 1, *labels.shape[1:], generator=seeded(3)) > 0.3 if with_mask else None
    target = labels[:, None] if with_channel_axis else labels
    each = DiceFocalLoss(softmax=True, ignore_index=255)
    coarse = downsample_target(
        target,
        [level.shape[2:] for level in levels[1:]],
        num_channels=3,
        ignore_index=255,
        mask=mask,
    )
    expected = (
        4 / 7 * each(levels[0], target, mask)
        + 2 / 7 * each(levels[1], *coarse[0])
        + 1 / 7 * each(levels[2], *coarse[1])
    )
    ours = DeepSupervisionLoss(each)(levels, target, mask)
    torch.testing.assert_close(ours, expected, **EXACT)
    for grads in zip(
        torch.autograd.grad(ours, levels), torch.autograd.grad(expected, levels), strict=True
    ):
        torch.testing.assert_close(*grads, **EXACT)


def test_a_lesion_of_one_voxel_is_asked_for_at_every_level():
    labels = torch.zeros(1, 16, 16, 16, dtype=torch.uint8)
    labels[0, 8, 8, 8] = 1
    loss = DeepSupervisionLoss(DiceLoss(softmax=True, include_background=False), "same")
    monais = monai.losses.DeepSupervisionLoss(
        monai.losses.DiceLoss(softmax=True, include_background=False, to_onehot_y=True), "same"
    )
    levels, at = [], {16: 8, 8: 4, 4: 2, 2: 1}
    for size, index in at.items():
        logits = torch.full((1, 2, size, size, size), 20.0)
        logits[:, 1] = -20
        logits[0, 1, index, index, index] = 60
        levels.append(logits)
    assert loss(levels, labels).item() == pytest.approx(0, abs=1e-4)
    wrong_levels = monais(levels, labels[:, None].float()).item()
    assert wrong_levels == pytest.approx(3, abs=1e-4)  # the three smaller ones ask for nothing
    levels[3][0, 1] = -20
    assert loss(levels, labels).item() == pytest.approx(0.25, abs=1e-4)


def test_regions_and_ignored_labels_are_the_loss_s_own():
    levels, labels = make_levels(channels=2)
    labels[:, :6:2, ::2], labels[:, 1:6:2, ::2] = 1, 2  # class 1, of both regions, is common
    options = {"regions": REGIONS, "ignore_index": 255}
    each = DiceFocalLoss(sigmoid=True, **options)
    coarse = downsample_target(
        labels, [level.shape[2:] for level in levels[1:]], num_channels=2, **options
    )
    expected = [each(levels[0], labels)] + [
        each(level, made.target) for level, made in zip(levels[1:], coarse, strict=True)
    ]
    ours = DeepSupervisionLoss(each, "same")(levels, labels)
    torch.testing.assert_close(ours, sum(expected) / 3, **EXACT)


def test_torch_s_own_loss_can_be_wrapped_and_its_ignored_label_is_left_out():
    levels, labels = make_levels()
    labels = labels.long()
    each = nn.CrossEntropyLoss(ignore_index=255)
    coarse = downsample_target(
        labels, [level.shape[2:] for level in levels[1:]], num_channels=3, ignore_index=255
    )
    expected = [each(levels[0], labels)] + [
        each(level, made.target) for level, made in zip(levels[1:], coarse, strict=True)
    ]
    ours = DeepSupervisionLoss(each, "same")(levels, labels)
    torch.testing.assert_close(ours, sum(expected) / 3, **EXACT)


def test_monai_s_own_loss_can_be_wrapped_with_its_float_labels():
    levels, labels = make_levels()
    labels = labels.clamp(max=2)[:, None].double()
    each = monai.losses.DiceLoss(softmax=True, to_onehot_y=True)
    coarse = downsample_target(
        labels, [level.shape[2:] for level in levels[1:]], num_channels=3, ignore_index=255
    )
    expected = [each(levels[0], labels)] + [
        each(level, made.target) for level, made in zip(levels[1:], coarse, strict=True)
    ]
    ours = DeepSupervisionLoss(each, "same")(levels, labels)
    torch.testing.assert_close(ours, sum(expected) / 3, **EXACT)


def test_a_loss_that_does_not_name_its_ignored_label_is_told():
    levels, labels = make_levels()
    labels[:, :, 1:] = 255
    seen = []

    def spy(logits, target):
        seen.append(target)
        return logits.sum()

    DeepSupervisionLoss(spy, ignore_index=255)(levels, labels)
    DeepSupervisionLoss(spy)(levels, labels)
    assert (seen[2] == 255).sum() < (seen[5] == 255).sum()


def test_a_stack_at_full_size_needs_no_smaller_target():
    levels, labels = make_levels(((8, 8, 6),) * 3)
    each = DiceLoss(softmax=True, ignore_index=255)
    expected = sum(w * each(level, labels) for w, level in zip((4, 2, 1), levels, strict=True)) / 7
    loss = DeepSupervisionLoss(each)
    stack = torch.stack(levels, 1)
    for target in (labels, labels[:, None]):
        torch.testing.assert_close(loss(stack, target), expected, **EXACT)
        torch.testing.assert_close(loss(levels, target), expected, **EXACT)
    single = loss(levels[0], labels[:, None])
    torch.testing.assert_close(single, each(levels[0], labels), **EXACT)


@pytest.mark.parametrize(
    ("shape", "target", "is_stack"),
    [
        ((2, 3, 8), (2, 8), False),
        ((2, 3, 8, 6), (2, 8, 6), False),
        ((2, 3, 8, 6), (2, 1, 8, 6), False),
        ((2, 3, 4, 8, 6), (2, 8, 6), True),
        ((2, 3, 4, 8, 6), (2, 1, 8, 6), True),
        ((2, 3, 4, 8, 6), (2, 1, 4, 8, 6), False),
        ((2, 3, 4, 8, 6), (2, 3, 4, 8, 6), False),
        ((2, 3, 4, 8, 6, 5), (2, 8, 6, 5), True),
        ((2, 3, 1, 8, 6, 5), (2, 1, 8, 6, 5), True),
        ((2, 3, 4, 8, 6, 5), (2, 4, 8, 6, 5), True),
    ],
)
def test_a_stack_is_told_from_a_volume(shape, target, is_stack):
    seen = []

    def spy(logits, target):
        seen.append(tuple(logits.shape))
        return logits.sum()

    DeepSupervisionLoss(spy)(torch.zeros(shape), torch.zeros(target))
    level = (shape[0], *shape[2:]) if is_stack else shape
    assert seen == [level] * (shape[1] if is_stack else 1)


def test_an_ambiguous_tensor_is_refused_until_spatial_dims_tells():
    logits, labels = torch.zeros(2, 3, 4, 8, 6), torch.zeros(2, 4, 8, 6)
    seen = []

    def spy(logits, target):
        seen.append(logits.ndim)
        return logits.sum()

    with refused(
        "an input of shape (2, 3, 4, 8, 6) with a target of shape (2, 4, 8, 6) is a volume of 3 "
        "channels with labels, or a stack of 3 2-d levels with 4 channels. Set spatial_dims to 3 "
        "or 2, or give labels a channel axis."
    ):
        DeepSupervisionLoss(spy)(logits, labels)
    DeepSupervisionLoss(spy, spatial_dims=3)(logits, labels)
    assert seen == [5]
    DeepSupervisionLoss(spy, spatial_dims=2)(logits, labels)
    assert seen == [5, 4, 4, 4]
    with refused(
        "input must be (B, C, *S) or (B, levels, C, *S) with 1 spatial axes: got shape "
        "(2, 3, 4, 8, 6)."
    ):
        DeepSupervisionLoss(spy, spatial_dims=1)(logits, labels)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_integer_labels_without_a_channel_axis_are_those_of_a_volume(dtype):
    inner = DiceFocalLoss(softmax=True)
    logits = torch.randn(2, 3, 6, 6, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 3, (2, 6, 6, 6), generator=torch.Generator().manual_seed(1))
    loss = DeepSupervisionLoss(inner)
    truth = inner(logits, labels)
    assert torch.equal(loss(logits, labels.to(dtype)), truth)
    assert torch.equal(loss([logits], labels.to(dtype)), truth)


def test_a_per_channel_target_needs_to_know_whether_channels_exclude_each_other():
    levels = [torch.zeros(2, 2, 8), torch.zeros(2, 2, 4)]
    target = torch.zeros(2, 2, 8)
    target[:, 0, 4:], target[:, 1, :5] = 1, 1
    seen = []

    def spy(logits, target):
        seen.append(target[0].tolist())
        return logits.sum()

    with refused(
        "the loss does not say whether the 2 channels of the target exclude each other: set "
        "exclusive=True (one-hot classes) or exclusive=False (regions)."
    ):
        DeepSupervisionLoss(spy)(levels, target)
    DeepSupervisionLoss(spy, exclusive=False)(levels, target)
    assert seen.pop() == [[0, 0, 1, 1], [1, 1, 1, 0]]
    assert DeepSupervisionLoss(FocalLoss()).exclusive is False
    assert DeepSupervisionLoss(FocalLoss(use_softmax=True)).exclusive is True
    DeepSupervisionLoss(FocalLoss())(levels, target)


def test_a_level_of_weight_zero_is_not_computed():
    levels, labels = make_levels()
    levels[1] = levels[1].detach().fill_(torch.nan)
    loss = DeepSupervisionLoss(DiceLoss(softmax=True, ignore_index=255), weights=[1, 0, 1])
    assert torch.isfinite(loss(levels, labels))


@pytest.mark.parametrize("network", ["DynUNet", "SegResNetDS"])
def test_a_training_step_of_monai_s_networks_lowers_the_loss(network):
    torch.manual_seed(0)
    if network == "DynUNet":
        net = DynUNet(
            spatial_dims=3,
            in_channels=1,
            out_channels=2,
            kernel_size=[3] * 4,
            strides=[1, 2, 2, 2],
            upsample_kernel_size=[2] * 3,
            filters=[4, 4, 4, 4],
            deep_supervision=True,
            deep_supr_num=2,
        )
    else:
        net = SegResNetDS(
            init_filters=4, blocks_down=(1, 1, 1, 1), norm="INSTANCE", in_channels=1, dsdepth=3
        )
    labels = torch.zeros(2, 1, 16, 16, 16, dtype=torch.uint8)
    labels[:, :, 5, 5, 5] = 1
    labels[:, :, 12:] = 255
    image = labels.float() + torch.randn(labels.shape, generator=seeded())
    loss = DeepSupervisionLoss(DiceFocalLoss(softmax=True, ignore_index=255))
    outputs = net(image)
    assert len(outputs) == 3 if isinstance(outputs, list) else outputs.shape[1] == 3
    optimizer = torch.optim.SGD(net.parameters(), 1e-3)
    before = loss(outputs, labels)
    before.backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    optimizer.step()
    assert loss(net(image), labels) < before
    net.eval()
    with torch.no_grad():
        single = net(image)
        assert single.shape == (2, 2, 16, 16, 16)
        assert torch.equal(loss(single, labels), loss.loss(single, labels))


def test_meta_tensors_in_a_plain_tensor_out():
    levels, labels = make_levels()
    loss = DeepSupervisionLoss(DiceFocalLoss(softmax=True, ignore_index=255))
    mask = torch.ones(2, 1, *labels.shape[1:]) > 0
    ours = loss([MetaTensor(level) for level in levels], MetaTensor(labels), MetaTensor(mask))
    assert type(ours) is torch.Tensor
    torch.testing.assert_close(ours, loss(levels, labels), **EXACT)


@pytest.mark.parametrize("form", ["list", "stack"])
def test_it_compiles_in_one_graph(form):
    levels, labels = make_levels(((8, 8, 6),) * 2 if form == "stack" else ((8, 8, 6), (4, 3, 3)))
    loss = DeepSupervisionLoss(DiceFocalLoss(softmax=True, ignore_index=255))
    leaves = levels
    if form == "stack":
        leaves = [torch.stack(levels, 1).detach().requires_grad_()]
    given = leaves[0] if form == "stack" else levels
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    ours, truth = compiled(given, labels[:, None]), loss(given, labels[:, None])
    torch.testing.assert_close(ours, truth, rtol=1e-6, atol=1e-7)
    for grads in zip(
        torch.autograd.grad(ours, leaves), torch.autograd.grad(truth, leaves), strict=True
    ):
        torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-9)


def test_the_state_dict_is_that_of_the_loss_inside_and_forward_changes_nothing():
    loss = DeepSupervisionLoss(FocalLoss(use_softmax=True, alpha=[1, 2, 3], ignore_index=255))
    assert set(loss.state_dict()) == {"loss.alpha"}
    levels, labels = make_levels()
    kept = labels.clone(), copy.deepcopy(loss.state_dict())
    value = loss(levels, labels)
    assert torch.equal(labels, kept[0])
    assert torch.equal(loss.state_dict()["loss.alpha"], kept[1]["loss.alpha"])
    assert torch.equal(pickle.loads(pickle.dumps(loss))(levels, labels), value)
    assert "weight_mode='exp'" in repr(loss)


def test_bad_levels_are_refused():
    levels, labels = make_levels()
    loss = DeepSupervisionLoss(DiceLoss(softmax=True, ignore_index=255))
    with refused(
        "levels must come highest resolution first: got (3, 2, 2) before (4, 4, 3). "
        "Reverse the list."
    ):
        loss(levels[::-1], labels)
    with refused("input must have one level or more: got an empty list."):
        loss([], labels)
    with refused(
        "the loss must give one number a level, got shapes (2, 3, 8, 8, 6), (2, 3, 4, 4, 3), "
        "(2, 3, 3, 2, 2). Set its reduction to 'mean'."
    ):
        DeepSupervisionLoss(FocalLoss(reduction="none", ignore_index=255))(levels, labels)
    with pytest.raises(ValueError, match="target does not fit logits"):
        loss(levels, labels[:, 1:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight_mode": "half"}, "weight_mode must be one of same, exp, two: got 'half'."),
        ({"weights": [1, -1]}, f"{LEVEL_WEIGHTS}: got [1, -1]."),
        ({"weights": [1, math.inf]}, f"{LEVEL_WEIGHTS}: got [1, inf]."),
        ({"weights": [1, math.nan]}, f"{LEVEL_WEIGHTS}: got [1, nan]."),
        ({"weights": [0, 0]}, f"{LEVEL_WEIGHTS}: got [0, 0]."),
        ({"weights": 1.0}, f"{LEVEL_WEIGHTS}: got 1.0."),
        ({"weights": "ab"}, f"{LEVEL_WEIGHTS}: got 'ab'."),
        ({"spatial_dims": 4}, "spatial_dims must be 1, 2 or 3: got 4."),
    ],
)
def test_construction_refuses(arguments, message):
    with refused(message):
        DeepSupervisionLoss(DiceLoss(softmax=True), **arguments)


@pytest.mark.gpu
def test_forward_and_backward_never_wait_for_the_device():
    levels, labels = make_levels()
    loss = DeepSupervisionLoss(DiceFocalLoss(softmax=True, ignore_index=255))
    expected = loss(levels, labels)
    levels = [level.detach().cuda().requires_grad_() for level in levels]
    labels = labels.cuda()
    loss(levels, labels)
    with no_waiting():
        value = loss(levels, labels)
        value.backward()
    torch.testing.assert_close(value.cpu(), expected)
