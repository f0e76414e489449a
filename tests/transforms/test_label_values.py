import numpy as np
import pytest
import torch

from segfocal.transforms.label_values import is_one_of


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int16, torch.int64, torch.float32, torch.bool]
)
def test_numbers_are_compared_and_not_their_bits(dtype):
    held = torch.tensor([0, 1, 255, -1, 117, 254]).to(dtype)
    for value in (0, 1, -1, 255, 256, 1.5, 1e300, -(2**63), float("nan"), float("inf")):
        expected = [float(number) == value for number in held.tolist()]
        assert is_one_of(held, (value,)).tolist() == expected


def test_nan_is_found_in_floats():
    held = torch.tensor([0.0, float("nan"), 2.0])
    assert is_one_of(held, (float("nan"), 2)).tolist() == [False, True, True]


def test_several_values_are_as_numpys_isin():
    held = torch.randint(0, 9, (3, 4, 5), generator=torch.Generator().manual_seed(0))
    expected = np.isin(held.numpy(), [2, 5, 8])
    assert np.array_equal(is_one_of(held, (2, 5, 8)).numpy(), expected)
