"""Whole texts of the messages that a wrong call gets, and what is let through."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from segfocal import checks
from segfocal.functional import dice_focal_loss, dice_loss, focal_loss
from segfocal.ops import class_sums
from segfocal.statistics.class_alpha import ClassAlpha

LOGITS = torch.zeros(2, 4, 5, 6)
LABELS = torch.zeros(2, 5, 6, dtype=torch.uint8)


def refused(message):
    return pytest.raises(ValueError, match="^" + re.escape(message) + "$")


def test_integer_logits():
    with refused("logits must be floating point: got torch.int64. Pass the network's raw output."):
        class_sums(LOGITS.long(), LABELS)


@pytest.mark.parametrize("shape", [(3,), (2, 0, 5)])
def test_logits_without_channels(shape):
    with refused(
        f"logits must have shape (B, C, *spatial) with C >= 1: got {shape}. "
        f"Add the batch or channel axis."
    ):
        class_sums(torch.zeros(shape), torch.zeros(3, dtype=torch.uint8), activation="sigmoid")


def test_softmax_with_one_channel():
    with refused(
        "softmax needs two channels or more: got logits of shape (2, 1, 5, 6), where it is 1 "
        "everywhere. Use sigmoid for a single channel."
    ):
        focal_loss(LOGITS[:, :1], LABELS)


@pytest.mark.parametrize("got", [(2, 5, 7), (2, 3, 5, 6), (1, 5, 6), (2, 1, 1, 5, 6)])
def test_target_shape(got):
    with refused(
        f"target does not fit logits of shape (2, 4, 5, 6): expected (2, 5, 6) or (2, 1, 5, 6) for "
        f"integer labels, or (2, 4, 5, 6) for one value per channel; got {got}."
    ):
        dice_loss(LOGITS, torch.zeros(got, dtype=torch.uint8))


def test_integers_of_the_logits_shape_are_labels_on_a_single_channel_alone():
    for channels, axis, kind in [(1, 5, "labels"), (4, 1, "channels"), (4, 5, "channels")]:
        logits = torch.zeros(2, channels, axis, 6)
        assert checks.check_target(logits, logits.long()) == kind


def test_whole_float_labels():
    with refused(
        "a target of shape (2, 1, 5, 6) for logits of shape (2, 4, 5, 6) holds labels, which must "
        "be integers: got torch.float32. Pass target.long() if every value is a whole number."
    ):
        focal_loss(LOGITS, LABELS.float()[:, None])


def test_broken_float_labels_are_named_and_counted():
    target = LABELS.float()
    target[0, 0, :3] = torch.tensor([1.5, 1.5, 0.25])
    with refused(
        "a target of shape (2, 5, 6) for logits of shape (2, 4, 5, 6) holds labels, which must be "
        "integers: got torch.float32 with 3 values that are not whole, such as 0.25, 1.5. "
        "Pass target.long() if every value is a whole number."
    ):
        focal_loss(LOGITS, target)


def test_float_labels_without_values_are_refused_too():
    with pytest.raises(ValueError, match=r"must be integers: got torch\.float32\. Pass"):
        checks.check_target(LOGITS.to("meta"), LABELS.float().to("meta"))


def test_complex_target():
    with refused("target must be integer, bool or floating point: got torch.complex64."):
        class_sums(LOGITS, LOGITS.to(torch.complex64))


def test_target_on_another_device():
    with refused("target must be on the logits' device: expected cpu, got meta."):
        class_sums(LOGITS, LABELS.to("meta"))


def test_target_that_requires_grad():
    with refused("target must not require grad: no gradient flows to it. Pass target.detach()."):
        class_sums(LOGITS, torch.full_like(LOGITS, 0.25).requires_grad_())


def test_mask_shape():
    with refused(
        "mask must cover every voxel of the logits: expected shape (2, 1, 5, 6) or (2, 4, 5, 6), "
        "got (2, 5, 6)."
    ):
        class_sums(LOGITS, LABELS, mask=LABELS > 0)


def test_mask_dtype():
    with refused(
        "mask must be boolean, True where a voxel counts: got torch.float32. Pass mask > 0."
    ):
        class_sums(LOGITS, LABELS, mask=torch.ones(2, 1, 5, 6))


def test_mask_device():
    with refused("mask must be on the logits' device: expected cpu, got meta."):
        class_sums(LOGITS, LABELS, mask=torch.ones(2, 1, 5, 6, dtype=torch.bool, device="meta"))


@pytest.mark.parametrize("value", [1.5, "255", (0, 2.5), True])
def test_ignore_index_that_is_no_integer(value):
    with refused(f"ignore_index must be an integer label or several: got {value!r}."):
        class_sums(LOGITS, LABELS, ignore_index=value)


def test_numpy_integers_are_integers():
    assert checks.check_ignore_index((np.int64(3), np.uint8(255))) == (3, 255)
    assert checks.check_regions([[np.int64(1), 2]], "sigmoid") == ((1, 2),)


def test_ignore_index_with_a_target_per_channel():
    with refused(
        "ignore_index names a label, but the target has one value per channel and no labels. "
        "Pass integer labels, or mask= with False where a voxel is to be ignored."
    ):
        class_sums(LOGITS, torch.zeros(2, 4, 5, 6), activation="sigmoid", ignore_index=255)


def test_regions_with_softmax():
    with refused(
        "regions overlap, so each needs its own yes or no: expected sigmoid, got softmax."
    ):
        class_sums(LOGITS, LABELS, regions=((1,), (2,), (3,), (4,)))


@pytest.mark.parametrize("table", [(), ((1,), ()), ((1,), (-2,)), ((1.5,),), ((True,),)])
def test_region_table_that_is_none(table):
    with refused(
        f"regions must list the class indices of each channel, such as ((1, 2, 3), (2, 3), (3,)): "
        f"got {table!r}."
    ):
        class_sums(LOGITS, LABELS, activation="sigmoid", regions=table)


def test_as_many_regions_as_channels():
    with refused("regions must have one entry per channel of the logits: expected 4, got 2."):
        class_sums(LOGITS, LABELS, activation="sigmoid", regions=((1, 2), (2,)))


def test_regions_with_a_target_per_channel():
    with refused(
        "regions are made from labels, but the target already has one value per channel. "
        "Pass integer labels, or leave regions out."
    ):
        class_sums(LOGITS, LOGITS, activation="sigmoid", regions=((1,), (2,), (3,), (1, 2)))


def test_no_background_among_regions():
    with refused(
        "include_background=False would drop the first region: regions have no background channel. "
        "Leave it at True."
    ):
        dice_loss(
            LOGITS[:, :2],
            LABELS,
            activation="sigmoid",
            regions=((1, 2), (2,)),
            include_background=False,
        )


def test_no_background_in_a_single_channel():
    with refused(
        "include_background=False would leave no channel: the logits have one only. "
        "Leave it at True."
    ):
        dice_loss(LOGITS[:, :1], LABELS, activation="sigmoid", include_background=False)


@pytest.mark.parametrize(
    ("gamma", "shown"),
    [(-1, "-1"), (float("nan"), "nan"), (float("inf"), "inf"), ([1.0, -2.0, -3.0, 0.0], "-2, -3")],
)
def test_gamma_out_of_range(gamma, shown):
    for value in (gamma, torch.tensor(gamma)):
        with refused(f"gamma must be finite and >= 0: got {shown}."):
            class_sums(LOGITS, LABELS, gamma=value)


def test_gamma_shape():
    with refused("gamma must have one number per class: expected shape (4,), got (2,)."):
        class_sums(LOGITS, LABELS, gamma=[1.0, 2.0])


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_single_alpha_outside_zero_and_one(activation, alpha):
    for value in (alpha, torch.tensor(alpha)):
        with refused(f"alpha must be finite and in [0, 1]: got {alpha:g}."):
            focal_loss(LOGITS, LABELS, activation=activation, alpha=value)


def test_sigmoid_alpha_sequence_outside_zero_and_one():
    with refused("alpha must be finite and in [0, 1]: got 1.5."):
        focal_loss(LOGITS, LABELS, activation="sigmoid", alpha=[0.5, 1.5, 1.0, 0.0])


def test_softmax_alpha_sequence_may_exceed_one_but_not_be_negative():
    focal_loss(LOGITS, LABELS, alpha=[0.1, 1.5, 1.4, 1.0])
    with refused("alpha must be finite and >= 0: got -1."):
        focal_loss(LOGITS, LABELS, alpha=[0.1, 1.5, 1.4, -1.0])


def test_alpha_without_the_background():
    with refused(
        "alpha must have one number per class: expected shape (4,), got (3,). "
        "Did you drop the background class?"
    ):
        focal_loss(LOGITS, LABELS, alpha=[1.0, 2.0, 3.0])


def test_alpha_of_another_length():
    with refused(
        "alpha must have one number per class: expected shape (4,), or (3,) without the "
        "background, got (5,)."
    ):
        focal_loss(LOGITS, LABELS, alpha=[1.0] * 5, include_background=False)


@pytest.mark.parametrize("loss", [focal_loss, dice_loss, dice_focal_loss])
def test_weight_range_and_shape(loss):
    with refused("weight must be finite and >= 0: got -1."):
        loss(LOGITS, LABELS, weight=[1.0, -1.0, 1.0, 1.0])
    with refused("weight must have one number per class: expected shape (4,), got (1, 4)."):
        loss(LOGITS, LABELS, weight=torch.ones(1, 4))


@pytest.mark.parametrize("kind", [list, tuple, np.float32, torch.tensor])
@pytest.mark.parametrize("name", ["gamma", "alpha", "weight"])
def test_class_numbers_come_in_any_form(name, kind):
    numbers = [0.5, 0.25, 1.0, 0.75]
    truth = dice_focal_loss(LOGITS + 1, LABELS, **{name: numbers})
    assert torch.equal(dice_focal_loss(LOGITS + 1, LABELS, **{name: kind(numbers)}), truth)
    single = dice_focal_loss(LOGITS + 1, LABELS, **{name: 0.5})
    assert torch.equal(dice_focal_loss(LOGITS + 1, LABELS, **{name: np.float32(0.5)}), single)


def derived():
    return ClassAlpha((0.5, 1.0, 1.0, 1.5), ("a", "b", "c", "d"), "class", "balanced", {}, {})


@pytest.mark.parametrize(
    ("loss", "option", "message"),
    [
        (
            focal_loss,
            {"alpha": "balanced"},
            "alpha must be one number or one per class: got 'balanced'.",
        ),
        (
            focal_loss,
            {"alpha": derived()},
            "alpha must be one number or one per class: got ClassAlpha. Pass its weights.",
        ),
        (dice_loss, {"weight": {1: 2}}, "weight must be one number or one per class: got {1: 2}."),
        (class_sums, {"gamma": "2"}, "gamma must be one number or one per class: got '2'."),
        (focal_loss, {"gamma": None}, "gamma must be one number or one per class: got None."),
        (dice_loss, {"smooth_nr": None}, "smooth_nr must be a number: got None."),
        (focal_loss, {"label_smoothing": "a"}, "label_smoothing must be a number: got 'a'."),
        (
            dice_loss,
            {"activation": "sigmoid", "regions": (1, 2)},
            (
                "regions must list the class indices of each channel, such as "
                "((1, 2, 3), (2, 3), (3,)): got (1, 2)."
            ),
        ),
        (
            focal_loss,
            {"mask": np.ones((2, 1, 5, 6), bool)},
            "mask must be a torch tensor: got ndarray. Pass torch.as_tensor(mask).",
        ),
        (
            class_sums,
            {"activation": "tanh"},
            "activation must be one of softmax, sigmoid: got 'tanh'.",
        ),
        (focal_loss, {"reduction": "avg"}, "reduction must be one of mean, sum, none: got 'avg'."),
        (dice_loss, {"reduction": "avg"}, "reduction must be one of mean, sum, none: got 'avg'."),
        (
            focal_loss,
            {"normalizer": "voxels"},
            "normalizer must be one of valid, positives, alpha, none: got 'voxels'.",
        ),
        (
            dice_loss,
            {"absent": "drop"},
            "absent must be one of smooth, skip, penalise: got 'drop'.",
        ),
        (
            focal_loss,
            {"reduction": "none", "backend": "triton"},
            "backend for values per voxel must be one of auto, reference: got 'triton'.",
        ),
        (dice_loss, {"smooth_nr": -1e-5}, "smooth_nr must be a finite number >= 0: got -1e-05."),
        (
            dice_loss,
            {"smooth_dr": float("nan")},
            "smooth_dr must be a finite number >= 0: got nan.",
        ),
        (
            dice_focal_loss,
            {"lambda_dice": -1.0},
            "lambda_dice must be a finite number >= 0: got -1.0.",
        ),
        (
            dice_focal_loss,
            {"lambda_dice": 0.0, "lambda_focal": 0.0},
            "lambda_dice and lambda_focal are both 0, which leaves no loss. Give one a weight.",
        ),
    ],
)
def test_options(loss, option, message):
    with refused(message):
        loss(LOGITS, LABELS, **option)


@pytest.mark.parametrize("loss", [focal_loss, dice_loss, dice_focal_loss, class_sums])
def test_arrays_are_no_tensors(loss):
    with refused("target must be a torch tensor: got ndarray. Pass torch.as_tensor(target)."):
        loss(LOGITS, LABELS.numpy())
    with refused("logits must be a torch tensor: got ndarray. Pass torch.as_tensor(logits)."):
        loss(LOGITS.numpy(), LABELS)


def test_nothing_is_computed_before_the_checks(monkeypatch):
    def fail(*_arguments, **_options):
        raise AssertionError("the op ran")

    monkeypatch.setattr("segfocal.functional.voxel_options.sums_with_backend", fail)
    with pytest.raises(ValueError, match="alpha must be finite"):
        focal_loss(LOGITS, LABELS, alpha=2.0)
    with pytest.raises(AssertionError, match="the op ran"):
        focal_loss(LOGITS, LABELS)


@pytest.mark.parametrize(("value", "shown"), [(1.0, "1"), (-0.1, "-0.1"), (float("nan"), "nan")])
def test_label_smoothing_out_of_range(value, shown):
    with refused(
        "label_smoothing must be in [0, 1), the share of each voxel that is spread: "
        f"got {shown}. Pass a number such as 0.1."
    ):
        class_sums(LOGITS, LABELS, label_smoothing=value)


def test_unknown_overlap():
    with refused("overlap must be one of product, minimum: got 'union'."):
        class_sums(LOGITS, LABELS, overlap="union")
