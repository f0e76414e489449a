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
