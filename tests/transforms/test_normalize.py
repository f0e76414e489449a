import math

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.spatial.array import Flip

from segfocal.transforms.normalize import NormalizeChannelsd


def scaled(image, *rules):
    return NormalizeChannelsd("image", rules)({"image": image})["image"]


def test_zscore_gives_mean_zero_and_std_one_for_each_channel_alone():
    torch.manual_seed(0)
    image = torch.stack([torch.randn(4, 5, 6) * 3 + 7, torch.rand(4, 5, 6) * 1000])
    out = scaled(image, "zscore", "zscore")
    assert torch.allclose(out.mean((1, 2, 3)), torch.zeros(2), atol=1e-5)
    assert torch.allclose(out.std((1, 2, 3), correction=0), torch.ones(2), atol=1e-5)


def test_zscore_nonzero_leaves_the_stripped_background_at_zero():
    image = torch.tensor([[[0.0, 0.0, 10.0, 20.0]]])
    assert scaled(image, "zscore_nonzero").tolist() == [[[0.0, 0.0, -1.0, 1.0]]]


def test_a_window_clips_and_scales_to_plus_minus_one():
    image = torch.tensor([[[-1000.0, -200.0, 50.0, 300.0, 3000.0]]])
    assert scaled(image, (-200.0, 300.0)).tolist() == [[[-1.0, -1.0, 0.0, 1.0, 1.0]]]


def test_a_constant_channel_becomes_zero_and_an_empty_one_stays():
    image = torch.stack([torch.full((2, 2), 5.0), torch.zeros(2, 2)])
    assert scaled(image, "zscore", "zscore_nonzero").abs().max() == 0


@pytest.mark.parametrize("rule", ["zscore", "zscore_nonzero"])
def test_a_constant_channel_of_float64_becomes_zero_though_its_mean_is_rounded(rule):
    image = torch.full((1, 10, 8, 6), 0.3, dtype=torch.float64)
    assert scaled(image, rule).abs().max() == 0
    image[0, 0, 0, 0] += 1e-9  # no rounding: one voxel is another
    assert scaled(image, rule)[0, 0, 0, 0] == pytest.approx(math.sqrt(479), rel=1e-4)


def test_the_input_is_not_changed():
    image = torch.tensor([[[1.0, 3.0]]])
    scaled(image, "zscore")
    assert image.tolist() == [[[1.0, 3.0]]]


def test_wrong_rules_are_refused():
    with pytest.raises(ValueError, match="got 'z'"):
        NormalizeChannelsd("image", ["z"])
    with pytest.raises(ValueError, match="low < high"):
        NormalizeChannelsd("image", [(3.0, 3.0)])
    with pytest.raises(ValueError, match=r"^image: expected 1 channels \(one per rule\), got 2"):
        scaled(torch.zeros(2, 3), "none")


@pytest.mark.parametrize("rule", ["zscore", "zscore_nonzero"])
def test_zscore_is_numpys_in_float64_whatever_the_strides(rule):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 6, 5, 4, generator=generator).permute(0, 3, 1, 2) * 1000 + 5000
    image[:, 1] = 0
    known = image.numpy().astype(np.float64)
    inside = known != 0 if rule == "zscore_nonzero" else np.ones_like(known, dtype=bool)
    expected = (known - known[inside].mean()) / known[inside].std()
    expected[~inside] = 0
    np.testing.assert_allclose(scaled(image, rule).numpy(), expected, rtol=1e-5, atol=1e-5)


def test_a_channel_of_zeros_stays_beside_one_that_is_scaled():
    image = torch.tensor([[[0.0, 0.0]], [[2.0, 4.0]]])
    out = scaled(image, "zscore_nonzero", "zscore_nonzero")
    assert out.tolist() == [[[0.0, 0.0]], [[-1.0, 1.0]]]


@pytest.mark.parametrize("window", [[-100.0, 100.0], (-100, 100), np.array([-100, 100])])
def test_a_window_may_come_as_yaml_and_json_deliver_it(window):
    assert scaled(torch.tensor([[[-50.0, 500.0, 0.0]]]), window).tolist() == [[[-0.5, 1.0, 0.0]]]


@pytest.mark.parametrize(
    ("rule", "got"),
    [
        ([3.0, 3.0], r"\[3.0, 3.0\]"),
        ((0.0, 1.0, 2.0), r"\(0.0, 1.0, 2.0\)"),
        ((0.0, float("inf")), r"\(0.0, inf\)"),
        (-100.0, "-100.0"),
    ],
)
def test_a_rule_that_is_neither_word_nor_window_is_refused_at_once(rule, got):
    with pytest.raises(ValueError, match=rf"expected a window .* with low < high, got {got}\."):
        NormalizeChannelsd("image", [rule])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
def test_integers_become_float32_and_an_array_stays_an_array(dtype):
    array = np.array([[[1, 3]], [[10, 30]]], dtype=dtype)
    out = scaled(array, "zscore", "none")
    assert isinstance(out, np.ndarray)
    assert out.dtype == (dtype if np.issubdtype(dtype, np.floating) else np.float32)
    assert out.tolist() == [[[-1.0, 1.0]], [[10.0, 30.0]]]
    assert array.tolist() == [[[1, 3]], [[10, 30]]]
    kept = scaled(torch.from_numpy(array.astype(np.float32)).int(), "zscore", "none")
    assert type(kept) is torch.Tensor
    assert kept.dtype == torch.float32


def test_a_metatensor_keeps_its_grid_and_history():
    flipped = Flip(0)(MetaTensor(torch.ones(1, 2, 2), affine=np.diag([2.0, 3.0, 1.0, 1.0])))
    out = scaled(flipped, "zscore")
    assert isinstance(out, MetaTensor)
    assert torch.equal(out.affine, flipped.affine)
    assert out.applied_operations == flipped.applied_operations != []
