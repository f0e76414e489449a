import json
import unicodedata
import warnings

import numpy as np
import pytest

from segfocal.data.layouts import list_inputs, read_dataset
from segfocal.data.verify import load_case
from segfocal.errors import SegfocalWarning, UserError
from segfocal.labels import LabelScheme

from .nifti_files import image_of, label_of, msd, nnunet, save, write_json


def line_of(call, *args, **kwargs):
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit(root, **override):
    path = root / "dataset.json"
    write_json(path, json.loads(path.read_text()) | override)
    return root


def drop(root, key):
    path = root / "dataset.json"
    plain = json.loads(path.read_text())
    del plain[key]
    write_json(path, plain)
    return root


def ids(cases):
    return [case.case_id for case in cases]


def test_msd_declares_channels_labels_and_cases(tmp_path):
    root = msd(tmp_path / "Task", cases=("b", "c", "a"), values=(0, 1, 2))
    dataset = read_dataset(root)
    assert dataset.layout == "msd"
    assert dataset.name == "Toy"
    assert dataset.channels == ("FLAIR", "T1w")
    assert dataset.scheme == LabelScheme(("background", "class1", "class2"), (0, 1, 2))
    assert dataset.case_ids == ("a", "b", "c")
    assert dataset.cases[0].images == (root / "imagesTr" / "a.nii.gz",)
    assert dataset.cases[0].label == root / "labelsTr" / "a.nii.gz"
    assert dataset.synthetic is False
    loaded = load_case(dataset.cases[1], dataset.scheme, dataset.channels)
    assert loaded.image.shape == (2, 6, 5, 4)
    np.testing.assert_array_equal(loaded.classes, label_of((6, 5, 4), (0, 1, 2), seed=0))


def test_msd_channels_are_ordered_by_number_not_by_place(tmp_path):
    names = {str(i): f"ch{i}" for i in (10, 2, 0, 1, 3, 4, 5, 6, 7, 8, 9)}
    root = edit(msd(tmp_path), modality=names)
    assert read_dataset(root).channels == tuple(f"ch{i}" for i in range(11))


def test_nnunet_declares_channels_labels_and_pairs_cases(tmp_path):
    root = nnunet(tmp_path / "Dataset007_Toy")
    dataset = read_dataset(root)
    assert dataset.layout == "nnunet"
    assert dataset.name == "Dataset007_Toy"
    assert dataset.channels == ("CT", "PET")
    assert dataset.scheme == LabelScheme(("background", "tumour"), (0, 1))
    assert ids(dataset.cases) == ["c1", "c2"]
    assert [p.name for p in dataset.cases[1].images] == ["c2_0000.nii.gz", "c2_0001.nii.gz"]
    loaded = load_case(dataset.cases[1], dataset.scheme, dataset.channels)
    np.testing.assert_array_equal(loaded.image[1], image_of((6, 5, 4), 11))


def test_nnunet_regions_and_ignore_are_read(tmp_path):
    labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    scheme = read_dataset(nnunet(tmp_path, labels=labels, regions_class_order=[1, 2])).scheme
    assert scheme.region_table == ((1, 2), (2,))
    assert [region.paint for region in scheme.regions] == [1, 2]
    assert scheme.ignore_values == (3,)


def test_msd_label_named_ignore_is_ignored(tmp_path):
    labels = {"0": "background", "1": "tumour", "2": "ignore"}
    scheme = read_dataset(msd(tmp_path, labels=labels)).scheme
    assert scheme.names == ("background", "tumour")
    assert scheme.ignore_values == (2,)


def test_the_callers_labels_override_the_file(tmp_path):
    root = msd(tmp_path, values=(0, 1, 2, 3))
    assert read_dataset(root, labels="msd-task01").scheme == LabelScheme.preset("msd-task01")
    regions = {"background": 0, "all": [1, 2, 3], "inner": [3]}
    scheme = read_dataset(root, labels=regions, regions_class_order=[1, 3]).scheme
    assert [region.paint for region in scheme.regions] == [1, 3]
    scheme = read_dataset(root, labels={"background": 0, "tumour": 1}, ignore_values=(2, 3)).scheme
    assert scheme.ignore_values == (2, 3)


