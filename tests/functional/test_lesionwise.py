"""Sums of each lesion, in one pass: equal to the op with a mask for each lesion."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from scipy import ndimage

from segfocal.functional.dice import DiceOptions, dice_of_sums
from segfocal.functional.lesionwise import LesionSums, lesion_sums, lesionwise_loss
from segfocal.functional.voxel_options import VoxelOptions, Voxels
from segfocal.ops.class_sums import ClassSums, class_sums

REGIONS = ((1, 2), (2,))
EXACT = {"rtol": 1e-11, "atol": 1e-13}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def numbered(mask):
    """Components and Voronoi regions of a mask `(B, *S)`, by scipy, `(B, 1, *S)` int64."""
    components, regions = [], []
    for sample in mask.numpy():
        found, count = ndimage.label(sample, np.ones((3,) * sample.ndim))
        at = ndimage.distance_transform_edt(found == 0, return_distances=False, return_indices=True)
        components.append(found)
        regions.append(found[tuple(at)] if count else found)
    return [torch.from_numpy(np.stack(maps)).long()[:, None] for maps in (components, regions)]


def make_case(num_channels=3, num_classes=3, shape=(10, 11)):
    logits = 2 * torch.randn(2, num_channels, *shape, generator=seeded(), dtype=torch.float64)
    drawn = torch.rand(2, *shape, generator=seeded(1))
    labels = torch.where(
        drawn > 0.85, torch.randint(1, num_classes, drawn.shape, generator=seeded(2)), 0
    )
    labels = torch.where(drawn < 0.1, 255, labels).to(torch.uint8)
    return logits.requires_grad_(), labels


def in_scope(lesions, number, scope):
    return lesions == number if scope == "region" else (lesions == 0) | (lesions == number)


def assert_sums_equal(ours, truth):
    for name, mine, theirs in zip(ClassSums._fields, ours, truth, strict=True):
        torch.testing.assert_close(mine, theirs, **EXACT, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("scope", ["blob", "region"])
@pytest.mark.parametrize(
    "kind",
    [
        "softmax",
        "softmax smoothed",
        "sigmoid",
        "sigmoid smoothed",
        "regions",
        "soft",
        "soft minimum",
        "one hot",
        "single",
    ],
)
def test_each_lesion_has_the_sums_of_the_op_with_its_own_mask(kind, scope, masked):
    num_channels = {"regions": 2, "single": 1}.get(kind, 3)
    logits, labels = make_case(num_channels, 2 if kind == "single" else 3)
    components, voronoi = numbered((labels > 0) & (labels < 255))
    lesions = components if scope == "blob" else voronoi
    is_softmax = kind.startswith("softmax") or kind == "one hot"
    options = {"activation": "softmax" if is_softmax else "sigmoid"}
    options["label_smoothing"] = 0.2 if kind.endswith("smoothed") else 0.0
    options["overlap"] = "minimum" if kind.endswith("minimum") else "product"
    options |= {"gamma": [0.5, 2.0, 1.0][:num_channels], "ignore_index": 255}
    target = labels
    allowed, background = torch.ones_like(lesions, dtype=torch.bool), {}
    if kind == "regions":
        options["regions"] = REGIONS
    has_channels = kind == "one hot" or (kind.startswith("soft") and not is_softmax)
    if has_channels:
        one_hot = torch.nn.functional.one_hot(labels.long().clamp(max=2), 3).movedim(-1, 1)
        target = one_hot if is_softmax else 0.8 * one_hot.double()
        allowed = labels[:, None] < 255
        options["ignore_index"] = None
        background = {"include_background": False}
    if masked:
        allowed = allowed & (torch.rand(lesions.shape, generator=seeded(2)) > 0.2)
    mask = allowed if has_channels or masked else None
    found = lesion_sums(
        logits, target, lesions, scope=scope, mask=mask, max_lesions=40, **options, **background
    )
    assert found.sums.tp.shape == (2, 40, num_channels)
    assert lesions.max() > 5
    for number in range(1, int(lesions.max()) + 1):
        only = allowed & in_scope(lesions, number, scope)
        truth = class_sums(logits, target, mask=only, **options)
        assert_sums_equal([field[:, number - 1] for field in found.sums], truth)
        inside = (labels[:, None] > 0) & (labels[:, None] < 255) & allowed & (lesions == number)
        assert torch.equal(found.present[:, number - 1], inside.flatten(1).any(1))
    assert not found.present[:, int(lesions.max()) :].any()


@pytest.mark.parametrize("scope", ["blob", "region"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_the_gradient_is_that_of_the_op_with_its_own_mask(activation, scope):
    logits, labels = make_case()
    components, voronoi = numbered((labels > 0) & (labels < 255))
    lesions = components if scope == "blob" else voronoi
    options = {"activation": activation, "gamma": 0.7, "ignore_index": 255}
    found = lesion_sums(logits, labels, lesions, scope=scope, max_lesions=40, **options)
    worth = torch.rand(5, 2, 40, 3, generator=seeded(3), dtype=torch.float64)
    ours = sum((w * field).sum() for w, field in zip(worth, found.sums, strict=False))
    truth = 0
    for number in range(1, 41):
        only = in_scope(lesions, number, scope)
        sums = class_sums(logits, labels, mask=only, **options)
        truth += sum((w[:, number - 1] * f).sum() for w, f in zip(worth, sums, strict=False))
    torch.testing.assert_close(ours, truth, **EXACT)
    grads = [torch.autograd.grad(value, logits)[0] for value in (ours, truth)]
    torch.testing.assert_close(*grads, **EXACT)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_mask_per_channel_means_what_it_means_in_the_op(activation):
    logits, labels = make_case()
    components, _ = numbered((labels > 0) & (labels < 255))
    mask = torch.rand(logits.shape, generator=seeded(5)) > 0.3
    options = {"activation": activation, "ignore_index": 255}
    found = lesion_sums(
        logits, labels, components, scope="blob", mask=mask, max_lesions=40, **options
    )
    for number in range(1, int(components.max()) + 1):
        only = in_scope(components, number, "blob")
        sums = class_sums(logits, labels, mask=mask & only, **options)
        assert_sums_equal([field[:, number - 1] for field in found.sums], sums)


@pytest.mark.parametrize("scope", ["blob", "region"])
def test_each_channel_can_have_lesions_of_its_own(scope):
    logits, labels = make_case(2)
    maps = [numbered(torch.isin(labels, torch.tensor(region))) for region in REGIONS]
    lesions = torch.cat([pair[0 if scope == "blob" else 1] for pair in maps], 1)
    options = {"activation": "sigmoid", "regions": REGIONS, "ignore_index": 255}
    found = lesion_sums(logits, labels, lesions, scope=scope, max_lesions=40, **options)
    assert found.present.shape == (2, 40, 2)
    for channel, region in enumerate(REGIONS):
        inside = torch.isin(labels, torch.tensor(region))
        for number in range(1, 41):
            only = in_scope(lesions[:, channel : channel + 1], number, scope)
            sums = class_sums(logits, labels, mask=only, **options)
            assert_sums_equal(
                [field[:, number - 1, channel] for field in found.sums],
                [field[:, channel] for field in sums],
            )
            own = inside & (lesions[:, channel] == number)
            assert torch.equal(found.present[:, number - 1, channel], own.flatten(1).any(1))


@pytest.mark.parametrize(
    ("kind", "present"),
    [
        ("softmax", [True, False]),
        ("labels as channels", [True, False]),
        ("channels", [True, True]),
        ("channels without background", [True, False]),
    ],
)
def test_background_alone_is_no_lesion(kind, present):
    labels = torch.tensor([[0, 1, 0, 0]])
    lesions = torch.tensor([[[1, 1, 2, 2]]])
    one_hot = torch.nn.functional.one_hot(labels, 2).movedim(-1, 1)
    found = lesion_sums(
        torch.zeros(1, 2, 4),
        one_hot if kind.startswith("channels") else labels,
        lesions,
        scope="region",
        activation="softmax" if kind == "softmax" else "sigmoid",
        include_background=kind != "channels without background",
        max_lesions=2,
    )
    assert found.present.tolist() == [present]


def test_a_channel_map_under_softmax_has_no_lesion_of_the_background():
    labels = torch.tensor([[0, 1, 0, 2]])
    lesions = torch.ones(1, 3, 4, dtype=torch.int32)
    found = lesion_sums(torch.zeros(1, 3, 4), labels, lesions, scope="blob", max_lesions=1)
    assert found.present.tolist() == [[[False, True, True]]]


def test_what_is_ignored_may_hold_anything_and_gets_no_gradient():
    logits, labels = make_case()
    components, _ = numbered((labels > 0) & (labels < 255))
    with torch.no_grad():
        poisoned = torch.where(labels[:, None] == 255, torch.nan, logits)
    poisoned.requires_grad_()
    for activation in ("softmax", "sigmoid"):
        options = {"activation": activation, "ignore_index": 255, "max_lesions": 40}
        clean, found = (
            lesion_sums(values, labels, components, scope="blob", **options)
            for values in (logits, poisoned)
        )
        assert all(torch.equal(a, b) for a, b in zip(clean.sums, found.sums, strict=True))
        (grad,) = torch.autograd.grad(sum(f.sum() for f in found.sums[:5]), poisoned)
        assert torch.isfinite(grad).all()
        assert (grad.movedim(1, -1)[labels == 255] == 0).all()


def test_gradcheck():
    logits, labels = make_case(shape=(3, 4))
    components, _ = numbered((labels > 0) & (labels < 255))

    def run(values):
        found = lesion_sums(
            values, labels, components, scope="blob", ignore_index=255, max_lesions=4
        )
        return tuple(found.sums[:5])

    torch.autograd.gradcheck(run, logits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_many_voxels_are_summed_without_losing_digits(dtype):
    logits = torch.full((1, 1, 1, 300_000), 0.1, dtype=dtype)
    labels = torch.zeros(1, 1, 1, 300_000, dtype=torch.uint8)
    labels[..., -1] = 1
    found = lesion_sums(
        logits, labels, labels.long(), scope="blob", activation="sigmoid", max_lesions=1
    )
    truth = 300_000 * torch.sigmoid(logits[0, 0, 0, 0].double()).item()
    assert found.sums.p.item() == pytest.approx(truth, rel=1e-6)
    assert found.sums.p.dtype == torch.float32


def test_focal_sums_can_be_left_out():
    logits, labels = make_case()
    components, _ = numbered((labels > 0) & (labels < 255))
    options = {"scope": "blob", "ignore_index": 255, "max_lesions": 40}
    found = lesion_sums(logits, labels, components, **options)
    bare = lesion_sums(logits, labels, components, with_focal=False, **options)
    assert (bare.sums.focal_pos == 0).all()
    assert all(torch.equal(a, b) for a, b in zip(found.sums[2:], bare.sums[2:], strict=True))


def test_the_mean_is_over_a_sample_s_lesions_then_over_samples_that_have_any():
    rows = torch.tensor([[1.0, 3.0, 50.0], [50.0, 50.0, 50.0], [50.0, 8.0, 50.0]])
    field = rows[..., None]
    present = torch.tensor([[True, True, False], [False] * 3, [False, True, False]])
    lesions = LesionSums(ClassSums(*(field,) * 7), present)
    assert lesionwise_loss(lesions, lambda sums: sums.tp.sum()).item() == (2 + 8) / 2


def test_channels_with_lesions_of_their_own_are_seen_one_at_a_time():
    field = torch.tensor([[[1.0, 10.0], [2.0, 20.0]]])
    present = torch.tensor([[[True, True], [False, True]]])
    seen = lesionwise_loss(
        LesionSums(ClassSums(*(field,) * 7), present),
        lambda sums: torch.where((sums.tp > 0).sum() == 1, sums.tp.sum(), torch.nan),
    )
    assert seen.item() == pytest.approx((1 + 10 + 20) / 3)


@pytest.mark.parametrize("smooth", [0.0, 1e-5])
def test_without_a_lesion_the_loss_is_zero_and_so_is_its_gradient(smooth):
    logits, labels = make_case()
    nothing = torch.zeros_like(labels, dtype=torch.int32)[:, None]
    voxels = Voxels(logits, labels, None, VoxelOptions())
    for target in (labels, torch.zeros_like(labels), torch.full_like(labels, 255)):
        found = lesion_sums(
            logits, target, nothing, scope="region", ignore_index=255, max_lesions=3
        )
        loss = lesionwise_loss(
            found,
            lambda sums: dice_of_sums(
                sums, voxels, DiceOptions(smooth_nr=smooth, smooth_dr=smooth)
            ),
        )
        assert loss.item() == 0
        assert (torch.autograd.grad(loss, logits)[0] == 0).all()


@pytest.mark.parametrize(
    ("lesions", "options", "message"),
    [
        (
            torch.zeros(2, 10, 11, dtype=torch.int32),
            {},
            (
                "the lesion map must cover every voxel of the logits: expected shape (2, 1, 10, "
                "11) or (2, 3, 10, 11), got (2, 10, 11)."
            ),
        ),
        (
            torch.zeros(2, 1, 10, 11),
            {},
            (
                "the lesion map must number the lesions with integers: got torch.float32. Pass "
                "lesions.long() if every value is a whole number."
            ),
        ),
        (
            torch.full((2, 1, 10, 11), 7),
            {"max_lesions": 6},
            (
                "the lesion map must hold 0 to max_lesions: expected at most 6, got 7 to 7. Set "
                "max_lesions to the most lesions that a case has."
            ),
        ),
        (
            torch.full((2, 1, 10, 11), -1, dtype=torch.int8),
            {"max_lesions": 6},
            (
                "the lesion map must hold 0 to max_lesions: expected at most 6, got -1 to -1. Set "
                "max_lesions to the most lesions that a case has."
            ),
        ),
        (
            torch.zeros(2, 1, 10, 11, dtype=torch.int32),
            {"max_lesions": 0},
            "max_lesions must be 1 or more: got 0.",
        ),
        (
            torch.zeros(2, 1, 10, 11, dtype=torch.int32),
            {"scope": "lesion"},
            "scope must be one of blob, region: got 'lesion'.",
        ),
    ],
)
def test_maps_that_do_not_fit_are_refused(lesions, options, message):
    logits, labels = make_case()
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        lesion_sums(logits, labels, lesions, **{"scope": "blob", "ignore_index": 255, **options})


@pytest.mark.parametrize("scope", ["blob", "region"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_vmap_is_a_loop_over_the_samples(activation, scope):
    logits, labels = make_case()[:2]
    lesions = numbered((labels > 0) & (labels != 255))[scope == "region"]
    options = {"scope": scope, "activation": activation, "max_lesions": 50, "ignore_index": 255}

    def of_sample(z, t, n):
        return torch.stack(lesion_sums(z[None], t[None], n[None], **options).sums)

    ours = torch.vmap(of_sample)(logits, labels, lesions)
    each = [of_sample(*sample) for sample in zip(logits, labels, lesions, strict=True)]
    torch.testing.assert_close(ours, torch.stack(each), **EXACT)
