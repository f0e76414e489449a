"""What a target says of each voxel."""

import pytest
import torch

from segfocal.ops.flat_target import FlatTarget, is_any_of, membership, validity


@pytest.mark.parametrize(
    ("dtype", "stored", "asked"),
    [
        (torch.uint8, 255, -1),
        (torch.int8, -1, 255),
        (torch.uint8, 0, 256),
        (torch.int16, -1, 65535),
    ],
)
def test_a_label_that_the_dtype_cannot_hold_matches_nothing(dtype, stored, asked):
    assert not is_any_of(torch.tensor([stored], dtype=dtype), (asked,)).any()
    assert is_any_of(torch.tensor([stored], dtype=dtype), (asked, stored)).all()


def test_membership_of_regions_is_the_union_of_their_classes():
    labels = torch.tensor([[0, 1, 2, 3, 255]], dtype=torch.uint8)
    target = FlatTarget(labels, None, ((1, 3), (2,)), (255,))
    assert membership(target, 0).int().tolist() == [[0, 1, 0, 1, 0]]
    assert membership(target, 1).int().tolist() == [[0, 0, 1, 0, 0]]


def test_no_ignore_and_no_mask_is_no_validity_at_all():
    target = FlatTarget(torch.zeros(1, 4, dtype=torch.uint8), None, ((0,), (1,)), ())
    assert validity(target, exclusive=True).of_channel(0) is None


def test_an_exclusive_voxel_whose_own_class_is_masked_is_left_out_of_all():
    labels = torch.tensor([[0, 1, 2]])
    mask = torch.tensor([[[True] * 3, [False] * 3, [True] * 3]])
    target = FlatTarget(labels, mask, ((0,), (1,), (2,)), ())
    exclusive, free = (validity(target, exclusive=e) for e in (True, False))
    assert exclusive.of_channel(0).tolist() == [[True, False, True]]
    assert free.of_channel(0).tolist() == [[True, True, True]]
    assert free.of_channel(1).tolist() == [[False, False, False]]