@pytest.mark.parametrize(
    ("labels", "classes", "ignored"),
    [
        ("msd-task01", (0, 1, 2, 3), (9,)),
        ({"background": 0, "any": [1, 2, 3], "inner": [2, 3], "core": 3}, (0, 1, 2, 3), (9,)),
        ({"background": 0, "tumour": [1, 2, 3], "artefact": 9}, (0, 1, 2, 3, 9), ()),
        ("auto", (0, 1, 2, 3), (9,)),
    ],
)
def test_what_the_file_calls_ignore_is_no_class_whatever_the_caller_calls_the_rest(
    tmp_path, labels, classes, ignored
):
    declared = {"0": "background", "1": "a", "2": "b", "3": "c", "9": "Ignore"}
    root = msd(tmp_path, values=(0, 1, 2, 3, 9), labels=declared)
    order = [1, 9] if ignored == () else None
    scheme = read_dataset(root, labels=labels, regions_class_order=order).scheme
    assert (scheme.values, scheme.ignore_values) == (classes, ignored)


def test_labels_of_the_file_that_cannot_be_read_matter_to_nobody_who_tells_his_own(tmp_path):
    root = msd(tmp_path, values=(0, 1), labels={"0": "background", "one": "tumour"})
    told = {"background": 0, "tumour": 1}
    assert read_dataset(root, labels=told).scheme == LabelScheme(("background", "tumour"), (0, 1))


def test_ignored_values_join_those_of_the_file(tmp_path):
    root = msd(tmp_path, values=(0, 1, 2))
    scheme = read_dataset(root, ignore_values=(2, -1)).scheme
    assert scheme.names == ("background", "class1")
    assert scheme.ignore_values == (-1, 2)


@pytest.mark.parametrize(
    ("override", "synthetic"),
    [
        ({"synthetic": True}, True),
        ({"name": "segfocal PHANTOM v1"}, True),
        ({"synthetic": False}, False),
        ({}, False),
    ],
)
def test_a_phantom_is_known_by_its_key_or_its_name(tmp_path, override, synthetic):
    assert read_dataset(msd(tmp_path, **override)).synthetic is synthetic


@pytest.mark.parametrize("make", [msd, nnunet])
def test_files_that_macos_leaves_behind_are_passed_over(tmp_path, make):
    root = make(tmp_path, cases=("c1", "c2"))
    for folder in ("imagesTr", "labelsTr"):
        for path in list((root / folder).iterdir()):
            (root / folder / f"._{path.name}").write_bytes(b"junk")
    assert ids(read_dataset(root).cases) == ["c1", "c2"]
    assert ids(list_inputs(root / "imagesTr", read_dataset(root).channels)) == ["c1", "c2"]


def test_msd_entries_that_macos_left_behind_are_passed_over(tmp_path):
    root = msd(tmp_path)
    plain = json.loads((root / "dataset.json").read_text())
    plain["training"].append({"image": "imagesTr/._c1.nii.gz", "label": "labelsTr/._c1.nii.gz"})
    write_json(root / "dataset.json", plain)
    assert ids(read_dataset(root).cases) == ["c1", "c2", "c3"]


@pytest.mark.parametrize("make", [msd, nnunet])
def test_another_number_of_cases_warns_and_goes_on(tmp_path, make):
    root = make(tmp_path, cases=("c1", "c2"), numTraining=484)
    with pytest.warns(SegfocalWarning, match="numTraining is 484, but there are 2 cases"):
        dataset = read_dataset(root)
    assert len(dataset.cases) == 2


