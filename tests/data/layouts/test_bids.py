import pytest

from segfocal.data.layouts import list_inputs, read_dataset
from segfocal.data.layouts.found import FileRules
from segfocal.data.verify import load_case
from segfocal.errors import UserError

from ..nifti_files import image_of, label_of, save
from .trees import SHAPE, bids

LABELS = {"background": 0, "lesion": 1}


def read(root, *channels, pattern=None, **options):
    rules = FileRules(channels or None, label_pattern=pattern)
    return read_dataset(root, labels=LABELS, rules=rules, **options)


def line(root, *channels, **options):
    with pytest.raises(UserError) as caught:
        read(root, *channels, **options)
    return str(caught.value)


def test_sessions_are_cases_and_channels_are_suffixes(tmp_path):
    root = bids(tmp_path, [("01", "a"), ("01", "b"), ("02", "a")], raw="rawdata")
    dataset = read(root, "adc", "dwi")
    assert dataset.layout == "bids"
    assert dataset.channels == ("adc", "dwi")
    assert dataset.case_ids == ("sub-01_ses-a", "sub-01_ses-b", "sub-02_ses-a")
    loaded = load_case(dataset.cases[1], dataset.scheme, dataset.channels)
    assert (loaded.image[0] == image_of(SHAPE, 11)).all()
    assert (loaded.image[1] == image_of(SHAPE, 10)).all()
    assert (loaded.classes == label_of(SHAPE, seed=1)).all()


def test_subjects_without_sessions_and_labels_in_a_pipelines_folder(tmp_path):
    root = bids(tmp_path, [("01", ""), ("02", "")], derived="derivatives/manual", label="dseg")
    assert read(root, "dwi").case_ids == ("sub-01", "sub-02")


def test_a_label_without_a_session_is_of_the_only_session(tmp_path):
    root = bids(tmp_path, [("01", "a")], label="")
    label = save(root / "derivatives" / "sub-01" / "sub-01_mask.nii.gz", label_of(SHAPE))
    assert read(root, "dwi").cases[0].label == label
    bids(root, [("01", "b")], label="")
    assert "sub-01_ses-a (label), sub-01_ses-b (label)" in line(root, "dwi")


def test_channels_must_be_named_and_the_line_lists_them(tmp_path):
    root = bids(tmp_path, [("01", "")])
    assert line(root) == (
        f"data.channels is not set: name the files that make up a case, as data.channels: "
        f"[adc, dwi]. {root} holds adc, dwi."
    )


def test_the_plainest_of_several_files_is_the_channel(tmp_path):
    root = bids(tmp_path, [("01", "")], channels=("T1w", "ce-gd_T1w"))
    (case,) = read(root, "T1w", "ce-gd_T1w").cases
    assert [path.name for path in case.images] == ["sub-01_T1w.nii.gz", "sub-01_ce-gd_T1w.nii.gz"]
    root = bids(tmp_path / "two", [("01", "")], channels=("acq-a_dwi", "acq-b_dwi"))
    assert line(root, "dwi") == (
        "sub-01: 2 files fit channel dwi: sub-01_acq-a_dwi.nii.gz, sub-01_acq-b_dwi.nii.gz. Say "
        "which in data.channels, e.g. acq-a_dwi."
    )
    assert read(root, "acq-b_dwi").cases[0].images[0].name == "sub-01_acq-b_dwi.nii.gz"


def test_a_channel_only_the_derivatives_have_is_taken_from_there(tmp_path):
    root = bids(tmp_path, [("01", "a")])
    moved = save(
        root / "derivatives" / "sub-01" / "ses-a" / "sub-01_ses-a_space-dwi_flair.nii.gz",
        image_of(SHAPE, 77),
    )
    assert read(root, "dwi", "flair").cases[0].images[1] == moved


def test_labels_that_could_be_several_are_named_and_picked_by_a_pattern(tmp_path):
    root = bids(tmp_path, [("01", "")], label="desc-lesion_mask")
    folder = root / "derivatives" / "sub-01"
    save(folder / "sub-01_desc-brain_mask.nii.gz", label_of(SHAPE))
    assert read(root, "dwi").cases[0].label.name == "sub-01_desc-lesion_mask.nii.gz"
    save(folder / "sub-01_desc-oedema_mask.nii.gz", label_of(SHAPE))
    assert line(root, "dwi") == (
        "sub-01: 2 files may be its label: sub-01_desc-lesion_mask.nii.gz, "
        "sub-01_desc-oedema_mask.nii.gz. Set data.label_pattern to the names to take, e.g. "
        "*_desc-lesion_mask.nii.gz."
    )
    picked = read(root, "dwi", pattern="*_desc-oedema_mask.nii.gz").cases[0].label
    assert picked.name == "sub-01_desc-oedema_mask.nii.gz"


