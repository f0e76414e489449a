"""Which layout a folder shows, what is said where it shows none, and labels that nobody names."""

from pathlib import Path

import numpy as np
import pytest

from segfocal.data.layouts import detect_layout, list_inputs, read_dataset
from segfocal.data.layouts.found import FileRules, walk_volumes
from segfocal.data.verify import load_case
from segfocal.errors import UserError
from segfocal.labels import LabelScheme

from ..nifti_files import image_of, label_of, msd, nnunet, save
from .trees import SHAPE, bids, brats, plain, write_rows


def line(call, *arguments, **options):
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    return str(caught.value)


def test_each_layout_is_recognised(tmp_path):
    made = {
        "msd": msd(tmp_path / "m"),
        "nnunet": nnunet(tmp_path / "n"),
        "brats": brats(tmp_path / "b", ["BraTS2021_00000"]),
        "bids": bids(tmp_path / "s", [("01", "")]),
        "folder": plain(tmp_path / "f", ["images/a.nii"], ["labels/a.nii"]),
        "list": tmp_path / "l",
    }
    write_rows(tmp_path / "l" / "cases.csv", [{"id": "a", "image": "a.nii", "label": "b.nii"}])
    assert {name: detect_layout(root) for name, root in made.items()} == {n: n for n in made}


def test_what_the_config_names_is_no_question(tmp_path):
    root = nnunet(tmp_path)
    assert detect_layout(root, FileRules(case_list=root / "x.csv")) == "list"
    assert detect_layout(root, FileRules(image_pattern="{case}")) == "folder"


def test_a_folder_that_shows_two_layouts_asks(tmp_path):
    root = bids(nnunet(tmp_path), [("01", "")])
    assert line(read_dataset, root) == (
        f"{root}: shows more than one layout: dataset.json (nnunet), sub-* folders (bids). Set "
        f"data.layout to the one to read."
    )
    assert read_dataset(root, "nnunet").layout == "nnunet"


@pytest.mark.parametrize("held", ["images", "labels"])
def test_images_without_labels_and_labels_without_images_show_no_layout(tmp_path, held):
    save(tmp_path / held / "a.nii.gz", image_of(SHAPE))
    assert "no layout was recognised. Looked for dataset.json" in line(read_dataset, tmp_path)


def test_a_folder_that_shows_none_says_what_was_looked_for(tmp_path):
    save(tmp_path / "scans" / "a.nii.gz", image_of(SHAPE))
    assert line(read_dataset, tmp_path) == (
        f"{tmp_path}: no layout was recognised. Looked for dataset.json (MSD, nnU-Net), cases.csv "
        f"or cases.tsv or cases.json (list), BraTS*/BraTS*_flair files (BraTS), sub-* folders "
        f"(BIDS), folders images and labels (folder); it holds scans. Is it one folder further "
        f"down? Else write a list (data.case_list) or patterns (data.image_pattern)."
    )


@pytest.mark.parametrize("layout", ["auto", "msd", "brats", "bids", "list", "folder"])
def test_a_root_that_is_not_there(tmp_path, layout):
    assert line(read_dataset, tmp_path / "no", layout).startswith(f"{tmp_path}/no: does not exist.")


def test_a_pattern_of_exclusion_that_meets_nothing_is_refused(tmp_path):
    root = nnunet(tmp_path, cases=("c1", "c2"))
    assert read_dataset(root, exclude=["c2"]).case_ids == ("c1",)
    assert line(read_dataset, root, exclude=["c22"]) == (
        "data.exclude: c22 meets no case. Did you mean c2?"
    )
    assert read_dataset(msd(tmp_path / "m"), exclude=["c3"]).case_ids == ("c1", "c2")


def test_values_that_nobody_names_are_taken_as_they_are_found(tmp_path):
    root = plain(tmp_path, ["images/a.nii", "images/b.nii"])
    save(root / "labels" / "a.nii", label_of(SHAPE, (0, 5, 117)))
    save(root / "labels" / "b.nii", np.where(label_of(SHAPE), 300, 0).astype(np.int16))
    scheme = read_dataset(root, labels="auto").scheme
    assert scheme == LabelScheme(
        ("background", "label 5", "label 117", "label 300"), (0, 5, 117, 300)
    )
    ignored = read_dataset(root, labels="auto", ignore_values=(117,)).scheme
    assert (ignored.values, ignored.ignore_values) == ((0, 5, 300), (117,))


def test_values_that_cannot_be_labels_are_not_taken(tmp_path):
    root = plain(tmp_path, ["images/a.nii"])
    save(root / "labels" / "a.nii", np.ones(SHAPE, np.uint8))
    assert line(read_dataset, root, labels="auto") == (
        "data.labels: auto found 1 values (1) in 1 labels. Expected 0 for background and 1 to 254 "
        "others; name them in data.labels."
    )
    save(root / "labels" / "a.nii", np.arange(6 * 10 * 5, dtype=np.int16).reshape(6, 10, 5))
    assert "auto found 300 values (0,1,2,3,4,5,6,7,...)" in line(read_dataset, root, labels="auto")


def test_labels_nobody_declared_must_be_named(tmp_path):
    root = plain(tmp_path, ["images/a.nii"], ["labels/a.nii"])
    assert line(read_dataset, root) == (
        f"{root}: data.labels is not set, and these files do not tell what their values mean. "
        f"Write data.labels: {{background: 0, lesion: 1}}, a preset, or auto for the values found."
    )