def odd_ending(root):
    """Case c2 of an nnU-Net data set, renamed to end in .nii."""
    for path in [*root.glob("imagesTr/c2_*"), root / "labelsTr/c2.nii.gz"]:
        path.rename(path.with_suffix(""))
    return root


def test_nnunet_volumes_of_another_ending_are_named(tmp_path):
    root = odd_ending(nnunet(tmp_path, numTraining=2))
    with pytest.warns(SegfocalWarning) as caught:
        assert ids(read_dataset(root).cases) == ["c1"]
    assert [str(warning.message) for warning in caught] == [
        (
            f"{root / 'dataset.json'}: numTraining is 2, but there is 1 case. 3 volumes do not end "
            f"in .nii.gz (file_ending), passed over: imagesTr/c2_0000.nii, imagesTr/c2_0001.nii, "
            f"labelsTr/c2.nii. Convert or move them."
        )
    ]


def test_nnunet_volumes_of_another_ending_are_named_where_the_count_is_right(tmp_path):
    root = odd_ending(nnunet(tmp_path, cases=("c1", "c2"), numTraining=1))
    with pytest.warns(SegfocalWarning, match=r"dataset.json: 3 volumes do not end in .nii.gz"):
        read_dataset(root)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("a", "1 volume does not end in .nii.gz (file_ending), passed over: imagesTr/a.nii. Conv"),
        ("abcd", "imagesTr/a.nii, imagesTr/b.nii, imagesTr/c.nii, imagesTr/d.nii. Convert or move"),
        ("abcde", "imagesTr/c.nii, imagesTr/d.nii and 1 more. Convert or move them."),
        ("A", ""),
    ],
)
def test_of_nnunet_volumes_of_another_ending_four_are_named(tmp_path, names, told):
    root = nnunet(tmp_path)
    for name in names:
        (root / "imagesTr" / f"{name}.nii").write_bytes(b"")
    if names == "A":
        (root / "imagesTr" / "A.nii").rename(root / "imagesTr" / "A.NII.GZ")
        told = "1 volume does not end in .nii.gz (file_ending), passed over: imagesTr/A.NII.GZ. "
    with pytest.warns(SegfocalWarning) as caught:
        assert ids(read_dataset(root).cases) == ["c1", "c2"]
    assert told in str(caught[0].message)


def test_nnunet_without_a_volume_of_its_ending_says_what_there_is(tmp_path):
    root = nnunet(tmp_path, file_ending=".nii")
    assert line_of(read_dataset, root).endswith(
        "imagesTr holds no .nii file. 6 volumes do not end in .nii (file_ending), passed over: "
        "imagesTr/c1_0000.nii.gz, imagesTr/c1_0001.nii.gz, imagesTr/c2_0000.nii.gz, "
        "imagesTr/c2_0001.nii.gz and 2 more. Convert or move them."
    )


def test_nnunet_copies_of_another_ending_are_passed_over_in_silence(tmp_path):
    root = nnunet(tmp_path)
    for path in [*root.glob("*Tr/*.nii.gz")]:
        path.with_suffix("").write_bytes(b"")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ids(read_dataset(root).cases) == ["c1", "c2"]


def test_a_file_without_a_case_count_reads_without_a_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_dataset(msd(tmp_path, numTraining=None))


def test_the_layout_is_chosen_by_what_the_file_says_and_can_be_forced(tmp_path):
    root = nnunet(tmp_path, training=[{"image": "gone.nii.gz", "label": "gone.nii.gz"}])
    assert read_dataset(root).layout == "nnunet"
    assert "2 files are missing: gone.nii.gz" in line_of(read_dataset, root, "msd")
    assert line_of(read_dataset, root, "dicom") == (
        "data.layout: expected auto, msd, nnunet, brats, bids, list, folder, got 'dicom'."
    )


