"""BraTS in three numberings, under each other's names: no value tells them apart."""

import warnings
from pathlib import Path

import pytest

from segfocal.cli.train import main
from segfocal.data.layouts import read_dataset
from segfocal.errors import SegfocalWarning
from tests.data.nifti_files import msd, nnunet

NNUNETS_BRATS = {
    "labels": {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "ET": 3},
    "regions_class_order": [1, 2, 3],
}
MSDS_BRATS = {
    "0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"
}  # fmt: skip


def read(root, labels):
    """The one line that is warned, or ""."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_dataset(root, labels=labels)
    lines = [str(one.message) for one in caught if one.category is SegfocalWarning]
    assert len(lines) <= 1
    return "".join(lines)


def test_regions_of_other_values_are_doubted(tmp_path):
    root = nnunet(tmp_path / "data", **NNUNETS_BRATS)
    assert read(root, "brats23") == (
        f"{root}/dataset.json: data.labels: brats23 makes TC of 1,3, dataset.json whole tumor "
        f"1,2,3, tumor core 2,3, ET 3. Which is right? Without data.labels it is dataset.json."
    )
    mapping = {"background": 0, "A": [1, 2, 3], "B": [1, 2], "C": 1}
    assert "data.labels makes B of 1,2, dataset.json whole tumor 1,2,3" in read(root, mapping)


@pytest.mark.parametrize(
    "labels",
    [
        None,
        "msd-task01",
        "auto",
        {"background": 0, "W": [3, 2, 1], "C": [3, 2], "E": [3]},  # by other names
        {"background": 0, "A": [1, 2], "B": 1},  # fewer: another question
        {"background": 0, "lesion": 1, "core": 2, "rim": 3},  # no regions
    ],
)
def test_what_may_be_meant_is_not_doubted(tmp_path, labels):
    assert read(nnunet(tmp_path / "data", **NNUNETS_BRATS), labels) == ""


def test_a_class_of_another_value_is_doubted_in_either_spelling(tmp_path):
    root = msd(tmp_path / "data", labels=MSDS_BRATS)
    assert "brats23 calls 2 oedema, dataset.json 1. Which is right?" in read(root, "brats23")
    swapped = {"background": 0, "core": 1, "EDEMA": 2}
    assert "data.labels calls 2 EDEMA, dataset.json 1." in read(root, swapped)
    assert read(root, "msd-task01") == ""
    assert read(root, {"background": 0, "oedema": 1, "core": 2, "rim": 3}) == ""


def test_labels_that_cannot_be_read_are_not_asked(tmp_path):
    assert read(nnunet(tmp_path / "data", labels=["no", "names"]), {"background": 0, "a": 1}) == ""


def test_a_run_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = nnunet(tmp_path / "data", **NNUNETS_BRATS)
    Path("my.yaml").write_text(f"data: {{root: {root}, labels: brats23, val_fraction: 0.5}}\n")
    with pytest.raises(SystemExit) as stop:
        main(["--config", "my.yaml", "--dry-run", "--set", "train.patch_size=[16,16,16]"])
    assert stop.value.code == 0
    said = capsys.readouterr()
    assert "brats23 makes TC of 1,3, dataset.json whole tumor 1,2,3" in said.out + said.err
