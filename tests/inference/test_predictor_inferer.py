"""The predictor as MONAI's engines call it."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data.utils import list_data_collate
from monai.inferers.inferer import Inferer
from torch import nn

from segfocal.config.schema import DataConfig
from segfocal.data.cases import Case
from segfocal.errors import UserError
from segfocal.inference.predictor_inferer import PredictorInferer
from segfocal.labels import LabelScheme
from segfocal.transforms.pipelines import preprocessing

SCHEME = LabelScheme(("background", "a"), (0, 1))
TURNED = np.array([[0, 0, 1.5, 5], [-1.0, 0, 0, -7], [0, 2.0, 0, 3], [0, 0, 0, 1]])


class Threshold(nn.Module):
    def forward(self, image):
        return torch.cat([0.5 - image, image - 0.5], 1)


@pytest.fixture
def prepared(tmp_path):
    values = np.random.default_rng(0).random((20, 17, 13)).astype(np.float32)
    nib.save(nib.Nifti1Image(values, TURNED), tmp_path / "x.nii.gz")
    steps = preprocessing(DataConfig(root="x", normalize="none"), SCHEME, ("c",), ("c",))
    return steps, steps(Case("x", (tmp_path / "x.nii.gz",), None)), values


def test_classes_lie_on_the_voxels_of_the_file(prepared):
    steps, data, values = prepared
    inferer = PredictorInferer(steps, SCHEME, patch_size=[8, 8, 8])
    assert isinstance(inferer, Inferer)
    batch = list_data_collate([data])["image"]
    classes = inferer(batch, Threshold(), "more", than="needed")
    assert classes.dtype == torch.uint8
    assert np.array_equal(classes.numpy(), (values > 0.5)[None, None])


def test_settings_reach_the_prediction(prepared):
    steps, data, _ = prepared
    batch = list_data_collate([data])["image"]
    inferer = PredictorInferer(steps, SCHEME, patch_size=[8, 8, 8], infer={"min_lesion_mm3": 1e9})
    assert int(inferer(batch, Threshold()).sum()) == 0


class Recorder(Threshold):
    """Keeps what it is shown, and whether that is computed in bfloat16."""

    def __init__(self):
        super().__init__()
        self.windows, self.halved = [], []

    def forward(self, image):
        self.windows.append(image)
        self.halved.append(torch.is_autocast_enabled("cpu"))
        return super().forward(image)


def test_windows_are_mirrored_along_the_axes_given_where_flips_are_asked_for(prepared):
    steps, data, _ = prepared
    batch = list_data_collate([data])["image"]
    for infer, mirrored in (({"tta": "flips"}, [[], [2], [4], [2, 4]]), ({}, [[]])):
        network = Recorder()
        inferer = PredictorInferer(
            steps, SCHEME, patch_size=[20, 24, 28], infer=infer, flip_axes=(0, 2)
        )
        inferer(batch, network)
        plain = network.windows[0]
        assert plain.shape == (1, 1, 20, 24, 28)
        assert len(network.windows) == len(mirrored)
        for window, axes in zip(network.windows, mirrored, strict=True):
            assert torch.equal(window, plain.flip(axes))


@pytest.mark.parametrize(("amp", "halved"), [("auto", False), ("bf16", True), ("fp32", False)])
def test_the_precision_is_the_one_asked_for(prepared, amp, halved):
    steps, data, _ = prepared
    network = Recorder()
    inferer = PredictorInferer(steps, SCHEME, patch_size=[20, 20, 20], amp=amp)
    inferer(list_data_collate([data])["image"], network)
    assert set(network.halved) == {halved}


@pytest.mark.parametrize(
    ("infer", "said"),
    [
        ({"overlapp": 0.5}, r"infer.overlapp is not a setting\. Did you mean infer.overlap\?"),
        ({"overlap": 2}, r"infer.overlap: expected less than 1, got 2\."),
    ],
)
def test_a_wrong_setting_is_refused_in_a_line(prepared, infer, said):
    with pytest.raises(UserError, match=f"^{said}$"):
        PredictorInferer(prepared[0], SCHEME, patch_size=[8, 8, 8], infer=infer)


def test_more_than_one_image_is_refused(prepared):
    steps, data, _ = prepared
    batch = list_data_collate([data, data])["image"]
    with pytest.raises(UserError, match=r"a batch of one image, got 2\. Set the loader's batch_s"):
        PredictorInferer(steps, SCHEME, patch_size=[8, 8, 8])(batch, Threshold())
