import nibabel as nib
import numpy as np
import pytest

from segfocal.errors import UserError
from segfocal.inference.predict_cases import PredictRequest, predict_cases
from tests.runs import tiny_run


@pytest.fixture(scope="module")
def checkpoint(phantom, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "a"
    tiny_run(phantom, out, "train.epochs=1")
    return out / "best.pt"


def predict(checkpoint, source, output, **options):
    return predict_cases(PredictRequest(checkpoint, source, output, quiet=True, **options))


def test_a_data_sets_test_cases_are_predicted_on_their_own_grid(checkpoint, phantom, tmp_path):
    (path,) = predict(checkpoint, phantom, tmp_path / "out")
    source = nib.load(phantom / "imagesTs" / "PHANTOM_TEST_001.nii.gz")
    label = nib.load(path)
    assert label.shape == source.shape[:3]
    assert np.array_equal(label.affine, source.affine)
    assert label.get_data_dtype() == np.uint8
    for code in ("qform_code", "sform_code"):
        assert int(label.header[code]) == int(source.header[code])
    assert set(np.unique(np.asarray(label.dataobj))) <= {0, 1, 2, 3}


def test_a_folder_and_a_single_file_are_predicted(checkpoint, phantom, tmp_path):
    folder = predict(checkpoint, phantom / "imagesTs", tmp_path / "a")
    file = predict(checkpoint, phantom / "imagesTs" / "PHANTOM_TEST_001.nii.gz", tmp_path / "b")
    assert folder[0].read_bytes() == file[0].read_bytes()


def test_what_is_there_is_never_overwritten_unasked(checkpoint, phantom, tmp_path):
    (path,) = predict(checkpoint, phantom, tmp_path)
    path.write_bytes(b"mine")
    with pytest.raises(UserError, match=r"exists already \(1 of 1 do\)\. Pass --continue"):
        predict(checkpoint, phantom, tmp_path)
    predict(checkpoint, phantom, tmp_path, go_on=True)
    assert path.read_bytes() == b"mine"


def test_a_missing_checkpoint_or_input_makes_no_folder(checkpoint, phantom, tmp_path):
    with pytest.raises(UserError, match=r"--ckpt .* does not exist"):
        predict(tmp_path / "no.pt", phantom, tmp_path / "out")
    with pytest.raises(UserError, match=r"-i .* does not exist"):
        predict(checkpoint, tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_wrong_channel_count_is_refused_before_a_file_is_written(checkpoint, tmp_path):
    (tmp_path / "in").mkdir()
    nib.save(
        nib.Nifti1Image(np.zeros((20, 20, 20), np.int16), np.eye(4)), tmp_path / "in" / "x.nii.gz"
    )
    with pytest.raises(UserError, match=r"x: image 20x20x20 holds 1 channel; expected 4"):
        predict(checkpoint, tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_image_itself_is_never_overwritten(checkpoint, phantom, tmp_path):
    images = tmp_path / "in"
    images.mkdir()
    name = "PHANTOM_TEST_001.nii.gz"
    (images / name).write_bytes((phantom / "imagesTs" / name).read_bytes())
    with pytest.raises(UserError, match="-o would overwrite the image"):
        predict(checkpoint, images, images, go_on=True)
