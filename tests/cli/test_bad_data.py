"""A data set that cannot be read: one line, exit status 2, nothing written."""

import numpy as np
import pytest

from segfocal.cli.train import main
from tests.data.layouts.trees import SHAPE, bids, brats, plain, write_rows
from tests.data.nifti_files import OBLIQUE, image_of, label_of, msd, save

LESION = "data.labels={background: 0, lesion: 1}"


@pytest.fixture
def mistake(tmp_path, capsys):
    """Runs segfocal-train and returns its one line."""

    def _run(root, *settings, options=()):
        config = tmp_path / "my.yaml"
        config.write_text(f"data: {{root: {root}}}\n")
        out = tmp_path / "run"
        arguments = ["--config", str(config), "--out", str(out), *options]
        with pytest.raises(SystemExit) as stop:
            main([*arguments, *(["--set", *settings] if settings else [])])
        assert stop.value.code == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert not out.exists()
        return lines[0].removeprefix("segfocal-train: ")

    return _run


def test_a_folder_without_a_layout(mistake, tmp_path):
    root = plain(tmp_path / "data", ["scan.nii.gz"])
    assert mistake(root).startswith(f"{root}: no layout was recognised. Looked for dataset.json")


def test_brats_labels_of_another_year(mistake, tmp_path):
    root = brats(tmp_path / "data", [f"BraTS2021_0000{n}" for n in range(3)], values=(0, 1, 2, 3))
    assert mistake(root) == (
        "BraTS2021_00000: label holds {0,1,2,3}; the config declares {0,1,2,4}. BraTS uses 3 for "
        "ET since 2023: set data.labels: brats23, or brats24 where other cases hold 4, the "
        "resection cavity."
    )


def test_a_session_on_another_grid(mistake, tmp_path):
    root = bids(tmp_path / "data", [("01", ""), ("02", "")])
    save(root / "sub-01" / "anat" / "sub-01_flair.nii.gz", image_of((9, 9, 9)), OBLIQUE)
    save(root / "sub-02" / "anat" / "sub-02_flair.nii.gz", image_of(SHAPE))
    assert mistake(root, LESION, "data.channels=[dwi, flair]") == (
        "sub-01: dwi is 6x5x4, flair is 9x9x9. Resample one onto the other's grid, or check that "
        "they belong together. To have the channel resampled, set data.resample_channels: true."
    )


def test_a_channel_that_bids_does_not_hold(mistake, tmp_path):
    root = bids(tmp_path / "data", [("01", ""), ("02", "")])
    line = mistake(root, LESION, "data.channels=[dwi, T1w]")
    assert line.startswith(f"{root}: 2 cases lack files: sub-01 (T1w), sub-02 (T1w). Expected ")


def test_a_listed_path_outside_the_root(mistake, tmp_path):
    root = plain(tmp_path / "data", ["a.nii.gz"])
    rows = [{"id": "a", "image": "../../etc/passwd.nii.gz", "label": "a.nii.gz"}]
    path = write_rows(root / "cases.csv", rows)
    assert mistake(root, LESION) == (
        f"{path}: line 2: ../../etc/passwd.nii.gz lies outside {root}. Set data.root to a folder "
        f"that holds every file, or copy it there."
    )


def test_a_label_that_contradicts_what_was_annotated(mistake, tmp_path):
    root = plain(tmp_path / "data", ["images/a.nii", "images/b.nii"])
    for case in "ab":
        save(root / "labels" / f"{case}.nii", label_of(SHAPE, (0, 1, 2)))
    settings = ("data.labels={background: 0, liver: 1, spleen: 2}", "data.val_fraction=0")
    assert mistake(root, *settings, "data.partial={b: [liver]}") == (
        "b: label holds spleen (2), but the case is declared annotated for liver alone. Add spleen "
        "there, or mend the label."
    )
    assert mistake(root, *settings, "data.partial={c*: [liver]}").startswith(
        "--set: data.partial: c*: meets no case."
    )


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (
            lambda path: path.write_bytes(path.read_bytes()[:-8]),
            "PATH: the gzip stream is cut short. Copy or download the file again.",
        ),
        (
            lambda path: save(path, np.full((6, 5, 4, 2), np.nan, np.float32)),
            (
                "c2.nii.gz: 120 of 120 voxels are NaN, infinite or too large for float32. Set them "
                "to 0 (or to the air value) in the file."
            ),
        ),
    ],
)
def test_a_dry_run_reads_the_images_too(mistake, tmp_path, damage, line):
    root = msd(tmp_path / "data")
    path = root / "imagesTr" / "c2.nii.gz"
    damage(path)
    told = mistake(root, options=["--dry-run"])
    assert told == f"c2: {line.replace('PATH', str(path))}"


def test_one_value_that_no_case_of_many_declares(mistake, tmp_path):
    root = msd(tmp_path / "data", values=(0, 1, 2))
    save(root / "labelsTr" / "c2.nii.gz", np.where(label_of((6, 5, 4)), 117, 0).astype(np.uint8))
    assert mistake(root).startswith("c2: label holds {0,117}; the config declares {0,1,2}.")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.layout=bidz", "expected 'auto', 'msd', 'nnunet', 'brats', 'bids', 'list', 'csv' or"),
        (
            "data.labels=brats",
            "--set: data.labels: unknown preset 'brats'. Known: brats18-22, brats23, brats24, msd",
        ),
        ("data.exclude=c1", "data.exclude: expected a valid list, got 'c1'."),
        ("data.partial=[c1]", "data.partial: expected a valid dictionary, got ['c1']."),
        ("data.case_list=no.csv", "--set: data.case_list: no.csv does not exist, here or in "),
    ],
)
def test_a_setting_that_cannot_be(mistake, tmp_path, setting, message):
    assert message in mistake(msd(tmp_path / "data"), setting)
