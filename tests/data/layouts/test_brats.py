import pytest

from segfocal.data.layouts import list_inputs, read_dataset
from segfocal.data.verify import load_case
from segfocal.errors import UserError
from segfocal.labels import LabelScheme

from ..nifti_files import image_of
from .trees import SHAPE, brats

CHANNELS = ("FLAIR", "T1w", "T1gd", "T2w")


@pytest.mark.parametrize(
    ("cases", "preset", "values"),
    [
        (["HGG/Brats18_2013_10_1", "LGG/Brats18_TCIA_1_1"], "brats18-22", (0, 1, 2, 4)),
        (["BraTS20_Training_001", "BraTS20_Training_002"], "brats18-22", (0, 1, 2, 4)),
        (["BraTS2021_00000", "BraTS2021_00002"], "brats18-22", (0, 1, 2, 4)),
        (["BraTS-GLI-00000-000", "BraTS-GLI-00000-001"], "brats23", (0, 1, 2, 3)),
        (["train/BraTS-MET-00001-000"], "brats23", (0, 1, 2, 3)),
        (["BraTS-GLI-00005-100", "BraTS-GLI-00005-101"], "brats24", (0, 1, 2, 3, 4)),
        (["BraTS-GLI-00005-000", "BraTS-GLI-02073-105"], "brats24", (0, 1, 2, 3, 4)),
    ],
)
def test_each_year_is_known_by_its_names(tmp_path, cases, preset, values):
    root = brats(tmp_path / "data", cases, values=values)
    (root / "survival_data.csv").write_text("x")
    dataset = read_dataset(root)
    assert dataset.layout == "brats"
    assert dataset.scheme == LabelScheme.preset(preset)
    assert dataset.labels_from.startswith(f"{preset}, names as ")
    assert dataset.channels == CHANNELS
    assert dataset.case_ids == tuple(sorted(case.rsplit("/", 1)[-1] for case in cases))
    loaded = load_case(dataset.cases[0], dataset.scheme, dataset.channels)
    assert loaded.image.shape == (4, *SHAPE)
    for channel in range(4):
        assert (loaded.image[channel] == image_of(SHAPE, channel)).all()


def test_the_config_has_the_last_word_on_labels(tmp_path):
    root = brats(tmp_path, ["BraTS20_Training_001"])
    dataset = read_dataset(root, labels="brats23")
    assert dataset.scheme == LabelScheme.preset("brats23")
    assert dataset.labels_from == "data.labels: brats23"


def test_uncompressed_files_and_what_macos_leaves_are_read_and_not(tmp_path):
    root = brats(tmp_path, ["BraTS20_Training_001"], ending=".nii")
    folder = root / "BraTS20_Training_001"
    (folder / "._BraTS20_Training_001_flair.nii").write_bytes(b"junk")
    (folder / ".DS_Store").write_bytes(b"junk")
    (root / "__MACOSX" / "BraTS20_Training_002").mkdir(parents=True)
    (root / "__MACOSX" / "BraTS20_Training_002" / "BraTS20_Training_002_t1.nii").write_bytes(b"x")
    assert read_dataset(root).case_ids == ("BraTS20_Training_001",)


def test_every_case_that_lacks_files_is_named(tmp_path):
    root = brats(tmp_path, [f"BraTS20_Training_{n:03d}" for n in range(1, 5)])
    (root / "BraTS20_Training_002" / "BraTS20_Training_002_t1ce.nii.gz").unlink()
    # What Kaggle's copy of 2020 holds for case 355.
    label = root / "BraTS20_Training_003" / "BraTS20_Training_003_seg.nii.gz"
    label.rename(label.with_name("W39_1998.09.19_Segm.nii.gz"))
    with pytest.raises(UserError) as caught:
        read_dataset(root)
    assert str(caught.value) == (
        f"{root}: 2 cases lack files: BraTS20_Training_002 (t1ce), BraTS20_Training_003 (seg). "
        f"Expected CASE/CASE_flair|t1|t1ce|t2|seg.nii.gz. Add the files, or leave the cases out by "
        f"data.exclude."
    )
    kept = read_dataset(root, exclude=["*_002", "BraTS20_Training_003"])
    assert kept.case_ids == ("BraTS20_Training_001", "BraTS20_Training_004")


def test_two_years_in_one_folder_are_refused(tmp_path):
    root = brats(tmp_path, ["BraTS2021_00000", "BraTS-GLI-00001-000"])
    with pytest.raises(UserError, match=r"BraTS2021_00000 is named as until 2022, BraTS-GLI-00001"):
        read_dataset(root)


def test_one_case_in_two_folders_is_refused(tmp_path):
    root = brats(tmp_path, ["HGG/Brats18_1", "LGG/Brats18_1"])
    with pytest.raises(UserError, match=r"HGG/Brats18_1 and LGG/Brats18_1 are both case Brats18_1"):
        read_dataset(root)


def test_labels_that_changed_under_one_name_must_be_told(tmp_path):
    root = brats(tmp_path, ["BraTS-PED-00001-000"])
    with pytest.raises(UserError, match=r"data.labels is not set, and these files do not tell"):
        read_dataset(root)
    assert read_dataset(root, labels="brats23").scheme == LabelScheme.preset("brats23")


def test_inputs_come_in_the_order_of_the_checkpoints_channels(tmp_path):
    root = brats(tmp_path, ["BraTS-GLI-00000-000"], labelled=False)
    (case,) = list_inputs(root, ("t1gd", "FLAIR"))
    assert [path.name[-10:] for path in case.images] == ["t1c.nii.gz", "t2f.nii.gz"]
    assert case.label is None
    with pytest.raises(
        UserError, match=r"Channels: .* has FLAIR,T1w,T1gd,T2w; the checkpoint .* CT"
    ):
        list_inputs(root, ("CT",))
