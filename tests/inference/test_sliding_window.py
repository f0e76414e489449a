"""The slabs of a sweep, put together, against MONAI's sliding_window_inference."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from monai.inferers.utils import sliding_window_inference
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from segfocal.inference.sliding_window import SlidingWindow

CPU = torch.device("cpu")


class LargestResult(TorchDispatchMode):
    """The bytes of the largest tensor that an operation made; what it wrote into does not count."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.storage_offset() == 0:
            given = {arg.data_ptr() for arg in args if isinstance(arg, torch.Tensor)}
            if result.data_ptr() not in given:
                self.bytes = max(self.bytes, result.numel() * result.element_size())
        return result


def swept(window, volume, network, *, batch_size=2, most_planes=3):
    plane = volume[0].numel() // window.shape[window.axis]
    slabs = window.sweep(
        volume,
        network,
        batch_size=batch_size,
        slab_bytes=most_planes * plane * network.out_channels * 4,
        blend_on=lambda _: CPU,
    )
    with torch.no_grad():
        return list(slabs)


def whole(slabs, axis):
    return torch.cat([slab.values for slab in slabs], axis + 1)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return nn.Conv3d(2, 5, 3, padding=1)


@pytest.mark.parametrize("mode", ["gaussian", "constant"])
@settings(max_examples=25, deadline=None)
@example(shape=(5, 7, 3), patch=(8, 10, 7), overlap=0.5, batch_size=2, most_planes=2)
@given(
    shape=st.tuples(*3 * (st.integers(3, 24),)),
    patch=st.tuples(*3 * (st.integers(4, 10),)),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.7, 0.9]),
    batch_size=st.integers(1, 4),
    most_planes=st.integers(1, 9),
)
def test_the_same_as_all_at_once(network, mode, shape, patch, overlap, batch_size, most_planes):
    volume = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
    window = SlidingWindow(shape, patch, overlap, mode)
    slabs = swept(window, volume, network, batch_size=batch_size, most_planes=most_planes)
    with torch.no_grad():
        expected = sliding_window_inference(
            volume[None], patch, batch_size, network, overlap=overlap, mode=mode
        )[0]
    # up to a thousand windows over a voxel, added up in another order
    torch.testing.assert_close(whole(slabs, window.axis), expected, rtol=0, atol=3e-5)
    sizes = [slab.values.shape[window.axis + 1] for slab in slabs]
    assert max(sizes) <= most_planes
    assert [slab.start for slab in slabs] == [sum(sizes[:i]) for i in range(len(sizes))]


def test_a_flat_picture_is_swept_too():
    network = nn.Conv2d(1, 3, 3, padding=1)
    volume = torch.randn(1, 30, 11)
    window = SlidingWindow((30, 11), (8, 8), 0.5, "gaussian")
    with torch.no_grad():
        expected = sliding_window_inference(volume[None], (8, 8), 2, network, 0.5, "gaussian")[0]
    slabs = swept(window, volume, network)
    torch.testing.assert_close(whole(slabs, 0), expected, rtol=0, atol=3e-6)


def test_the_sweep_goes_along_the_axis_of_most_windows():
    assert SlidingWindow((40, 64, 64), (8, 64, 16), 0.5, "gaussian").axis == 0
    assert SlidingWindow((40, 64, 90), (16, 64, 16), 0.5, "gaussian").axis == 2


def test_a_window_is_all_that_is_held(network):
    window = SlidingWindow((8, 8, 200), (8, 8, 8), 0.5, "gaussian")
    volume = torch.randn(2, 8, 8, 200)
    with LargestResult() as largest:  # 4 planes a slab
        slabs = window.sweep(volume, network, batch_size=1, slab_bytes=5120, blend_on=lambda _: CPU)
        planes = sum(slab.values.shape[-1] for slab in slabs)
    assert planes == 200
    held = window.held_bytes(5)
    assert largest.bytes <= held
    assert held < 5 * volume[0].numel() * 4 / 10


def test_sums_lie_on_the_device_that_is_asked_for_so_many_outputs(network):
    asked = []

    def blend_on(num_outputs):
        asked.append(num_outputs)
        return torch.device("meta")

    slabs = SlidingWindow((8, 8, 20), (8, 8, 8), 0.5, "gaussian").sweep(
        torch.zeros(2, 8, 8, 20), network, batch_size=1, slab_bytes=1, blend_on=blend_on
    )
    assert {slab.values.device.type for slab in slabs} == {"meta"}
    assert asked == [5]


def test_an_answer_of_another_size_is_refused():
    window = SlidingWindow((8, 8, 8), (8, 8, 8), 0.5, "gaussian")
    with pytest.raises(ValueError, match="must keep the size of its input"):
        swept(window, torch.zeros(2, 8, 8, 8), nn.Conv3d(2, 5, 3))


def test_a_slab_of_few_bytes_is_a_plane(network):
    window = SlidingWindow((8, 8, 20), (8, 8, 8), 0.5, "gaussian")
    slabs = window.sweep(
        torch.randn(2, 8, 8, 20), network, batch_size=1, slab_bytes=1, blend_on=lambda _: CPU
    )
    assert [slab.start for slab in slabs] == list(range(20))


def test_a_slab_holds_the_planes_that_its_bytes_do(network):
    window = SlidingWindow((8, 8, 20), (8, 8, 8), 0.0, "gaussian")
    slabs = swept(window, torch.randn(2, 8, 8, 20), network, most_planes=3)
    assert [slab.values.shape[-1] for slab in slabs] == [3, 3, 2, 3, 1, 3, 3, 2]
