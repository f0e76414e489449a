"""A label file on the grid of the image it was predicted from; nibabel reads it."""

import logging

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from segfocal.errors import UserError
from segfocal.labels import LabelScheme
from segfocal.transforms import SaveLabeld
from tests.data.nifti_files import OBLIQUE, save

SCHEME = LabelScheme(("background", "a", "b"), (0, 3, 700))


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "in" / "p7.nii.gz"
    save(path, np.zeros((4, 5, 6), np.float32), OBLIQUE, codes=(1, 2))
    image = MetaTensor(torch.zeros(1, 4, 5, 6), meta={"filename_or_obj": str(path)})
    classes = torch.arange(120).reshape(1, 4, 5, 6) % 3
    return {"image": image, "pred": MetaTensor(classes.to(torch.uint8))}


@pytest.mark.parametrize("kind", [lambda t: t, lambda t: t.as_tensor(), lambda t: t.numpy()])
def test_the_file_holds_the_schemes_values_on_the_images_grid(data, tmp_path, kind):
    data["pred"] = kind(data["pred"])
    out = SaveLabeld("pred", SCHEME, tmp_path / "new" / "out")(data)
    assert out["saved"] == tmp_path / "new" / "out" / "p7.nii.gz"
    file = nib.load(out["saved"])
    expected = np.array([0, 3, 700])[np.arange(120).reshape(4, 5, 6) % 3]
    assert np.array_equal(np.asarray(file.dataobj), expected)
    assert file.get_data_dtype() == np.int16
    source = nib.load(tmp_path / "in" / "p7.nii.gz")
    assert np.array_equal(file.header["srow_x"], source.header["srow_x"])
    assert int(file.header["sform_code"]) == 2
    assert out["pred"] is data["pred"]


def test_a_case_id_names_the_file_and_its_place_is_logged(data, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "segfocal"):
        SaveLabeld("pred", SCHEME, str(tmp_path / "out"))({**data, "case_id": "sub-1"})
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["sub-1.nii.gz"]
    assert caplog.messages == [str(tmp_path / "out" / "sub-1.nii.gz")]


def test_channels_of_a_4d_file_may_be_any_axis(data, tmp_path):
    path = tmp_path / "in" / "p7.nii.gz"
    save(path, np.zeros((2, 4, 5, 6), np.float32))
    SaveLabeld("pred", SCHEME, tmp_path / "out", channel_dim=0)(data)
    assert nib.load(tmp_path / "out" / "p7.nii.gz").shape == (4, 5, 6)


def test_the_image_itself_is_never_written_over(data, tmp_path):
    before = (tmp_path / "in" / "p7.nii.gz").read_bytes()
    with pytest.raises(UserError, match=r"p7\.nii\.gz is the image itself\. Set another"):
        SaveLabeld("pred", SCHEME, tmp_path / "in")(data)
    assert (tmp_path / "in" / "p7.nii.gz").read_bytes() == before


def test_a_folder_that_cannot_be_made_is_told_in_a_line(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/out cannot be written: Not a directory\. Use"):
        SaveLabeld("pred", SCHEME, tmp_path / "file" / "out")(data)


def test_classes_on_another_grid_are_refused(data, tmp_path):
    data["pred"] = data["pred"][:, :-1]
    with pytest.raises(ValueError, match="must lie on the source's grid"):
        SaveLabeld("pred", SCHEME, tmp_path / "out")(data)


def test_a_missing_key_is_passed_over_on_demand(data, tmp_path):
    del data["pred"]
    SaveLabeld("pred", SCHEME, tmp_path / "out", allow_missing_keys=True)(data)
    assert not (tmp_path / "out").exists()
    with pytest.raises(KeyError):
        SaveLabeld("pred", SCHEME, tmp_path / "out")(data)