def test_nnunet_v1_lists_cases_whose_channels_are_files(tmp_path):
    root = nnunet(tmp_path)
    write_json(
        root / "dataset.json",
        {
            "modality": {"0": "CT", "1": "PET"},
            "labels": {"0": "background", "1": "tumour"},
            "training": [{"image": "./imagesTr/c1.nii.gz", "label": "./labelsTr/c1.nii.gz"}],
        },
    )
    (case,) = read_dataset(root).cases
    assert [path.name for path in case.images] == ["c1_0000.nii.gz", "c1_0001.nii.gz"]


def test_nnunet_dataset_key_lists_the_files(tmp_path):
    root = nnunet(tmp_path)
    listed = {"z": {"images": ["imagesTr/c2_0001.nii.gz", "imagesTr/c1_0000.nii.gz"],
                    "label": "labelsTr/c1.nii.gz"}}  # fmt: skip
    (case,) = read_dataset(edit(root, dataset=listed, numTraining=1)).cases
    assert case.case_id == "z"
    assert [path.name for path in case.images] == ["c2_0001.nii.gz", "c1_0000.nii.gz"]


def test_a_dataset_json_with_the_backslashes_of_windows_is_read(tmp_path):
    entry = {"image": ".\\imagesTr\\c1.nii.gz", "label": "labelsTr\\c1.nii.gz"}
    (case,) = read_dataset(msd(tmp_path, training=[entry], numTraining=1)).cases
    assert case.case_id == "c1"
    assert case.images[0].samefile(tmp_path / "imagesTr" / "c1.nii.gz")
    assert case.label.samefile(tmp_path / "labelsTr" / "c1.nii.gz")


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_an_accent_is_the_same_in_dataset_json_and_in_a_files_name(tmp_path, form):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    root = msd(tmp_path, cases=[unicodedata.normalize(form, "M\u00fcller")])
    text = (root / "dataset.json").read_text(encoding="utf-8")
    plain = json.loads(text)
    name = unicodedata.normalize(other, plain["training"][0]["image"])
    assert name != plain["training"][0]["image"]
    edit(root, training=[plain["training"][0] | {"image": name}])
    (case,) = read_dataset(root).cases
    assert case.images[0].is_file()


def mistakes():
    good = {"image": "imagesTr/c1.nii.gz", "label": "labelsTr/c1.nii.gz"}
    outside = {"image": "../x.nii.gz", "label": "labelsTr/c1.nii.gz"}
    return [
        (msd, {"training": []}, "training: expected a list"),
        (msd, {"training": [good, good]}, "case c1 is listed twice"),
        (msd, {"training": ["imagesTr/c1.nii.gz"]}, "training: expected {"),
        (msd, {"training": [{"image": "imagesTr/c1.nii.gz"}]}, "training: expected {"),
        (msd, {"training": [good | {"image": 3}]}, "expected a file's path, got 3"),
        (msd, {"training": [outside]}, "../x.nii.gz lies outside the data set"),
        (msd, {"training": [good | {"label": "/etc/passwd"}]}, "/etc/passwd lies outside"),
        (msd, {"training": [good | {"label": "..\\x.nii.gz"}]}, "..\\x.nii.gz lies outside"),
        (msd, {"training": [good | {"label": "a/../../x"}]}, "a/../../x lies outside"),
        (msd, {"tensorImageSize": "2D"}, "tensorImageSize is 2D"),
        (msd, {"modality": {"0": "A", "2": "B"}}, "modality: expected the keys 0, 1, got 0, 2"),
        (msd, {"modality": {"0": "A", "1": "A"}}, "modality: 'A' names two channels"),
        (msd, {"modality": "A"}, 'modality: expected {"0": name'),
        (msd, {"labels": {"0": "background", "1": "background"}}, "'background' names two values"),
        (msd, {"labels": {"0": "background", "one": "x"}}, "expected value to name (MSD)"),
        (msd, {"labels": ["background"]}, "labels: expected an object"),
        (msd, {"labels": {"1": "tumour", "2": "core"}}, "no name has value 0"),
        (nnunet, {"labels": {"background": 0, "tumour": 1.5}}, "tumour: expected an integer"),
        (nnunet, {"labels": {"background": 0, "tumour": True}}, "tumour: expected an integer"),
        (nnunet, {"labels": {"background": 0, "tumour": []}}, "tumour: expected an integer"),
        (nnunet, {"labels": {"background": 0, "a": 1, "b": 1}}, "value 1 is declared twice"),
        (nnunet, {"regions_class_order": "1,2"}, "regions_class_order: expected a list"),
        (nnunet, {"file_ending": ".png"}, "file_ending: segfocal reads .nii.gz, .nii, .nrrd, .mha"),
        (nnunet, {"file_ending": ".png"}, "got '.png'. Convert the files to NIfTI."),
        (nnunet, {"file_ending": "nii.gz"}, "got 'nii.gz'. Write '.nii.gz'."),
        (nnunet, {"file_ending": ".nrrd"}, "imagesTr holds no .nrrd file"),
        (nnunet, {"dataset": []}, "dataset: expected {"),
        (nnunet, {"dataset": {}}, "dataset: expected {"),
        (nnunet, {"dataset": ["c1"]}, "dataset: expected {"),
        (nnunet, {"dataset": {"z": {"images": ["a"]}}}, "dataset: z: expected {"),
        (nnunet, {"dataset": {"z": {"images": ["a"], "label": "b"}}}, "dataset: z: has 1 images"),
        (
            nnunet,
            {"dataset": {"z": {"images": ["../a", "b"], "label": "b"}}},
            "../a lies outside the data set",
        ),
        (
            nnunet,
            {"dataset": {"z": {"images": ["a.nii", "b.nii"], "label": "c.nii"}}},
            "3 files are missing: a.nii, b.nii, c.nii.",
        ),
    ]


