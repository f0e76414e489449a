"""The predictor with networks whose answer is known, on grids that are not RAS."""

from itertools import combinations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from torch import nn

from segfocal.config.schema import DataConfig, InferConfig
from segfocal.data.cases import Case
from segfocal.inference.device import with_room
from segfocal.inference.predictor import Predictor
from segfocal.inference.source_grid import resampled
from segfocal.labels import LabelScheme, Region
from segfocal.transforms.pipelines import preprocessing

CLASSES = LabelScheme(("background", "a"), (0, 1))
REGIONS = LabelScheme(
    ("background", "rim", "core"), (0, 1, 2), (Region("all", (1, 2), 1), Region("core", (2,), 2))
)

FLIPPED = np.diag([-1.0, -2.0, 3.0, 1.0])
TURNED = np.array([[0, 0, 1.5, 5], [-1.0, 0, 0, -7], [0, 2.0, 0, 3], [0, 0, 0, 1]])


class Threshold(nn.Module):
    """Logits that say class 1 (or region r) where the first channel exceeds a value."""

    def __init__(self, *values):
        super().__init__()
        self.values = values

    def forward(self, image):
        inside = [50 * (image[:, :1] - value) for value in self.values]
        if len(inside) == 1:
            return torch.cat([-inside[0], inside[0]], dim=1)
        return torch.cat(inside, dim=1)


class Ramp(nn.Module):
    """Says class 1 in the half of each window that lies on one side: not symmetric under flips."""

    def forward(self, image):
        half = torch.linspace(-1, 1, image.shape[2]).view(1, 1, -1, 1, 1).expand_as(image)
        return torch.cat([-half, half], dim=1)


def write_case(tmp_path, affine, shape=(20, 17, 13)):
    values = np.random.default_rng(0).random(shape).astype(np.float32)
    path = tmp_path / "x.nii.gz"
    nib.save(nib.Nifti1Image(values, affine), path)
    return Case("x", (path,), None), values


def predictor_for(network, scheme, *, infer=None, spacing=None, patch=(8, 8, 8)):
    data = DataConfig(root="x", normalize="none", spacing_mm=spacing)
    return Predictor(
        network,
        preprocessing(data, scheme, ("c",), ("c",)),
        scheme,
        patch_size=patch,
        infer=infer or InferConfig(),
        device=torch.device("cpu"),
        flip_axes=(0, 1, 2),
    )


@pytest.mark.parametrize("affine", [np.eye(4), FLIPPED, TURNED], ids=["RAS", "flipped", "turned"])
def test_a_prediction_lies_on_the_voxels_of_its_source(tmp_path, affine):
    case, values = write_case(tmp_path, affine)
    predictor = predictor_for(Threshold(0.5), CLASSES)
    classes = predictor.predict(predictor.preprocessing(case)["image"])
    assert classes.shape == values.shape
    assert np.array_equal(classes, (values > 0.5).astype(np.uint8))


def test_regions_are_painted_inside_out(tmp_path):
    case, values = write_case(tmp_path, TURNED)
    predictor = predictor_for(Threshold(0.3, 0.7), REGIONS)
    classes = predictor.predict(predictor.preprocessing(case)["image"])
    assert np.array_equal(classes, np.digitize(values, [0.3, 0.7]).astype(np.uint8))


def test_resampling_is_undone_onto_the_sources_own_shape(tmp_path):
    affine = np.diag([-2.0, 1.0, 3.0, 1.0])
    smooth = np.linalg.norm(np.indices((20, 40, 14)).T * [2, 1, 3] - [20, 20, 20], axis=-1).T
    path = tmp_path / "x.nii.gz"
    nib.save(nib.Nifti1Image((-smooth).astype(np.float32), affine), path)
    predictor = predictor_for(Threshold(-12.0), CLASSES, spacing=(1.0, 1.0, 1.0))
    classes = predictor.predict(predictor.preprocessing(Case("x", (path,), None))["image"])
    ball = smooth < 12
    assert classes.shape == ball.shape
    both = np.count_nonzero(ball & (classes == 1))
    assert 2 * both / (ball.sum() + classes.sum()) > 0.95


def test_flips_average_a_lopsided_network_to_even(tmp_path):
    case, _ = write_case(tmp_path, np.eye(4), shape=(8, 8, 8))
    plain = predictor_for(Ramp(), CLASSES)
    flipped = predictor_for(Ramp(), CLASSES, infer=InferConfig(tta="flips"))
    image = plain.preprocessing(case)["image"]
    assert abs(float(plain.probabilities(image)[1, 0].mean()) - 0.5) > 0.2
    even = flipped.probabilities(image)
    assert torch.allclose(even.as_tensor(), torch.full_like(even.as_tensor(), 0.5), atol=1e-6)


