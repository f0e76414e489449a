"""Labels from the inferer against MONAI's SlidingWindowInferer with argmax or a threshold."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ignite.engine import Events
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.engines import SupervisedEvaluator
from monai.handlers import MeanDice, from_engine
from monai.inferers import SlidingWindowInferer
from monai.transforms import AsDiscreted, Compose, EnsureTyped, Invertd, Orientationd, Spacingd
from torch import nn

from segfocal import LabelScheme
from segfocal.inference import SlidingWindowLabelInferer, label_inferer
from tests.inference.test_sliding_window import LargestResult

BRATS = LabelScheme.preset("brats23")


def noisy(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_network(outputs, channels=2, dims=3, seed=0):
    torch.manual_seed(seed)
    return (nn.Conv3d if dims == 3 else nn.Conv2d)(channels, outputs, 3, padding=1)


def of_monai(volume, network, **arguments):
    with torch.no_grad():
        return SlidingWindowInferer(**arguments)(volume, network)


def assert_argmax(labels, logits):
    """Equal to argmax but where the two largest logits tie within rounding."""
    first, second = logits.topk(2, dim=1).values.unbind(1)
    is_sure = (first - second)[:, None] > 1e-4
    assert (~is_sure).sum() <= 3 + 0.01 * is_sure.numel()
    assert torch.equal(labels[is_sure], logits.argmax(1, keepdim=True)[is_sure])


@pytest.mark.parametrize("mode", ["gaussian", "constant"])
@settings(max_examples=25, deadline=None)
@example(shape=(5, 7, 30), roi=(8, -1, 7), overlap=0.5, batch=2, windows=3)
@example(shape=(20, 23, 19), roi=(8, 8, 4), overlap=(0.75, 0.5, 0), batch=1, windows=2)
@given(
    shape=st.tuples(*3 * (st.integers(3, 24),)),
    roi=st.tuples(*3 * (st.sampled_from([-1, 4, 5, 8, 10]),)),
    overlap=st.sampled_from([0, 0.25, 0.5, 0.7]),
    batch=st.integers(1, 3),
    windows=st.integers(1, 4),
)
def test_softmax_is_the_argmax_of_monais(mode, shape, roi, overlap, batch, windows):
    network, volume = make_network(4), noisy(batch, 2, *shape)
    arguments = {"roi_size": roi, "sw_batch_size": windows, "overlap": overlap, "mode": mode}
    labels = SlidingWindowLabelInferer(**arguments)(volume, network)
    assert labels.dtype == torch.uint8
    assert labels.shape == (batch, 1, *shape)
    assert_argmax(labels, of_monai(volume, network, **arguments))


@pytest.mark.parametrize("threshold", [0.5, 0.3])
def test_sigmoid_is_a_threshold_of_each_channel(threshold):
    network, volume = make_network(3), noisy(2, 2, 12, 20, 9)
    arguments = {"roi_size": 8, "overlap": 0.5, "mode": "gaussian"}
    inferer = SlidingWindowLabelInferer(**arguments, activation="sigmoid", threshold=threshold)
    labels = inferer(volume, network)
    probabilities = of_monai(volume, network, **arguments).sigmoid()
    is_sure = (probabilities - threshold).abs() > 1e-5
    assert labels.dtype == torch.uint8
    assert 0 < labels.float().mean() < 1
    assert torch.equal(labels[is_sure] == 1, probabilities[is_sure] > threshold)


def test_regions_are_painted():
    network, volume = make_network(3), noisy(2, 2, 12, 20, 9)
    arguments = {"roi_size": 8, "overlap": 0.5, "activation": "sigmoid"}
    channels = SlidingWindowLabelInferer(**arguments)(volume, network)
    labels = SlidingWindowLabelInferer(**arguments, scheme=BRATS)(volume, network)
    expected = [BRATS.paint(case.numpy().astype(bool)) for case in channels]
    assert labels.shape == (2, 1, 12, 20, 9)
    assert np.array_equal(labels[:, 0].numpy(), np.stack(expected))
    assert set(labels.unique().tolist()) == {0, 1, 2, 3}


def test_a_flat_picture():
    network, picture = make_network(3, 1, 2), noisy(1, 1, 30, 11)
    arguments = {"roi_size": (8, 8), "overlap": 0.5, "mode": "gaussian"}
    labels = SlidingWindowLabelInferer(**arguments)(picture, network)
    assert_argmax(labels, of_monai(picture, network, **arguments))


@pytest.mark.parametrize(("outputs", "dtype"), [(256, torch.uint8), (257, torch.int16)])
def test_more_than_256_classes_need_16_bits(outputs, dtype):
    network, volume = make_network(outputs, 1, 2), noisy(1, 1, 12, 11)
    with torch.no_grad():
        network.bias[-1] += 2
        logits = network(volume)
    labels = SlidingWindowLabelInferer((12, 11))(volume, network)
    assert labels.dtype == dtype
    assert labels.max() == outputs - 1
    assert_argmax(labels, logits)


@pytest.mark.parametrize(("axes", "flips"), [((1,), ([], [3])), ((0, 2), ([], [2], [4], [2, 4]))])
def test_flips_average_the_logits(axes, flips):
    network, volume = make_network(3), noisy(1, 2, 8, 9, 10)
    with torch.no_grad():
        mean = torch.stack([network(volume.flip(f)).flip(f) for f in flips]).mean(0)
        plain = network(volume).argmax(1)
    labels = SlidingWindowLabelInferer((-1, -1, -1), flip_axes=axes)(volume, network)
    assert_argmax(labels, mean)
    assert not torch.equal(labels[:, 0], plain)
    # a sum in place of the mean has the same argmax, but is on the other side of a threshold
    arguments = {"activation": "sigmoid", "threshold": 0.4, "flip_axes": axes}
    labels = SlidingWindowLabelInferer((-1, -1, -1), **arguments)(volume, network)
    is_sure = (mean.sigmoid() - 0.4).abs() > 1e-5
    assert torch.equal(labels[is_sure] == 1, mean.sigmoid()[is_sure] > 0.4)


@pytest.mark.parametrize("axes", [(-1,), (0, 0), (1.0,)])
def test_a_flip_is_along_spatial_axes_alone(axes):
    """Counted from the end, -1 would be the axis before the first: the channels."""
    said = r"flip_axes must be spatial axes counted from 0, each once: got \("
    with pytest.raises(ValueError, match=said):
        SlidingWindowLabelInferer(8, flip_axes=axes)


def test_a_flip_along_an_axis_that_is_not_there_is_refused():
    inferer = SlidingWindowLabelInferer(8, flip_axes=(0, 2))
    with pytest.raises(ValueError, match="names axis 2, but the image has 2 spatial axes"):
        inferer(noisy(1, 1, 8, 8), make_network(3, 1, 2))


def test_an_overlap_for_each_axis_counts_the_axes():
    inferer = SlidingWindowLabelInferer(8, overlap=(0.5, 0.25))
    with pytest.raises(ValueError, match=r"each of 3 spatial axes: got \(0.5, 0.25\)"):
        inferer(noisy(1, 2, 9, 9, 9), make_network(3))


def test_arguments_reach_the_network():
    def network(windows, scale, *, shift):
        return torch.cat([windows * scale, torch.full_like(windows, shift)], 1)

    volume = noisy(1, 1, 6, 6, 6)
    labels = SlidingWindowLabelInferer(6)(volume, network, -1.0, shift=0.2)
    assert torch.equal(labels == 1, -volume < 0.2)


def test_half_precision_logits_are_blended_in_float32():
    """Eight windows over a voxel, whose logits differ by less than bfloat16 sums can tell."""

    def network(windows):
        logits = torch.stack([torch.full_like(windows[:, 0], 1000.0), windows[:, 0]], 1)
        return logits.bfloat16()

    volume = torch.full((1, 1, 24, 8, 8), 1008.0)
    labels = SlidingWindowLabelInferer(8, overlap=0.9, mode="gaussian")(volume, network)
    assert bool((labels == 1).all())


def test_a_window_of_logits_is_all_that_is_held():
    network, volume = make_network(40, 1), noisy(1, 1, 8, 8, 400)
    inferer = SlidingWindowLabelInferer((8, 8, 8), overlap=0.5)
    with LargestResult() as largest:
        labels = inferer(volume, network)
    assert labels.shape == volume.shape
    assert largest.bytes < 40 * volume.numel() * 4 / 20


def test_the_network_is_called_as_it_is_and_keeps_nothing_for_a_backward_pass():
    network = nn.Sequential(make_network(3), nn.Dropout(0.5))
    calls = []

    def call(windows):
        calls.append((len(windows), torch.is_grad_enabled()))
        return network(windows)

    inferer = SlidingWindowLabelInferer((8, 4, 4), sw_batch_size=3, overlap=0)
    labels = inferer(noisy(1, 2, 16, 20, 4), call)
    # five windows along the sweep, two beside each other at each stop
    assert calls == [(2, False)] * 5
    labels = SlidingWindowLabelInferer((8, 4, 4), overlap=0)(noisy(1, 2, 16, 20, 4), call)
    assert calls[5:] == [(1, False)] * 10
    assert network.training
    labels += 1  # no tensor of inference mode, which refuses that


def test_devices_are_those_asked_for(monkeypatch):
    where, asked = [], []

    def no_room(device, num_bytes):
        asked.append((device.type, num_bytes))
        return torch.device("cpu")

    monkeypatch.setattr(label_inferer, "with_room", no_room)

    def network(windows):
        where.append(windows.device.type)
        return torch.zeros(len(windows), 2, *windows.shape[2:])  # on the CPU

    inferer = SlidingWindowLabelInferer(4, sw_device="meta", device="cpu")
    assert inferer(noisy(1, 1, 4, 4, 4), network).device.type == "cpu"
    assert where == ["meta"]
    assert asked == [("meta", 3 * 4**3 * 4)]
    volume = noisy(1, 1, 4, 4, 4)
    assert SlidingWindowLabelInferer(4, device="meta")(volume, network).device.type == "meta"
    assert SlidingWindowLabelInferer(4)(volume.to("meta"), network).device.type == "meta"


class TestInMonai:
    """In an evaluator, between a transform and its inverse."""

    def cases(self):
        affine = np.diag([-1.5, 2.0, 1.0, 1.0])
        image = MetaTensor(noisy(2, 13, 17, 11), affine=affine)
        label = MetaTensor((noisy(1, 13, 17, 11, seed=1) > 0).to(torch.uint8), affine=affine)
        return [{"image": image, "label": label}]

    def preprocessing(self, keys=("image", "label")):
        modes = ("bilinear", "nearest")[: len(keys)]
        return Compose(
            [
                EnsureTyped(keys),
                Orientationd(keys, axcodes="RAS", labels=None),
                Spacingd(keys, pixdim=(1.0, 1.0, 1.0), mode=modes),
            ]
        )

    def test_labels_go_back_to_the_grid_of_the_source(self):
        network, before = make_network(3), self.preprocessing(("image",))
        case = before({"image": self.cases()[0]["image"]})
        inferer = SlidingWindowLabelInferer(8, overlap=0.5)
        back = Invertd("pred", before, orig_keys="image", nearest_interp=True, to_tensor=True)
        loader = DataLoader(Dataset([case]), batch_size=1)
        batch = next(iter(loader))
        batch["pred"] = inferer(batch["image"], network)
        assert isinstance(batch["pred"], MetaTensor)
        assert np.allclose(batch["pred"].affine, batch["image"].affine)
        pred = back(decollate_batch(batch)[0])["pred"]
        assert pred.shape == (1, 13, 17, 11)
        assert np.allclose(pred.affine, self.cases()[0]["image"].affine)
        logits = of_monai(batch["image"], network, roi_size=8, overlap=0.5)
        batch["pred"] = logits.argmax(1, keepdim=True).to(torch.uint8)
        expected = back(decollate_batch(batch)[0])["pred"]
        assert (pred.as_tensor() == expected.as_tensor()).float().mean() > 0.999

    def test_in_a_supervised_evaluator(self):
        """The same mean Dice as logits and argmax give."""

        def dice(inferer, postprocessing):
            evaluator = SupervisedEvaluator(
                device=torch.device("cpu"),
                val_data_loader=DataLoader(Dataset(self.cases(), self.preprocessing())),
                network=make_network(2),
                inferer=inferer,
                postprocessing=postprocessing,
                key_val_metric={"dice": MeanDice(output_transform=from_engine(["pred", "label"]))},
            )
            shapes = []
            evaluator.add_event_handler(
                Events.ITERATION_COMPLETED,
                lambda engine: shapes.append(engine.state.output[0]["pred"].shape),
            )
            evaluator.run()
            return evaluator.state.metrics["dice"], shapes[0]

        arguments = {"roi_size": 8, "overlap": 0.5, "mode": "gaussian"}
        ours, shape = dice(SlidingWindowLabelInferer(**arguments), None)
        expected, _ = dice(SlidingWindowInferer(**arguments), AsDiscreted("pred", argmax=True))
        assert shape[0] == 1
        assert 0.1 < ours < 0.9
        assert ours == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"activation": "relu"}, "activation must be one of softmax, sigmoid"),
        ({"mode": "cosine"}, "mode must be one of constant, gaussian"),
        ({"overlap": 1.0}, r"overlap must be in \[0, 1\), one number or .*: got 1.0"),
        ({"overlap": (0.5, 1.0, 0.5)}, r"overlap must be in .*: got \(0.5, 1.0, 0.5\)"),
        ({"sw_batch_size": 0}, "sw_batch_size must be 1 or more: got 0"),
        ({"sw_batch_size": 2.5}, "sw_batch_size must be 1 or more: got 2.5"),
        ({"threshold": 0.0}, "threshold must lie between 0 and 1: got 0.0"),
        ({"threshold": 1.0}, "threshold must lie between 0 and 1: got 1.0"),
        ({"scheme": BRATS}, "activation must be sigmoid for this scheme: got softmax"),
    ],
)
def test_a_wrong_option_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        SlidingWindowLabelInferer(8, **arguments)


@pytest.mark.parametrize("roi_size", [16.0, (8, 8.0, 8), np.array([8.0, 8.0]), "8"])
def test_a_window_of_other_than_whole_numbers_is_refused(roi_size):
    with pytest.raises(ValueError, match="roi_size must be whole numbers, one or one for each"):
        SlidingWindowLabelInferer(roi_size)


@pytest.mark.parametrize("roi_size", [8, np.int64(8), (8, None, -1), np.array([8, 0, 8])])
def test_windows_are_given_as_to_monai(roi_size):
    volume, network = noisy(1, 2, 12, 9, 10), make_network(3)
    labels = SlidingWindowLabelInferer(roi_size)(volume, network)
    assert_argmax(labels, of_monai(volume, network, roi_size=roi_size))


@pytest.mark.parametrize(
    ("arguments", "network", "shape", "words"),
    [
        ({}, make_network(1), (1, 2, 8, 8, 8), "activation='sigmoid'"),
        (
            {},
            lambda windows: [windows, windows],
            (1, 2, 8, 8, 8),
            "one tensor of logits: got a list",
        ),
        ({}, nn.Conv3d(2, 3, 3), (1, 2, 8, 8, 8), "must keep the size of its input"),
        ({}, make_network(3), (2, 8), r"inputs must be \(B, C, \*S\), not empty: got \(2, 8\)"),
        ({}, make_network(3), (1, 2, 0, 8, 8), "not empty"),
        (
            {"activation": "sigmoid", "scheme": BRATS},
            make_network(2),
            (1, 2, 8, 8, 8),
            "must have 3 outputs for this scheme: got 2",
        ),
    ],
)
def test_what_cannot_be_decided_is_refused(arguments, network, shape, words):
    with pytest.raises(ValueError, match=words):
        SlidingWindowLabelInferer(8, **arguments)(torch.zeros(shape), network)