@pytest.mark.parametrize(("make", "override", "text"), mistakes())
def test_a_mistake_in_dataset_json_is_one_line_that_names_it(tmp_path, make, override, text):
    root = edit(make(tmp_path), **override)
    line = line_of(read_dataset, root)
    assert line.startswith(f"{root / 'dataset.json'}: ")
    assert text in line


def test_a_missing_key_names_the_one_meant(tmp_path):
    root = msd(tmp_path, label={"0": "background", "1": "tumour"}, labels=None)
    assert line_of(read_dataset, root) == (
        f"{root}/dataset.json: key 'labels' is missing. Did you mean it by 'label'?"
    )
    root = drop(nnunet(tmp_path / "n"), "channel_names")
    assert "key 'channel_names' or 'modality' is missing. Add it." in line_of(read_dataset, root)


def test_a_syntax_error_in_dataset_json_names_the_line(tmp_path):
    root = msd(tmp_path)
    (root / "dataset.json").write_text('{\n"name": "x",\n"labels": {,}\n}')
    assert line_of(read_dataset, root).startswith(f"{root}/dataset.json:3: is not valid JSON")


def test_missing_folders_and_files_are_named(tmp_path):
    assert "nope: does not exist" in line_of(read_dataset, tmp_path / "nope")
    assert "has no dataset.json" in line_of(read_dataset, tmp_path, "msd")
    (tmp_path / "f").write_text("")
    assert "f: is a file" in line_of(read_dataset, tmp_path / "f")
    root = nnunet(tmp_path / "n")
    (root / "imagesTr").rename(root / "images")
    assert "imagesTr: cannot be read: No such file" in line_of(read_dataset, root)
    (root / "imagesTr").mkdir()
    assert "imagesTr holds no .nii.gz file" in line_of(read_dataset, root)


def test_msd_files_that_are_missing_are_named(tmp_path):
    root = msd(tmp_path)
    (root / "labelsTr" / "c2.nii.gz").unlink()
    assert "1 file is missing: labelsTr/c2.nii.gz. Copy" in line_of(read_dataset, root)
    for path in [*(root / "labelsTr").iterdir(), *(root / "imagesTr").iterdir()]:
        path.unlink()
    line = line_of(read_dataset, root)
    assert "6 files are missing: imagesTr/c1.nii.gz, " in line
    assert line.count("nii.gz") == 6


