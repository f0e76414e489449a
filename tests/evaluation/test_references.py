"""Every layout that segfocal knows is a reference, with what it says of its labels."""

import numpy as np
import pytest

from segfocal.config.load import config_of
from segfocal.errors import UserError
from segfocal.evaluation.meaning import declared_scheme, scheme_of_files
from segfocal.evaluation.references import find_references
from tests.data.layouts.trees import bids, brats, plain, write_rows
from tests.data.nifti_files import label_of, msd, nnunet, save


def found(path, *overrides):
    loaded = config_of({"data": {"root": str(path)}}, overrides, "e", {"data.root": "--ref"})
    references = find_references(path, loaded, is_its_data=True)
    scheme, labels_from = declared_scheme(
        loaded, None, references, [path if path.is_dir() else path.parent]
    )
    names = None if scheme is None else scheme.target_names
    return [case.case_id for case in references.cases if case.label], names, labels_from


def test_msd_and_nnunet_declare_their_labels(tmp_path):
    ids, names, labels_from = found(msd(tmp_path / "msd"))
    assert (ids, names, labels_from) == (["c1", "c2", "c3"], ("class1",), "dataset.json")
    root = nnunet(tmp_path / "nnunet")
    assert found(root)[:2] == (["c1", "c2"], ("tumour",))
    ids, names, labels_from = found(root / "labelsTr")
    assert (ids, names) == (["c1", "c2"], ("tumour",))
    assert labels_from == str(root / "dataset.json")


def test_brats_folders_imply_a_preset(tmp_path):
    root = brats(tmp_path / "data", ["BraTS-GLI-00000-000", "BraTS-GLI-00001-000"])
    ids, names, labels_from = found(root)
    assert ids == ["BraTS-GLI-00000-000", "BraTS-GLI-00001-000"]
    assert names == ("WT", "TC", "ET")
    assert labels_from == "brats23, names as since 2023"


def test_bids_needs_no_channels_for_labels_alone(tmp_path):
    root = bids(tmp_path / "data", [("01", "a"), ("02", "")])
    assert found(root) == (["sub-01_ses-a", "sub-02"], None, "")
    ids, names, _ = found(root, "data.labels={background: 0, lesion: 1}")
    assert (ids, names) == (["sub-01_ses-a", "sub-02"], ("lesion",))


def test_folders_and_lists_are_references(tmp_path):
    root = plain(tmp_path / "data", ["images/a.nii.gz"], ["labels/a.nii.gz"])
    assert found(root)[0] == ["a"]
    listed = write_rows(root / "refs.csv", [{"id": "p1", "label": "labels/a.nii.gz"}])
    assert found(listed)[0] == ["p1"]
    images = [{"image": "images/a.nii.gz", "label": "labels/a.nii.gz"}]
    assert found(write_rows(root / "other.json", images))[0] == ["a"]
    with pytest.raises(UserError, match=r"line 2: has no id\. Add a column id"):
        found(write_rows(root / "bare.csv", [{"label": "labels/a.nii.gz"}]))


def test_the_patterns_of_the_data_find_its_references(tmp_path):
    root = plain(tmp_path / "data", ["scans/a_t1.nii.gz"], ["truth/a_les.nii.gz"])
    patterns = ("data.image_pattern=scans/{case}_t1", "data.label_pattern=truth/{case}_les")
    assert found(root, "data.layout=folder", *patterns)[0] == ["a"]


def test_a_case_that_lacks_its_image_is_a_reference_all_the_same(tmp_path):
    root = nnunet(tmp_path / "data")
    (root / "imagesTr/c1_0000.nii.gz").unlink()
    assert found(root)[0] == ["c1", "c2"]


def test_the_labels_of_test_cases_are_pointed_at_where_there_are_any(tmp_path):
    root = nnunet(tmp_path / "data")
    loaded = config_of({"data": {"root": str(root)}}, (), "e", {})
    assert find_references(root, loaded, is_its_data=False).others is None
    (root / "labelsTs").mkdir()
    assert find_references(root, loaded, is_its_data=False).others == root / "labelsTs"


def test_labels_are_meant_as_whoever_declares_them_first(tmp_path):
    root = nnunet(tmp_path / "data")
    assert found(root, "data.labels={background: 0, lump: 1}")[1:] == (("lump",), "data.labels")
    assert found(root, "data.labels=auto")[1] is None
    assert found(root, "data.labels=brats23")[1:] == (("WT", "TC", "ET"), "data.labels: brats23")


def test_undeclared_values_are_a_class_each_and_damaged_files_say_nothing(tmp_path):
    root = nnunet(tmp_path / "data")
    labels = list((root / "labelsTr").iterdir())
    good = save(tmp_path / "a.nii.gz", label_of((6, 5, 4), (0, 2, 5, 9)))
    bad = tmp_path / "b.nii.gz"
    bad.write_bytes(b"no")
    scheme = scheme_of_files([*labels, good, bad], [9], 10**6)
    assert scheme.values == (0, 1, 2, 5)
    assert scheme.ignore_values == (9,)
    with pytest.raises(UserError, match=r"the label files hold 0 values besides 0 \(none\)"):
        scheme_of_files([save(tmp_path / "z.nii.gz", np.zeros((3, 3, 3), np.uint8))], [], 10**6)
    with pytest.raises(UserError, match=r"hold 1 values besides 0 \(-1\)"):
        scheme_of_files([save(tmp_path / "n.nii.gz", np.full((3, 3, 3), -1, np.int16))], [], 100)


def test_a_run_on_other_data_says_what_labels_mean_and_nothing_of_the_files(tmp_path):
    root = plain(tmp_path / "refs", ["a.nii.gz"])
    settings = {
        "root": "elsewhere", "layout": "bids", "channels": ["dwi"], "exclude": ["x"],
        "labels": {"background": 0, "lesion": 1}, "partial": {"x*": ["lesion"]},
    }  # fmt: skip
    loaded = config_of({"data": settings}, (), "e", {})
    references = find_references(root, loaded, is_its_data=False)
    assert [case.case_id for case in references.cases] == ["a"]
    assert declared_scheme(loaded, None, references, [root])[0].target_names == ("lesion",)
    data = bids(tmp_path / "bids", [("01", "")], channels=("t1",))
    assert [case.label for case in find_references(data, loaded, is_its_data=False).cases]
    listed = write_rows(root / "refs.csv", [{"id": "p1", "t1": "a.nii.gz", "label": "a.nii.gz"}])
    assert find_references(listed, loaded, is_its_data=False).cases[0].case_id == "p1"
