"""What is wrong with files and rows: told beside the good cases by a survey, refused by a run."""

import shutil

import pytest

from segfocal.data.layouts import read_dataset
from segfocal.data.layouts.found import FileRules
from segfocal.data.verify import load_case
from segfocal.errors import UserError

from ..nifti_files import image_of, label_of, msd, nnunet, save
from .trees import SHAPE, bids, brats, plain, write_rows

LABELS = {"background": 0, "lesion": 1}


def _msd(root):
    msd(root)
    (root / "labelsTr/c2.nii.gz").unlink()
    (root / "imagesTr/c3.nii.gz").unlink()
    return {}, {
        "c1": {},
        "c2": {"label": "labelsTr/c2.nii.gz"},
        "c3": {"image": "imagesTr/c3.nii.gz"},
    }


def _msd_with_a_file_per_channel(root):
    msd(root, cases=("c1",))
    (root / "imagesTr/c1.nii.gz").rename(root / "imagesTr/c1_0001.nii.gz")
    return {}, {"c1": {"FLAIR": "imagesTr/c1_0000.nii.gz"}}


def _nnunet(root):
    nnunet(root, cases=("c1", "c2", "c3"))
    for name in ("imagesTr/c1_0001", "labelsTr/c2", "imagesTr/c3_0000", "imagesTr/c3_0001"):
        (root / f"{name}.nii.gz").unlink()
    return {}, {
        "c1": {"PET": "imagesTr/c1_0001.nii.gz"},
        "c2": {"label": "labelsTr/c2.nii.gz"},
        "c3": {"CT": "imagesTr/c3_0000.nii.gz", "PET": "imagesTr/c3_0001.nii.gz"},
    }


def _nnunet_list(root):
    listed = {
        case: {
            "images": [f"imagesTr/{case}_{channel:04d}.nii.gz" for channel in range(2)],
            "label": f"labelsTr/{case}.nii.gz",
        }
        for case in ("c1", "c2")
    }
    nnunet(root, dataset=listed)
    (root / "imagesTr/c2_0000.nii.gz").unlink()
    return {}, {"c1": {}, "c2": {"CT": "imagesTr/c2_0000.nii.gz"}}


def _brats(root):
    brats(root, ["HGG/BraTS20_Training_001", "HGG/BraTS20_Training_002"], values=(0, 1, 2, 4))
    for kind in ("t1ce", "seg"):
        (root / f"HGG/BraTS20_Training_001/BraTS20_Training_001_{kind}.nii.gz").unlink()
    stem = "HGG/BraTS20_Training_001/BraTS20_Training_001_"
    return {}, {
        "BraTS20_Training_001": {"T1gd": f"{stem}t1ce.nii.gz", "label": f"{stem}seg.nii.gz"},
        "BraTS20_Training_002": {},
    }


def _bids(root):
    bids(root, [("01", ""), ("02", "s"), ("03", "")], raw="rawdata")
    (root / "rawdata/sub-02/ses-s/anat/sub-02_ses-s_adc.nii.gz").unlink()
    (root / "derivatives/sub-03/sub-03_msk.nii.gz").unlink()
    suffixes = "mask,dseg,msk,seg,label,lesion,roi"
    return {"labels": LABELS, "rules": FileRules(("dwi", "adc"))}, {
        "sub-01": {},
        "sub-02_ses-s": {"adc": "rawdata/sub-02/ses-s/.../*_adc.nii.gz"},
        "sub-03": {"label": f"derivatives/.../sub-03/.../*_{{{suffixes}}}.nii.gz"},
    }


def _list(root):
    plain(root, ["a1.nii", "a2.nii", "b1.nii"], ["as.nii", "cs.nii"])
    rows = [
        {"id": "a", "flair": "a1.nii", "t1": "a2.nii", "label": "as.nii"},
        {"id": "b", "flair": "b1.nii", "t1": "b2.nii", "label": "bs.nii"},
        {"id": "c", "flair": "", "t1": "c2.nii", "label": "cs.nii"},
    ]
    write_rows(root / "cases.csv", rows)
    return {"labels": LABELS}, {
        "a": {},
        "b": {"t1": "b2.nii", "label": "bs.nii"},
        "c": {"flair": "a path in line 4 of cases.csv", "t1": "c2.nii"},
    }