def test_flips_are_averaged_as_logits(tmp_path):
    case, _ = write_case(tmp_path, np.eye(4), shape=(8, 8, 8))
    torch.manual_seed(0)
    network = nn.Conv3d(1, 2, 3, padding=1)
    predictor = predictor_for(network, CLASSES, infer=InferConfig(tta="flips"))
    image = predictor.preprocessing(case)["image"]
    windows = image.as_tensor()[None]
    mirrors = [axes for n in range(4) for axes in combinations((2, 3, 4), n)]
    with torch.no_grad():
        logits = torch.stack([network(windows.flip(axes)).flip(axes)[0] for axes in mirrors])
    expected = logits.mean(0).softmax(0)
    torch.testing.assert_close(
        predictor.probabilities(image).as_tensor(), expected, rtol=0, atol=1e-6
    )


def test_probabilities_of_softmax_sum_to_one(tmp_path):
    case, _ = write_case(tmp_path, TURNED)
    predictor = predictor_for(Threshold(0.5), CLASSES)
    probs = predictor.probabilities(predictor.preprocessing(case)["image"])
    assert torch.allclose(probs.sum(0).as_tensor(), torch.ones(()), atol=1e-5)


class Modes(nn.Module):
    """Notes in which mode it computes; one part of it is frozen in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.live, self.frozen = nn.Dropout(), nn.Dropout()
        self.frozen.eval()
        self.seen = set()

    def forward(self, image):
        self.seen.add((self.training, self.live.training))
        return torch.cat([image, image], dim=1)


@pytest.mark.parametrize("training", [True, False])
def test_every_module_is_left_in_its_mode(tmp_path, training):
    case, _ = write_case(tmp_path, np.eye(4))
    network = Modes()
    network.training = network.live.training = training
    predictor = predictor_for(network, CLASSES)
    predictor.probabilities(predictor.preprocessing(case)["image"])
    assert network.seen == {(False, False)}
    modes = (network.training, network.live.training, network.frozen.training)
    assert modes == (training, training, False)


class Returns(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.wrap = wrap

    def forward(self, image):
        return self.wrap(torch.cat([image, image], dim=1))


@pytest.mark.parametrize(
    ("wrap", "kind"), [(lambda x: (x, x), "tuple"), (lambda x: {"out": x}, "dict")]
)
def test_a_network_with_several_outputs_is_refused_and_left_in_its_mode(tmp_path, wrap, kind):
    case, _ = write_case(tmp_path, np.eye(4))
    predictor = predictor_for(Returns(wrap), CLASSES)
    with pytest.raises(ValueError, match="network must return one") as error:
        predictor.predict(predictor.preprocessing(case)["image"])
    assert str(error.value) == (
        f"network must return one tensor of logits: got a {kind}. Return the output at full size "
        f"alone."
    )
    assert predictor.network.training


@pytest.mark.parametrize("method", ["predict", "segment", "predict_with_probabilities"])
def test_the_image_of_another_predictor_is_refused_at_once(tmp_path, method):
    """Prepared otherwise perhaps, and MONAI knows no way back: its error names memory addresses."""

    def never(_windows):
        raise AssertionError("the network was asked before the image was looked at")

    case, _ = write_case(tmp_path, FLIPPED)
    first, second = (predictor_for(Returns(never), CLASSES) for _ in range(2))
    image = first.preprocessing(case)["image"]
    with pytest.raises(ValueError, match="image was prepared by another pipeline"):
        getattr(second, method)(image)
    with pytest.raises(ValueError, match="image was prepared by another pipeline"):
        getattr(second, method)(MetaTensor(torch.zeros(1, 8, 8, 8)))


def test_a_plain_tensor_is_refused():
    with pytest.raises(ValueError, match="image must be a MetaTensor") as error:
        predictor_for(Threshold(0.5), CLASSES).predict(torch.zeros(1, 8, 8, 8))
    assert str(error.value) == (
        "image must be a MetaTensor, which knows its grid: got a Tensor. Pass "
        'preprocessing(case)["image"].'
    )


def predicted(tmp_path, values, **infer):
    path = tmp_path / "x.nii.gz"
    nib.save(nib.Nifti1Image(values, np.diag([2.0, 2.0, 2.0, 1.0])), path)
    predictor = predictor_for(Threshold(0.5), CLASSES, infer=InferConfig(**infer))
    return predictor.segment(predictor.preprocessing(Case("x", (path,), None))["image"])


def test_small_components_are_measured_in_mm3(tmp_path):
    values = np.zeros((12, 12, 12), dtype=np.float32)
    values[2:4, 2:4, 2:4] = 1
    values[8, 8, 8] = 1
    for classes in predicted(tmp_path, values, min_lesion_mm3=9.0):
        assert classes[8, 8, 8] == 0
        assert classes.sum() == 8


def test_the_largest_component_alone_where_the_run_says_so(tmp_path):
    values = np.zeros((12, 12, 12), dtype=np.float32)
    values[2:4, 2:4, 2:4] = 1
    values[7:10, 8, 8] = 1
    assert predicted(tmp_path, values).on_source.sum() == 11
    for classes in predicted(tmp_path, values, keep_largest=True):
        assert classes[8, 8, 8] == 0
        assert classes.sum() == 8


SHEARED = np.array([[1.0, 0, 0.3, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1]])
MANY = LabelScheme(tuple("abcdefg"), tuple(range(7)))


@pytest.mark.parametrize("tta", ["none", "flips"])
@pytest.mark.parametrize("scheme", [MANY, REGIONS], ids=["classes", "regions"])
@pytest.mark.parametrize("spacing", [None, (1.0, 1.0, 1.0), (2.1, 0.7, 1.6)])
@pytest.mark.parametrize("affine", [FLIPPED, TURNED, SHEARED], ids=["flipped", "turned", "sheared"])
def test_slab_by_slab_decides_as_all_probabilities_at_once(
    tmp_path, monkeypatch, affine, spacing, scheme, tta
):
    monkeypatch.setattr("segfocal.inference.predictor._SLAB_BYTES", 5000)
    torch.manual_seed(0)
    network = nn.Conv3d(1, scheme.num_outputs, 3, padding=1)
    weight = torch.randn_like(network.weight)
    network.weight = nn.Parameter(weight - weight.mean((1, 2, 3, 4), keepdim=True))
    case, values = write_case(tmp_path, affine)
    infer = InferConfig(tta=tta)
    predictor = predictor_for(network, scheme, infer=infer, spacing=spacing)
    image = predictor.preprocessing(case)["image"]
    segmentation = predictor.segment(image)
    probabilities = predictor.probabilities(image)
    source = predictor.on_source_grid(probabilities)
    assert segmentation.on_source.shape == values.shape
    assert len(np.unique(segmentation.on_source)) >= 3
    # where two probabilities are equal up to rounding, either is right
    settled = margin(source, scheme) > 1e-4
    assert settled.mean() > 0.99
    assert np.array_equal(segmentation.on_source[settled], predictor.decide(source)[settled])
    settled = margin(probabilities, scheme) > 1e-4
    decided = predictor.decide(probabilities)
    assert np.array_equal(segmentation.on_image[settled], decided[settled])


@pytest.mark.parametrize(("planes", "most"), [(0.1, 1), (3.1, 3), (1000, 10)])
def test_as_many_planes_are_brought_back_at_once_as_there_is_room_for(
    tmp_path, monkeypatch, planes, most
):
    lengths = []

    def watched(*args, **options):
        for slab in resampled(*args, **options):
            lengths.append(slab.values.shape[3])
            yield slab

    plane_bytes = 20 * 20 * 2 * 4  # of two float32 maps
    monkeypatch.setattr("segfocal.inference.predictor._SLAB_BYTES", int(planes * plane_bytes))
    monkeypatch.setattr("segfocal.inference.predictor.resampled", watched)
    case, _ = write_case(tmp_path, np.eye(4), shape=(20, 20, 50))
    predictor = predictor_for(Threshold(0.5), CLASSES, spacing=(1.0, 1.0, 1.3))
    predictor.predict(predictor.preprocessing(case)["image"])
    assert sum(lengths) == 50
    assert max(lengths) == most  # windows bring 8 planes of 1.3 mm at a time


def test_a_probability_of_just_the_threshold_is_no_region():
    predictor = predictor_for(Threshold(0.5), REGIONS, infer=InferConfig(threshold=0.25))
    all_, core = [0.2, 0.25, 0.26, 0.9], [0.0, 0.0, 0.25, 0.3]
    assert predictor.decide(torch.tensor([all_, core])).tolist() == [0, 0, 1, 2]


def margin(probabilities, scheme):
    """How far each voxel is from another decision."""
    probs = probabilities.as_tensor()
    if scheme.activation == "softmax":
        first, second = probs.topk(2, dim=0).values
        return (first - second).numpy()
    return (probs - 0.5).abs().amin(0).numpy()


def test_outputs_are_added_up_on_the_device_where_there_is_room(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (1000, 9000))
    gpu, cpu = torch.device("cuda:0"), torch.device("cpu")
    assert with_room(gpu, 500) == gpu
    assert with_room(gpu, 501) == cpu
    assert with_room(cpu, 10**15) == cpu


@pytest.mark.parametrize("affine", [TURNED, SHEARED], ids=["slab by slab", "at once"])
def test_with_their_probabilities_the_classes_are_cleaned_alike(tmp_path, affine):
    values = np.zeros((14, 14, 14), dtype=np.float32)
    values[3:7, 3:7, 3:7] = values[10:12, 10:12, 10:12] = 1
    path = tmp_path / "x.nii.gz"
    nib.save(nib.Nifti1Image(values, affine), path)
    infer = InferConfig(min_lesion_mm3=30.0)
    predictor = predictor_for(Threshold(0.5), CLASSES, infer=infer, spacing=(0.9, 0.9, 0.9))
    image = predictor.preprocessing(Case("x", (path,), None))["image"]
    classes, probabilities = predictor.predict_with_probabilities(image)
    assert probabilities.shape == (2, *values.shape)
    assert float(probabilities[1, 10:12, 10:12, 10:12].max()) > 0.5
    assert not classes[9:13, 9:13, 9:13].any()
    assert classes[4, 4, 4] == 1
    assert np.array_equal(classes, predictor.predict(image))
