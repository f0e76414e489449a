"""Values that no target may hold: whole messages, and what is let through."""

from __future__ import annotations

import re

import pytest
import torch

from segfocal.ops import class_sums, voxel_focal
from segfocal.ops.backend_choice import BACKENDS

LOGITS = torch.zeros(1, 3, 6)


def refused(message):
    return pytest.raises(ValueError, match="^" + re.escape(message) + "$")


def test_labels_out_of_range_are_named_and_counted():
    labels = torch.tensor([[-1, 7, 7, 255, 0, 2]])
    message = (
        "target holds labels that are neither classes nor ignored: expected 0 to 2, "
        "got -1 (1 voxel), 7 (2 voxels), 255 (1 voxel). "
        "Correct the labels, or name the value in ignore_index."
    )
    with refused(message):
        class_sums(LOGITS, labels)
    with refused(message):
        voxel_focal(LOGITS, labels, torch.ones(2, 3))


def test_ignored_labels_are_not_counted_as_out_of_range():
    labels = torch.tensor([[0, 7, 7, 255, 0, 2]], dtype=torch.uint8)
    class_sums(LOGITS, labels, ignore_index=(7, 255))
    with refused(
        "target holds labels that are neither classes nor ignored: expected 0 to 2, "
        "got 7 (2 voxels). Correct the labels, or name the value in ignore_index."
    ):
        class_sums(LOGITS, labels, ignore_index=255)


def test_uint8_255_is_not_ignored_by_minus_one():
    with refused(
        "target holds labels that are neither classes nor ignored: expected 0 to 2, "
        "got 255 (6 voxels). Correct the labels, or name the value in ignore_index."
    ):
        class_sums(LOGITS, torch.full((1, 6), 255, dtype=torch.uint8), ignore_index=-1)


def test_labels_beyond_every_region_are_refused():
    with refused(
        "target holds labels that lie beyond those of the regions: expected 0 to 3, "
        "got 4 (6 voxels). Set a class of no region to 0, or name the value in ignore_index."
    ):
        class_sums(
            LOGITS,
            torch.full((1, 6), 4),
            activation="sigmoid",
            regions=((1, 2, 3), (2, 3), (3,)),
        )


def test_binary_labels_are_zero_and_one():
    with refused(
        "target holds labels that are neither classes nor ignored: expected 0 to 1, got 2 "
        "(6 voxels). Set the labels to 1 in the channel and 0 outside, or name the value in "
        "ignore_index."
    ):
        class_sums(LOGITS[:, :1], torch.full((1, 6), 2), activation="sigmoid")


def test_at_most_five_values_are_listed():
    with refused(
        "target holds labels that are neither classes nor ignored: expected 0 to 2, "
        "got 10 (1 voxel), 11 (1 voxel), 12 (1 voxel), 13 (1 voxel), 14 (1 voxel), 1 more. "
        "Correct the labels, or name the value in ignore_index."
    ):
        class_sums(LOGITS, torch.arange(10, 16)[None])


def test_labels_under_the_mask_may_hold_anything():
    labels = torch.tensor([[99, 0, 1, 2, -5, 0]])
    mask = ((labels >= 0) & (labels < 3))[:, None]
    assert class_sums(LOGITS, labels, mask=mask).n_valid.tolist() == [[4.0] * 3]
    channels = mask.expand(1, 3, 6).contiguous()
    sums = class_sums(LOGITS, labels, mask=channels)
    assert sums.n_valid.tolist() == [[4.0] * 3]
    assert sums.p.sum().item() == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("value", "shown"), [(1.5, "1.5"), (-0.5, "-0.5"), (torch.nan, "nan"), (255.0, "255")]
)
def test_channel_values_outside_zero_and_one_are_named(value, shown):
    target = torch.zeros(1, 3, 6)
    target[0, 1, 2] = value
    with refused(
        "a target with one value per channel must lie in [0, 1]: channel 1 holds "
        f"{shown} (1 voxel). Pass integer labels, or probabilities."
    ):
        class_sums(LOGITS, target, activation="sigmoid")
    mask = torch.ones(1, 1, 6, dtype=torch.bool)
    mask[0, 0, 2] = False
    class_sums(LOGITS, target, activation="sigmoid", mask=mask)


def test_nan_is_counted_as_one_value():
    target = torch.zeros(1, 3, 6)
    target[0, 1, :3] = torch.tensor([torch.nan, torch.nan, 2.0])
    with refused(
        "a target with one value per channel must lie in [0, 1]: channel 1 holds "
        "2 (1 voxel), nan (2 voxels). Pass integer labels, or probabilities."
    ):
        class_sums(LOGITS, target, activation="sigmoid")


def test_integer_channels_other_than_zero_and_one_are_named():
    with refused(
        "a target with one value per channel must lie in [0, 1]: channel 0 holds "
        "2 (6 voxels). Pass integer labels, or probabilities."
    ):
        class_sums(LOGITS, torch.full((1, 3, 6), 2), activation="sigmoid")


@pytest.mark.parametrize(("fill", "shown"), [(0.0, "0"), (1.0, "3")])
def test_softmax_channels_must_sum_to_one(fill, shown):
    with refused(
        "under softmax every voxel belongs to one class, so a target's channels must sum to 1: "
        f"got a sum of {shown} (6 voxels). Pass mask= for voxels without a class, or use sigmoid "
        "for classes that overlap."
    ):
        class_sums(LOGITS, torch.full((1, 3, 6), fill))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rounded_probabilities_still_sum_to_one(dtype):
    shares = torch.softmax(torch.randn(1, 3, 1000, generator=torch.Generator().manual_seed(0)), 1)
    class_sums(torch.zeros(1, 3, 1000), shares.to(dtype))


def test_the_check_runs_before_anything_is_computed(monkeypatch):
    def fail(*_arguments):
        raise AssertionError("the kernel ran")

    broken = BACKENDS["reference"]._replace(class_sums=fail)
    monkeypatch.setitem(BACKENDS, "reference", broken)
    with pytest.raises(ValueError, match="neither classes nor ignored"):
        class_sums(LOGITS, torch.full((1, 6), 9), backend="reference")
    with pytest.raises(AssertionError, match="the kernel ran"):
        class_sums(LOGITS, torch.full((1, 6), 2), backend="reference")


@pytest.mark.parametrize("place", [0, 70_000, 150_000])
@pytest.mark.parametrize("wrong", [-1, 3])
@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("contiguous", [True, False])
def test_one_wrong_label_is_found_wherever_it_lies(dtype, wrong, place, contiguous):
    labels = torch.full((1, 150_001), 2, dtype=dtype)
    if not contiguous:
        labels = labels.repeat_interleave(2, 1)[:, ::2]
    logits = torch.zeros(1, 3, 1).expand(1, 3, 150_001)
    class_sums(logits, labels)
    labels[0, place] = wrong
    with pytest.raises(ValueError, match=rf"expected 0 to 2, got {wrong} \(1 voxel\)"):
        class_sums(logits, labels)