def test_a_channel_that_two_files_fit_alike_is_told_beside_the_other_cases(tmp_path):
    root = bids(tmp_path, [("01", ""), ("02", "")], channels=("dwi",))
    plainest = root / "sub-01" / "anat" / "sub-01_dwi.nii.gz"
    save(plainest.with_name("sub-01_acq-b_dwi.nii.gz"), image_of(SHAPE))
    plainest.rename(plainest.with_name("sub-01_acq-a_dwi.nii.gz"))
    dataset = read(root, "dwi", keep_incomplete=True)
    assert dataset.case_ids == ("sub-02",)
    assert dataset.faults == (
        (
            "sub-01: 2 files fit channel dwi: sub-01_acq-a_dwi.nii.gz, sub-01_acq-b_dwi.nii.gz. "
            "Say which in data.channels, e.g. acq-a_dwi."
        ),
    )
    assert read(root, "acq-b_dwi", keep_incomplete=True).cases[0].images[0].name == (
        "sub-01_acq-b_dwi.nii.gz"
    )


def test_files_that_are_not_named_as_bids_wants_it_are_passed_over(tmp_path):
    root = bids(tmp_path, [("01", "")], channels=("dwi",))
    for name in ("notes", "sub-01_", "x_dwi"):
        save(root / "sub-01" / "anat" / f"{name}.nii.gz", image_of(SHAPE))
    odd = save(root / "sub-01" / "anat" / "sub-01_acq-a-b_adc.nii.gz", image_of(SHAPE))
    (case,) = read(root, "dwi", "acq-a-b_adc").cases
    assert [path.name for path in case.images] == ["sub-01_dwi.nii.gz", odd.name]


def test_a_folder_without_subjects_that_is_called_bids_is_refused(tmp_path):
    (tmp_path / "anat").mkdir()
    assert line(tmp_path, "dwi", layout="bids") == (
        f"{tmp_path}: holds no sub-* folder, nor does rawdata in it. Is this BIDS?"
    )


def test_every_session_that_lacks_a_file_is_named(tmp_path):
    root = bids(tmp_path, [("01", "a"), ("02", "a"), ("03", "a")])
    (root / "sub-02" / "ses-a" / "anat" / "sub-02_ses-a_adc.nii.gz").unlink()
    (root / "derivatives" / "sub-03" / "ses-a" / "sub-03_ses-a_msk.nii.gz").unlink()
    # A session with neither channel nor label is another examination, not a broken case.
    save(root / "sub-01" / "ses-b" / "anat" / "sub-01_ses-b_bold.nii.gz", image_of(SHAPE))
    assert line(root, "dwi", "adc") == (
        f"{root}: 2 cases lack files: sub-02_ses-a (adc), sub-03_ses-a (label). Expected "
        f"{root.name}/sub-*/.../*_{{dwi,adc}}.nii.gz and derivatives/.../sub-*/.../"
        f"*_{{mask,dseg,msk,seg,label,lesion,roi}}.nii.gz. Add the files, or leave the cases out "
        f"by data.exclude."
    )
    assert read(root, "dwi", "adc", exclude=["sub-0[23]*"]).case_ids == ("sub-01_ses-a",)


def test_what_macos_leaves_behind_is_passed_over(tmp_path):
    root = bids(tmp_path, [("01", "")])
    for path in list(root.rglob("*.nii.gz")):
        path.with_name(f"._{path.name}").write_bytes(b"junk")
    assert read(root, "dwi").case_ids == ("sub-01",)


def test_inputs_need_no_label(tmp_path):
    root = bids(tmp_path, [("01", "a")], label="")
    (case,) = list_inputs(root, ("dwi", "adc"))
    assert (case.case_id, case.label) == ("sub-01_ses-a", None)
    assert [path.name for path in case.images] == [
        "sub-01_ses-a_dwi.nii.gz",
        "sub-01_ses-a_adc.nii.gz",
    ]