def test_nnunet_partners_that_are_missing_are_named(tmp_path):
    root = nnunet(tmp_path)
    expected = (
        "Expected imagesTr/CASE_0000 to _0001.nii.gz and labelsTr/CASE.nii.gz. Add the files, or "
        "leave the cases out by data.exclude."
    )
    (root / "imagesTr" / "c1_0001.nii.gz").unlink()
    (root / "labelsTr" / "c2.nii.gz").unlink()
    assert line_of(read_dataset, root) == (
        f"{root}/dataset.json: 2 cases lack files: c1 (PET), c2 (label). {expected}"
    )
    (root / "imagesTr" / "c1_0000.nii.gz").unlink()
    assert line_of(read_dataset, root, exclude=["c2"]) == (
        f"{root}/dataset.json: 1 case lacks files: c1 (CT, PET). {expected}"
    )


def test_nnunet_channel_beyond_the_declared_is_refused(tmp_path):
    root = nnunet(tmp_path)
    save(root / "imagesTr" / "c1_0002.nii.gz", image_of((6, 5, 4)))
    assert "c1_0002.nii.gz: is channel 2, but there are 2 channels (CT, PET)" in line_of(
        read_dataset, root
    )
    (root / "imagesTr" / "c1_0002.nii.gz").rename(root / "imagesTr" / "notes.nii.gz")
    assert "notes.nii.gz: has no channel number" in line_of(read_dataset, root)


def test_inputs_of_an_msd_folder_are_its_test_list_else_imagests(tmp_path):
    root = msd(tmp_path, test=["./imagesTs/t2.nii.gz", "./imagesTs/t1.nii.gz"])
    for name in ("t1", "t2", "t3"):
        save(root / "imagesTs" / f"{name}.nii.gz", image_of((6, 5, 4, 2)))
    cases = list_inputs(root, ("FLAIR", "T1w"))
    assert ids(cases) == ["t1", "t2"]
    assert all(case.label is None for case in cases)
    edit(root, test=[])
    assert ids(list_inputs(root, ("FLAIR", "T1w"))) == ["t1", "t2", "t3"]
    edit(root, test=["imagesTs/t9.nii.gz"])
    assert "1 file is missing: imagesTs/t9.nii.gz" in line_of(list_inputs, root, ("FLAIR", "T1w"))


def test_inputs_of_an_nnunet_folder_are_grouped_by_case(tmp_path):
    root = nnunet(tmp_path)
    (root / "imagesTr").rename(root / "imagesTs")
    for path in (root, root / "imagesTs"):
        cases = list_inputs(path, ("CT", "PET"))
        assert ids(cases) == ["c1", "c2"]
        assert [p.name for p in cases[0].images] == ["c1_0000.nii.gz", "c1_0001.nii.gz"]


def test_a_dataset_folder_with_nothing_to_predict_says_what_to_pass(tmp_path):
    root = msd(tmp_path)
    (root / "imagesTr").rename(root / "scans")
    line = line_of(list_inputs, root, ("FLAIR", "T1w"))
    assert "has no test list, and there is neither imagesTs nor imagesTr" in line


def test_a_test_list_that_is_none_is_refused(tmp_path):
    root = msd(tmp_path, test={"a.nii.gz": 1})
    assert line_of(list_inputs, root, ("FLAIR", "T1w")) == (
        f"{root / 'dataset.json'}: test: expected a list of paths."
    )


def test_without_test_cases_the_labelled_ones_are_predicted(tmp_path):
    root = msd(tmp_path)
    cases = list_inputs(root, ("FLAIR", "T1w"))
    assert ids(cases) == ids(read_dataset(root).cases)
    assert all(case.label is None for case in cases)