def test_a_folder_that_links_to_itself_is_walked_once(tmp_path):
    file = save(tmp_path / "a" / "x.nii.gz", image_of(SHAPE))
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a")
    assert walk_volumes(tmp_path) == [file]


def test_a_folder_of_nrrd_and_metaimage_files_is_listed(tmp_path):
    for name in ("a.nrrd", "b.mha", "c.mhd", "d.nii.gz", "e.raw", "._a.nrrd"):
        (tmp_path / name).write_bytes(b"")
    assert [case.case_id for case in list_inputs(tmp_path, ("CT",))] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("ending", [".NII.GZ", ".NII", ".Nii.gz"])
def test_endings_are_read_in_letters_of_either_size(tmp_path, ending):
    labels = {"background": 0, "x": 1}
    root = plain(tmp_path / "f", ["images/a.nii", "images/b.nii"], ["labels/a.nii", "labels/b.nii"])
    for name in ("images/b", "labels/b"):
        (root / f"{name}.nii").rename(root / f"{name}{ending}")
    dataset = read_dataset(root, labels=labels)
    assert dataset.case_ids == ("a", "b")
    assert (load_case(dataset.cases[1], dataset.scheme, ("CT",)).image == image_of(SHAPE, 1)).all()
    assert [case.case_id for case in list_inputs(root / "images", ("CT",))] == ["a", "b"]
    (case,) = list_inputs(root / "images" / f"b{ending}", ("CT",))
    assert case.case_id == "b"
    row = {"id": "b", "scan": f"images/b{ending}", "label": f"labels/b{ending}"}
    listed = write_rows(root / "my.CSV", [row])
    rules = FileRules(case_list=listed)
    assert read_dataset(root, labels=labels, rules=rules).channels == ("scan",)
    assert [case.case_id for case in list_inputs(listed, ("scan",))] == ["b"]
    raw = bids(tmp_path / "bids", [("01", "")], channels=("dwi",))
    for path in list(raw.rglob("*.nii.gz")):
        path.rename(path.with_name(path.name.removesuffix(".nii.gz") + ending))
    held = read_dataset(raw, labels=labels, rules=FileRules(["dwi"]))
    assert held.case_ids == ("sub-01",)
    old = brats(tmp_path / "brats", ["BraTS20_001"], ending=".nii")
    for path in list(old.rglob("*.nii")):
        path.rename(path.with_name(path.name.removesuffix(".nii") + ending))
    assert read_dataset(old).case_ids == ("BraTS20_001",)


def test_a_pattern_that_names_an_ending_takes_that_one_alone(tmp_path):
    root = plain(tmp_path, ["images/a.nii", "images/b.nii.gz"], ["labels/a.nii", "labels/b.nii.gz"])
    (root / "images" / "a.nii").rename(root / "images" / "a.NII")
    (root / "labels" / "a.nii").rename(root / "labels" / "a.NII")
    for ending, case in ((".nii.gz", "b"), (".NII", "a")):
        rules = FileRules(
            image_pattern=f"images/{{case}}{ending}", label_pattern=f"labels/{{case}}{ending}"
        )
        assert read_dataset(root, labels={"background": 0, "x": 1}, rules=rules).case_ids == (case,)


@pytest.mark.parametrize(("name", "synthetic"), [("my_Phantom", True), ("clinic", False)])
def test_a_folder_is_a_phantom_by_its_name_alone(tmp_path, name, synthetic):
    root = plain(tmp_path / name, ["images/a.nii"], ["labels/a.nii"])
    assert read_dataset(root, labels={"background": 0, "x": 1}).synthetic is synthetic


def test_labels_larger_than_is_believed_are_not_read_for_their_values(tmp_path):
    root = plain(tmp_path, ["images/a.nii"], ["labels/a.nii"])
    num_voxels = SHAPE[0] * SHAPE[1] * SHAPE[2]
    assert read_dataset(root, labels="auto", max_voxels=num_voxels).scheme.values == (0, 1)
    assert f"{num_voxels - 1}" in line(read_dataset, root, labels="auto", max_voxels=num_voxels - 1)


def test_a_list_may_be_called_csv(tmp_path):
    root = plain(tmp_path, ["a.nii"], ["b.nii"])
    write_rows(root / "cases.csv", [{"id": "a", "image": "a.nii", "label": "b.nii"}])
    assert read_dataset(root, "csv", {"background": 0, "x": 1}).layout == "list"


@pytest.mark.parametrize(
    ("layout", "rules", "setting", "where"),
    [
        ("nnunet", FileRules(image_pattern="i/{case}"), "data.image_pattern", "folder"),
        ("msd", FileRules(label_pattern="l/{case}"), "data.label_pattern", "folder or bids"),
        ("brats", FileRules(case_list=Path("c.csv")), "data.case_list", "list"),
    ],
)
def test_a_rule_that_a_layout_does_not_know_is_refused(tmp_path, layout, rules, setting, where):
    assert line(read_dataset, nnunet(tmp_path), layout, rules=rules) == (
        f"{setting}: means nothing in layout {layout}. Take it out, or set data.layout: {where}."
    )
