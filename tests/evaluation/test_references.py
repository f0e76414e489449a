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


def references_of(path, *overrides, is_its_data=True, **data):
    loaded = config_of({"data": {"root": "elsewhere", **data}}, overrides, "e", {})
    return find_references(path, loaded, is_its_data=is_its_data)


def test_exclusions_and_partial_labels_are_those_of_the_data_alone(tmp_path):
    root = nnunet(tmp_path / "data", labels={"background": 0, "tumour": 1, "cyst": 2})
    settings = {"exclude": ["c1"], "partial": {"c2": ["cyst"]}}
    (case,) = references_of(root, **settings).cases
    assert (case.case_id, case.annotated) == ("c2", ("cyst",))
    both = references_of(root, is_its_data=False, **settings).cases
    assert [(case.case_id, case.annotated) for case in both] == [("c1", None), ("c2", None)]


def test_partial_labels_are_told_by_the_names_of_the_config_where_files_tell_none(tmp_path):
    root = plain(tmp_path, ["images/a.nii.gz", "images/b.nii.gz"], ["labels/a.nii", "labels/b.nii"])
    regions = {"background": 0, "whole": [1, 2], "core": [2]}
    partial = {"a": ["core"]}
    found = references_of(root, labels=regions, regions_class_order=[1, 2], partial=partial)
    assert [case.annotated for case in found.cases] == [("core",), None]
    assert [region.name for region in found.scheme.regions] == ["whole", "core"]
    assert found.labels_from == "data.labels"


def test_values_that_the_config_ignores_are_no_class_of_a_data_set_that_names_them(tmp_path):
    root = nnunet(tmp_path / "data", labels={"background": 0, "tumour": 1, "cyst": 2})
    assert references_of(root, "loss.ignore_index=2").scheme.names == ("background", "tumour")
    unnamed = plain(tmp_path / "plain", ["images/a.nii"], ["labels/a.nii"])
    found = references_of(unnamed, "loss.ignore_index=1")
    assert (found.scheme, [case.case_id for case in found.cases]) == (None, ["a"])


def test_the_layout_and_the_list_of_the_data_are_taken_where_a_folder_shows_more(tmp_path):
    root = nnunet(tmp_path / "data")
    write_rows(root / "cases.csv", [{"id": "p1", "label": "labelsTr/c1.nii.gz", "a": "b.nii"}])
    with pytest.raises(UserError, match="shows more than one layout"):
        references_of(root, is_its_data=False)
    for layout, ids in (("nnunet", ["c1", "c2"]), ("list", ["p1"])):
        told = references_of(root, f"data.layout={layout}", is_its_data=False)
        assert [case.case_id for case in told.cases] == ids
    mine = [{"id": "p2", "label": "labelsTr/c2.nii.gz", "a": "c.nii"}]
    listed = write_rows(root / "mine.csv", mine)
    (case,) = references_of(root, case_list=str(listed)).cases
    assert (case.case_id, case.label) == ("p2", root / "labelsTr/c2.nii.gz")


def test_the_pattern_of_the_data_chooses_among_labels_of_bids(tmp_path):
    root = bids(tmp_path, [("01", "")])
    save(root / "derivatives/sub-01/sub-01_desc-b_mask.nii.gz", label_of((6, 5, 4)))
    pattern = "*_desc-b_mask.nii.gz"
    (case,) = references_of(root, layout="bids", label_pattern=pattern).cases
    assert case.label.name == "sub-01_desc-b_mask.nii.gz"


def test_a_file_is_a_case_and_says_so(tmp_path):
    path = save(tmp_path / "a.nii.gz", label_of((6, 5, 4)))
    found = references_of(path)
    assert [(case.case_id, case.images, case.label) for case in found.cases] == [("a", (), path)]
    assert (found.is_file, found.is_synthetic) == (True, False)
    folder = references_of(tmp_path)
    assert (folder.is_file, folder.is_synthetic) == (False, False)


def test_labels_of_a_phantom_are_known_by_the_descriptor_above_them(tmp_path):
    root = nnunet(tmp_path / "data", synthetic=True)
    assert references_of(root / "labelsTr").is_synthetic
    assert references_of(root).is_synthetic


def test_what_is_no_reference_is_refused_by_what_was_expected(tmp_path):
    with pytest.raises(UserError, match=r"^--ref \S+none does not exist\. Expected a folder of"):
        references_of(tmp_path / "none")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match=r"^--ref \S+a\.txt: expected a volume \(.*\) or a list\.$"):
        references_of(tmp_path / "a.txt")
