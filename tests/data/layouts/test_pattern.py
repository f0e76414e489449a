import pytest

from segfocal.data.layouts import list_inputs, read_dataset
from segfocal.data.layouts.found import FileRules
from segfocal.errors import UserError

from .trees import plain

LABELS = {"background": 0, "lesion": 1}


def read(root, images=None, labels=None, channels=None, **options):
    rules = FileRules(channels, image_pattern=images, label_pattern=labels)
    return read_dataset(root, "folder", LABELS, rules=rules, **options)


def line(root, *arguments, **options):
    with pytest.raises(UserError) as caught:
        read(root, *arguments, **options)
    return str(caught.value)


def names(case):
    return [path.name for path in case.images]


def test_images_and_labels_of_one_name_need_no_pattern(tmp_path):
    files = ["images/a.nii.gz", "images/b.nii"]
    root = plain(tmp_path, files, ["labels/a.nii", "labels/b.nii.gz"])
    (root / "images" / "._a.nii.gz").write_bytes(b"junk")
    dataset = read_dataset(root, labels=LABELS)
    assert (dataset.layout, dataset.channels) == ("folder", ("image",))
    assert [(case.case_id, names(case), case.label.name) for case in dataset.cases] == [
        ("a", ["a.nii.gz"], "a.nii"),
        ("b", ["b.nii"], "b.nii.gz"),
    ]


def test_case_and_channel_stand_anywhere_in_a_path(tmp_path):
    cases = ("p_1", "p_2")
    images = [f"site{i}/{c}/{c}_{k}.nii.gz" for i, c in enumerate(cases) for k in ("t1", "t1_gd")]
    root = plain(tmp_path, images, [f"site{i}/{c}/{c}_seg.nii.gz" for i, c in enumerate(cases)])
    dataset = read(
        root, "*/{case}/{case}_{channel}.nii.gz", "*/{case}/{case}_seg.nii.gz", ["t1_gd", "t1"]
    )
    assert dataset.channels == ("t1_gd", "t1")
    assert dataset.case_ids == cases
    assert names(dataset.cases[1]) == ["p_2_t1_gd.nii.gz", "p_2_t1.nii.gz"]
    deep = read(root, "**/{case}_{channel}", "**/{case}_seg", ["t1_gd", "t1"])
    assert deep.cases == dataset.cases


def test_a_pattern_for_each_channel(tmp_path):
    root = plain(tmp_path, ["flair/1.nii.gz", "x/1_T1.nii.gz"], ["seg/1.nii.gz"])
    dataset = read(root, {"FLAIR": "flair/{case}", "T1w": "x/{case}_T1"}, "seg/{case}")
    assert dataset.channels == ("FLAIR", "T1w")
    assert names(dataset.cases[0]) == ["1.nii.gz", "1_T1.nii.gz"]


def test_a_file_that_fits_two_channels_is_of_the_first(tmp_path):
    root = plain(tmp_path, ["i/a_t1.nii", "i/a_t1ce.nii"], ["l/a.nii"])
    dataset = read(root, {"T1ce": "i/{case}_t1ce", "T1": "i/{case}_t1*"}, "l/{case}")
    assert names(dataset.cases[0]) == ["a_t1ce.nii", "a_t1.nii"]


def test_a_file_may_hold_every_channel_that_is_named(tmp_path):
    root = plain(tmp_path, ["images/a.nii", "images/b.nii"], ["labels/a.nii", "labels/b.nii"])
    dataset = read(root, channels=["x", "y"])
    assert dataset.channels == ("x", "y")
    assert [(names(case), case.missing) for case in dataset.cases] == [
        (["a.nii"], ()),
        (["b.nii"], ()),
    ]


def test_a_label_that_lies_there_twice_is_told_beside_the_other_cases(tmp_path):
    root = plain(tmp_path, ["i/a.nii", "i/b.nii"], ["l/a.nii", "l/b.nii", "l/b.nii.gz"])
    dataset = read(root, "i/{case}", "l/{case}", keep_incomplete=True)
    assert dataset.case_ids == ("a", "b")
    assert [fault.split(" are both ")[1] for fault in dataset.faults] == [
        "labels of b. Remove one, or mend the pattern."
    ]


def test_a_label_is_looked_for_where_the_pattern_says(tmp_path):
    root = plain(tmp_path, ["i/a.nii", "i/b.nii"], ["l/a_seg.nii"])
    dataset = read(root, "i/{case}", "l/{case}_seg", keep_incomplete=True)
    assert [[file.expected for file in case.missing] for case in dataset.cases] == [
        [],
        ["l/b_seg.nii.gz"],
    ]


def test_a_label_beside_its_image_is_not_an_image(tmp_path):
    root = plain(tmp_path, ["a.nii.gz", "b.nii.gz"], ["a_seg.nii.gz", "b_seg.nii.gz"])
    assert read(root, "{case}", "{case}_seg").case_ids == ("a", "b")