def _folder(root):
    plain(root, ["i/a_x.nii", "i/a_y.nii", "i/b_x.nii"], ["l/a.nii", "l/b.nii", "l/d.nii"])
    rules = FileRules(("x", "y"), image_pattern="i/{case}_{channel}", label_pattern="l/{case}")
    return {"layout": "folder", "labels": LABELS, "rules": rules}, {
        "a": {},
        "b": {"y": "i/b_y.nii.gz"},
        "d": {"x": "i/d_x.nii.gz", "y": "i/d_y.nii.gz"},
    }


TREES = [_msd, _msd_with_a_file_per_channel, _nnunet, _nnunet_list, _brats, _bids, _list, _folder]


@pytest.mark.filterwarnings("ignore::segfocal.errors.SegfocalWarning")
@pytest.mark.parametrize("tree", TREES)
def test_incomplete_cases_are_kept_with_what_they_have_and_lack(tree, tmp_path):
    root = tmp_path / "data"
    options, expected = tree(root)
    dataset = read_dataset(root, **options, keep_incomplete=True)
    found = {case.case_id: {m.name: m.expected for m in case.missing} for case in dataset.cases}
    assert found == expected
    for case in dataset.cases:
        assert all(path.is_file() for path in (*case.images, *filter(None, [case.label])))
        assert (case.label is None) == ("label" in expected[case.case_id])
        if "image" in expected[case.case_id]:
            assert case.images == ()
        elif len(case.images) > 1 or case.missing:
            held = case.held(dataset.channels)
            assert held == tuple(n for n in dataset.channels if n not in expected[case.case_id])
            assert len(case.images) in (1, len(held)) or not held
    with pytest.raises(UserError) as caught:
        read_dataset(root, **options)
    assert "\n" not in str(caught.value)


def _stray_files(root):
    nnunet(root)
    save(root / "imagesTr/notes.nii.gz", image_of(SHAPE))
    save(root / "imagesTr/c1_0002.nii.gz", image_of(SHAPE))
    return {}, {"c1", "c2"}, ["c1_0002.nii.gz: is channel 2", "notes.nii.gz: has no channel number"]


def _entries_of_nnunet(root):
    good = {
        "images": [f"imagesTr/c1_{n:04d}.nii.gz" for n in range(2)],
        "label": "labelsTr/c1.nii.gz",
    }
    outside = {**good, "label": "../labelsTr/c1.nii.gz"}
    nnunet(root, dataset={"far": outside, "few": {**good, "images": []}, "c1": good, "none": 7})
    texts = ["lies outside the data set", "few: has 0 images", 'none: expected {"images"']
    return {}, {"c1"}, texts


def _entries_of_msd(root):
    pair = {"image": "imagesTr/c1.nii.gz", "label": "labelsTr/c1.nii.gz"}
    msd(root, training=[pair, {**pair, "image": "/etc/c2.nii.gz"}, pair, "c3"])
    texts = ["/etc/c2.nii.gz lies outside", "case c1 is listed twice", "got 'c3'"]
    return {}, {"c1"}, texts


def _rows(root):
    plain(root, ["a.nii"], ["s.nii"])
    row = {"id": "a", "image": "a.nii", "label": "s.nii"}
    rows = [{**row, "id": "b", "image": "../a.nii"}, row, row, {**row, "id": "c/d"}]
    write_rows(root / "cases.csv", rows)
    texts = ["line 2: ../a.nii lies outside", "line 4: case a is listed twice", "line 5: id 'c/d'"]
    return {"labels": LABELS}, {"a"}, texts


def _labels_of_bids(root):
    bids(root, [("01", ""), ("02", "")])
    save(root / "derivatives/sub-01/sub-01_desc-b_mask.nii.gz", label_of(SHAPE))
    options = {"labels": LABELS, "rules": FileRules(("dwi", "adc"))}
    return options, {"sub-02"}, ["sub-01: 2 files may be its label"]