def test_another_channel_order_than_the_checkpoints_is_refused(tmp_path):
    root = msd(tmp_path, channels=("FLAIR", "T1w", "T1gd", "T2w"))
    expected = (
        f"Channel order: {root}/dataset.json has FLAIR,T1w,T1gd,T2w; the checkpoint expects "
        f"T1gd,T1w,T2w,FLAIR. Name each channel's file in a list beside dataset.json (a .csv with "
        f"the columns id,T1gd,T1w,T2w,FLAIR) and pass that as -i; files that hold all channels "
        f"have to be written anew, in that order."
    )
    for path in (root, root / "imagesTr", root / "imagesTr" / "c1.nii.gz"):
        assert line_of(list_inputs, path, ("T1gd", "T1w", "T2w", "FLAIR")) == expected
    assert line_of(list_inputs, root, ("t1gd", "T1W", "T2w", "flair")) == expected.replace(
        "T1gd,T1w,T2w,FLAIR", "t1gd,T1W,T2w,flair"
    )
    assert line_of(list_inputs, root, ("CT",)).startswith("Channels: ")
    assert ids(list_inputs(root / "imagesTr", ("flair", "t1w", "t1gd", "t2w")))


def test_a_plain_folder_holds_one_case_a_file(tmp_path):
    save(tmp_path / "b.nii", image_of((4, 4, 4)))
    save(tmp_path / "a_001.nii.gz", image_of((4, 4, 4)))
    save(tmp_path / "patient_0012.nii.gz", image_of((4, 4, 4)))
    (tmp_path / "notes.txt").write_text("x")
    assert ids(list_inputs(tmp_path, ("CT",))) == ["a_001", "b", "patient_0012"]


def test_two_files_of_one_case_are_refused(tmp_path):
    save(tmp_path / "a.nii", image_of((4, 4, 4)))
    save(tmp_path / "a.nii.gz", image_of((4, 4, 4)))
    assert "a.nii and a.nii.gz are both case a" in line_of(list_inputs, tmp_path, ("CT",))
    save(tmp_path / "b_0000.nii", image_of((4, 4, 4)))
    save(tmp_path / "b_0000.nii.gz", image_of((4, 4, 4)))
    (tmp_path / "a.nii").unlink()
    (tmp_path / "a.nii.gz").unlink()
    assert "are the same channel" in line_of(list_inputs, tmp_path, ("CT",))


def test_a_folder_without_nifti_files_says_what_it_holds(tmp_path):
    assert line_of(list_inputs, tmp_path, ("CT",)) == (
        f"{tmp_path}: holds no volume (.nii.gz, .nii, .nrrd, .mha, .mhd)."
    )
    (tmp_path / "a.dcm").write_bytes(b"")
    assert "It holds .dcm files" in line_of(list_inputs, tmp_path, ("CT",))
    assert "nope: does not exist" in line_of(list_inputs, tmp_path / "nope", ("CT",))


def test_one_file_is_a_case_and_a_channel_file_brings_the_others(tmp_path):
    root = nnunet(tmp_path)
    single = save(tmp_path / "scan.nii.gz", image_of((4, 4, 4)))
    assert ids(list_inputs(single, ("CT",))) == ["scan"]
    for channel in (0, 1):
        (case,) = list_inputs(root / "imagesTr" / f"c2_{channel:04d}.nii.gz", ("CT", "PET"))
        assert case.case_id == "c2"
        assert [path.name for path in case.images] == ["c2_0000.nii.gz", "c2_0001.nii.gz"]
    (tmp_path / "scan.dcm").write_bytes(b"")
    assert "scan.dcm: expected a volume (.nii.gz" in line_of(
        list_inputs, tmp_path / "scan.dcm", ("CT",)
    )


def test_reading_a_data_set_opens_no_volume(tmp_path):
    root = msd(tmp_path)
    for path in (root / "imagesTr").iterdir():
        path.write_bytes(b"")
    assert len(read_dataset(root).cases) == 3