def test_every_case_that_lacks_files_is_named(tmp_path):
    root = plain(
        tmp_path, ["i/a_x.nii", "i/a_y.nii", "i/b_x.nii", "i/c_x.nii", "i/c_y.nii"],
        ["l/a.nii", "l/b.nii", "l/d.nii"],
    )  # fmt: skip
    arguments = ("i/{case}_{channel}", "l/{case}", ["x", "y"])
    assert line(root, *arguments) == (
        f"{root}: 3 cases lack files: b (y), c (label), d (x, y). Expected i/{{case}}_{{channel}} "
        f"and l/{{case}}. Add the files, or leave the cases out by data.exclude."
    )
    assert read(root, *arguments, exclude=["[bcd]"]).case_ids == ("a",)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ("i/x.nii", "l/{case}", "data.image_pattern: i/x.nii has no {case}. Expected e.g."),
        ("i/{case}", "l/x.nii", "data.label_pattern: l/x.nii has no {case}. Expected e.g."),
        ("i/{name}", "l/{case}", "data.image_pattern: {name} has no meaning here. Known: {case}"),
        ("i/{case}", "l/{case}_{channel}", "data.label_pattern: {channel} has no meaning here."),
        ("i/{case}_{channel}", "l/{case}", "data.channels is not set: data.image_pattern has"),
        ("j/{case}", "l/{case}", "data.image_pattern: j/{case} meets no file in "),
        ({}, "l/{case}", "data.image_pattern: names no channel."),
    ],
)
def test_a_pattern_that_cannot_work_says_why(tmp_path, images, labels, message):
    root = plain(tmp_path, ["i/a.nii"], ["l/a.nii"])
    assert line(root, images, labels).startswith(message)


def test_two_files_in_one_place_are_refused(tmp_path):
    root = plain(tmp_path, ["i/1/a.nii", "i/2/a.nii"], ["l/a.nii"])
    assert "i/1/a.nii and " in line(root, "i/*/{case}", "l/{case}")
    assert "are both image of one case. Remove one" in line(root, "i/*/{case}", "l/{case}")


def test_inputs_are_found_by_the_trainings_pattern_where_it_fits(tmp_path):
    root = plain(tmp_path / "a", ["new/a_x.nii", "new/a_y.nii"])
    pattern = "*/{case}_{channel}"
    (case,) = list_inputs(root, ("y", "x"), image_pattern=pattern)
    assert names(case) == ["a_y.nii", "a_x.nii"]
    flat = plain(tmp_path / "b", ["scan_1.nii"])
    (case,) = list_inputs(flat, ("y",), image_pattern=pattern)
    assert case.case_id == "scan_1"


def test_labels_beside_the_images_are_no_inputs(tmp_path):
    root = plain(tmp_path / "a", ["a.nii", "b.nii"], ["a_seg.nii", "b_seg.nii"])
    patterns = {"image_pattern": "{case}", "label_pattern": "{case}_seg"}
    assert [case.case_id for case in list_inputs(root, ("CT",), **patterns)] == ["a", "b"]
    alone = plain(tmp_path / "b", [], ["x_seg.nii"])
    assert [case.case_id for case in list_inputs(alone, ("CT",), **patterns)] == ["x_seg"]
    patterns = {"image_pattern": "i/{case}_{channel}.nii", "label_pattern": "{case}.nii"}
    flat = plain(tmp_path / "c", ["a_CT.nii"])
    assert [case.case_id for case in list_inputs(flat, ("CT",), **patterns)] == ["a"]


def test_inputs_named_as_the_training_was_are_found_in_other_folders(tmp_path):
    pattern = "train/*/*/{case}_{channel}.nii.gz"
    files = [f"P1_T1_{channel}.nii.gz" for channel in ("FLAIR", "T1", "MASK")]
    plain(tmp_path, [f"{place}/{name}" for place in ("flat", "new/P1/T2") for name in files])
    for root in ("flat", "new", "new/P1"):
        (case,) = list_inputs(tmp_path / root, ("T1", "FLAIR"), image_pattern=pattern)
        assert case.case_id == "P1_T1"
        assert names(case) == ["P1_T1_T1.nii.gz", "P1_T1_FLAIR.nii.gz"]
    (tmp_path / "flat" / "P1_T1_T1.nii.gz").unlink()
    with pytest.raises(UserError, match=r"1 case lacks files: P1_T1 \(T1\)\. .* Add them\.$"):
        list_inputs(tmp_path / "flat", ("T1", "FLAIR"), image_pattern=pattern)


def test_a_name_that_does_not_tell_case_and_channel_fits_no_other_folder(tmp_path):
    flat = plain(tmp_path / "flat", ["a_0000.nii.gz", "a_0001.nii.gz"])
    for pattern in ("{channel}/{case}.nii.gz", "{case}/{channel}.nii.gz"):
        (case,) = list_inputs(flat, ("x", "y"), image_pattern=pattern)
        assert (case.case_id, len(case.images)) == ("a", 2)