def _folders_of_brats(root):
    brats(root, ["HGG/BraTS20_Training_001", "HGG/BraTS20_Training_002"], values=(0, 1, 2, 4))
    shutil.copytree(root / "HGG/BraTS20_Training_001", root / "LGG/BraTS20_Training_001")
    folder = root / "HGG/BraTS20_Training_002"
    shutil.copy(folder / "BraTS20_Training_002_t1.nii.gz", folder / "BraTS20_Training_002_t1.nii")
    texts = [
        "BraTS20_Training_002_t1.nii.gz are the same image",
        "are both case BraTS20_Training_001",
    ]
    return {}, {"BraTS20_Training_001", "BraTS20_Training_002"}, texts


def _two_endings(root):
    plain(
        root, ["images/a.nii", "images/a.nii.gz", "images/b.nii"], ["labels/a.nii", "labels/b.nii"]
    )
    return {"labels": LABELS}, {"a", "b"}, ["images/a.nii.gz are both image of one case"]


FAULTY = [
    _stray_files,
    _entries_of_nnunet,
    _entries_of_msd,
    _rows,
    _labels_of_bids,
    _folders_of_brats,
    _two_endings,
]


@pytest.mark.filterwarnings("ignore::segfocal.errors.SegfocalWarning")
@pytest.mark.parametrize("tree", FAULTY)
def test_what_is_of_no_case_is_told_and_the_other_cases_are_kept(tree, tmp_path):
    root = tmp_path / "data"
    options, case_ids, texts = tree(root)
    dataset = read_dataset(root, **options, keep_incomplete=True)
    assert set(dataset.case_ids) == case_ids
    assert not any(case.missing for case in dataset.cases)
    for fault, text in zip(dataset.faults, texts, strict=True):
        assert text in fault
    with pytest.raises(UserError) as caught:
        read_dataset(root, **options)
    assert str(caught.value) == dataset.faults[0]


def test_without_a_good_case_the_first_fault_is_told(tmp_path):
    root = plain(tmp_path / "data", [], ["s.nii"])
    write_rows(root / "cases.csv", [{"id": "b", "image": "../a.nii", "label": "s.nii"}])
    with pytest.raises(UserError, match=r"line 2: \.\./a\.nii lies outside"):
        read_dataset(root, labels=LABELS, keep_incomplete=True)


@pytest.mark.parametrize("tree", [msd, nnunet])
def test_a_link_that_leads_nowhere_is_told_as_one(tree, tmp_path):
    root = tree(tmp_path / "data")
    label = root / "labelsTr/c2.nii.gz"
    label.unlink()
    label.symlink_to("../.git/annex/objects/x")
    case = read_dataset(root).cases[1]
    assert (case.label, case.missing) == (label, ())
    with pytest.raises(UserError, match=r"is a link that leads nowhere\. Fetch what it points at"):
        load_case(case, read_dataset(root).scheme, read_dataset(root).channels)


def test_without_any_case_there_is_nothing_to_keep(tmp_path):
    root = plain(tmp_path, ["images/a.nii"], ["labels/a.nii"])
    with pytest.raises(UserError, match=r"^data\.exclude: a leaves out every case \(1\)"):
        read_dataset(root, labels=LABELS, exclude=["a"], keep_incomplete=True)


def test_auto_labels_come_from_the_labels_that_can_be_read(tmp_path):
    root = plain(tmp_path, ["images/a.nii", "images/b.nii"], ["labels/a.nii", "labels/b.nii"])
    (root / "labels/b.nii").write_bytes(b"junk")
    dataset = read_dataset(root, labels="auto", keep_incomplete=True)
    assert dataset.scheme.names == ("background", "label 1")
    with pytest.raises(UserError, match=r"^b: "):
        read_dataset(root, labels="auto")
    (root / "labels/a.nii").write_bytes(b"junk")
    with pytest.raises(UserError, match=r"^a: .*labels/a.nii"):
        read_dataset(root, labels="auto", keep_incomplete=True)
