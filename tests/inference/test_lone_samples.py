"""Lone samples against the same convolution in float64, and which kernel torch takes for them."""

import copy
import pickle

import pytest
import torch
from torch import nn

from segfocal.inference.device import place_network
from segfocal.inference.lone_samples import LoneSampleConv3d, quicken_lone_samples

CPU = torch.device("cpu")


def sample(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quickened(**settings):
    torch.manual_seed(0)
    conv = nn.Conv3d(3, 5, **{"kernel_size": 3, "padding": 1} | settings)
    plain = copy.deepcopy(conv).double()
    quicken_lone_samples(conv)
    return conv, plain


@pytest.fixture
def batches(monkeypatch):
    """The batch sizes that torch's own convolution is asked for."""
    asked, forward = [], nn.Conv3d._conv_forward

    def told(self, given, *rest):
        asked.append(len(given))
        return forward(self, given, *rest)

    monkeypatch.setattr(nn.Conv3d, "_conv_forward", told)
    return asked


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize(
    "settings",
    [
        *({}, {"stride": 2}, {"bias": False}, {"dilation": 2, "padding": 2}),
        *({"kernel_size": (1, 3, 3), "padding": (0, 1, 1)}, {"padding_mode": "replicate"}),
    ],
    ids=str,
)
def test_value_and_gradient_are_those_of_a_plain_convolution(settings, layout, batches):
    conv, plain = quickened(**settings)
    image = sample(1, 3, 9, 8, 7).contiguous(memory_format=layout).requires_grad_()
    exact = image.detach().double().requires_grad_()
    value, expected = conv(image), plain(exact)
    assert batches == [2, 1]
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)
    upstream = sample(*value.shape, seed=1)
    value.backward(upstream)
    expected.backward(upstream.double())
    torch.testing.assert_close(image.grad.double(), exact.grad, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(conv.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "asked"),
    [
        *(((1, 3, 2, 3413, 1), 2), ((1, 3, 6827, 1, 1), 1)),  # 20478 and 20481 numbers
        *(((2, 3, 9, 8, 7), 2), ((3, 9, 8, 7), 3)),
    ],
)
def test_large_samples_batches_and_plain_volumes_are_left_as_they_are(shape, asked, batches):
    conv, _ = quickened()
    assert conv(sample(*shape)).shape == (*shape[:-4], 5, *shape[-3:])
    assert batches == [asked]


def test_other_precisions_are_left_as_they_are(batches):
    conv, _ = quickened()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        conv(sample(1, 3, 9, 8, 7))
    conv.double()(sample(1, 3, 9, 8, 7).double())
    assert batches == [1, 1]


def kernels(conv, image):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as recorded:
        conv(image)
    return {event.key for event in recorded.key_averages()}


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN here")
def test_torch_takes_its_quick_kernel():
    conv, _ = quickened()
    used = kernels(conv, sample(1, 3, 9, 8, 7))
    assert "aten::mkldnn_convolution" in used
    assert "aten::slow_conv3d" not in used


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_the_answer_lies_in_memory_as_the_image_does(layout):
    conv, _ = quickened()
    image = sample(1, 3, 9, 8, 7).contiguous(memory_format=layout)
    assert conv(image).is_contiguous(memory_format=layout)


class Own(nn.Conv3d):
    """A user's, which may compute something else."""


def test_a_placed_network_has_them_where_they_can_matter():
    network = nn.Sequential(
        nn.Conv3d(4, 4, 3),
        nn.Conv3d(4, 4, 1),
        nn.Conv3d(4, 4, 5),
        nn.Conv3d(4, 4, 3, groups=2),
        nn.ConvTranspose3d(4, 4, 3),
        Own(4, 4, 3),
        nn.Conv3d(4, 4, (1, 2, 2)),
        nn.Conv3d(4, 4, (1, 4, 4)),
    )
    names = list(network.state_dict())
    placed = place_network(network, CPU)
    kinds = [type(module) is LoneSampleConv3d for module in placed]
    here = torch.backends.mkldnn.is_available()
    assert kinds == [here, *[False] * 5, here, False]
    assert list(placed.state_dict()) == names
    assert type(pickle.loads(pickle.dumps(placed))[0]) is type(placed[0])


def test_a_placed_network_may_have_weights_of_other_axes():
    network = nn.ModuleDict({"volume": nn.Conv3d(4, 6, 3), "plane": nn.Conv2d(4, 4, 3)})
    network["free"] = nn.ParameterList([torch.ones(1, 2, 3, 4), torch.ones(5)])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    weights = list(network.parameters())
    placed = place_network(network, CPU)
    assert placed["volume"].weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert all(ours is theirs for ours, theirs in zip(placed.parameters(), weights, strict=True))
    for name, value in placed.state_dict().items():
        assert torch.equal(value, before[name])
