"""What a run says of its data before it loads torch, and does not stop for."""

import json
import warnings

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.spatial.array import Orientation, Spacing
from scipy import ndimage

from segfocal.config.load import config_of
from segfocal.errors import SegfocalWarning, UserError
from segfocal.reports.text import blank_line, doubts_line
from segfocal.training.preflight import preflight
from tests.data.nifti_files import SHEARED, TURNED, label_of, msd, save


def plan_of(root, *settings):
    data = {"root": str(root), "val_fraction": 0.5}
    return preflight(config_of({"data": data}, settings, "test", {}))


def test_a_good_data_set_leaves_no_doubt(tmp_path):
    assert plan_of(msd(tmp_path / "data")).doubts == ()


@pytest.mark.parametrize(
    ("ignored", "what"),
    [("1", "leaves no class but the background: class1 would be"), ("0", "0 is the background")],
)
def test_ignoring_what_is_to_be_learnt_is_the_settings_fault(tmp_path, ignored, what):
    root = msd(tmp_path)
    with pytest.raises(UserError, match=f"^--set: loss.ignore_index: {what}"):
        plan_of(root, f"loss.ignore_index={ignored}")


def test_doubts_of_headers_and_labels_are_told_for_every_case_of_the_split(tmp_path):
    root = msd(tmp_path / "data", values=(0, 1, 9), labels={"0": "bg", "1": "t", "9": "ignore"})
    save(root / "labelsTr/c1.nii.gz", np.zeros((6, 5, 4), np.uint8))
    save(root / "labelsTr/c2.nii.gz", label_of((6, 5, 4), (0, 9)))
    label = nib.load(save(root / "labelsTr/c3.nii.gz", label_of((6, 5, 4))))
    label.set_qform(np.diag([1.0, 2.0, 3.5, 1.0]), 1, update_affine=False)
    label.to_filename(root / "labelsTr/c3.nii.gz")
    found = sorted((p.case_id, p.kind, p.text) for p in plan_of(root).doubts)
    (c1, c1_kind, _), (c2, c2_kind, c2_text), (c3, c3_kind, _) = found
    assert (c1, c1_kind, c2, c2_kind) == ("c1", "empty-label", "c2", "empty-label")
    assert (c3, c3_kind) == ("c3", "forms")
    assert "ignored voxels" in c2_text


SCANS = ("P1_T1", "P1_T2", "P2_T1", "P3_T1")
BY_PATIENT = "data.patient_pattern='{patient}_T*'"


@pytest.fixture
def own_split(tmp_path):
    """A data set of three patients, and what writes a split of it."""
    root = msd(tmp_path / "data", cases=SCANS)

    def plan(val, *settings):
        path = tmp_path / "split.json"
        train = [case for case in SCANS if case not in val]
        path.write_text(json.dumps({"train": train, "val": val}))
        return plan_of(root, f"data.split={path}", *settings)

    return plan


def test_a_patient_on_both_sides_of_ones_own_split_is_told(own_split, tmp_path):
    with pytest.warns(SegfocalWarning) as told:
        plan = own_split(["P1_T2", "P3_T1"], BY_PATIENT)
    (message,) = [str(warning.message) for warning in told]
    assert message == (
        f"{tmp_path / 'split.json'}: scans of P1 both train and validate: validation looks better "
        "than it is. Keep a patient's scans in one list."
    )
    assert plan.split.val == ("P1_T2", "P3_T1")


@pytest.mark.parametrize(("count", "more"), [(10, ""), (12, " and 2 more")])
def test_of_many_patients_on_both_sides_the_first_ten_are_named(tmp_path, count, more):
    scans = [(f"P{number:02}_T1", f"P{number:02}_T2") for number in range(count)]
    root, path = msd(tmp_path / "data", cases=[*sum(scans, ())]), tmp_path / "split.json"
    first, second = (list(side) for side in zip(*scans, strict=True))
    path.write_text(json.dumps({"train": first, "val": second}))
    with pytest.warns(SegfocalWarning) as told:
        plan_of(root, f"data.split={path}", BY_PATIENT)
    named = ", ".join(f"P{number:02}" for number in range(10))
    assert f": scans of {named}{more} both train and validate: " in str(told[0].message)


def test_a_fold_holds_patients_and_not_scans(tmp_path):
    root = msd(tmp_path / "data", cases=SCANS)
    for seed in range(8):
        settings = ("data.folds=3", "data.fold=1", f"train.seed={seed}", BY_PATIENT)
        split = plan_of(root, *settings).split
        assert ("P1_T1" in split.val) == ("P1_T2" in split.val)
        assert len({case.partition("_")[0] for case in split.val}) == 1


def test_ones_own_split_by_patients_is_taken_in_silence(own_split):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own_split(["P1_T1", "P1_T2"], BY_PATIENT)
        own_split(["P1_T2"])


def test_a_fold_of_ones_own_splits_is_taken_and_a_run_keeps_the_one_it_began_with(tmp_path):
    root, path = msd(tmp_path / "data", cases=SCANS), tmp_path / "splits.json"
    folds = [{"train": [*SCANS[1:]], "val": [SCANS[0]]}, {"train": [*SCANS[:3]], "val": [SCANS[3]]}]
    path.write_text(json.dumps(folds))
    settings = (f"data.split={path}", "data.fold=1")
    assert plan_of(root, *settings).split.val == (SCANS[3],)
    kept = tmp_path / "split.json"
    kept.write_text(json.dumps({"train": [SCANS[0]], "val": [SCANS[1]]}))
    data = {"root": str(root)}
    config = config_of({"data": data}, settings, "test", {})
    split = preflight(config, kept).split
    assert (split.train, split.val) == ((SCANS[0],), (SCANS[1],))


def test_without_validation_every_case_trains_and_the_split_says_so(tmp_path):
    plan = plan_of(msd(tmp_path / "data", cases=SCANS), "data.val_fraction=0", BY_PATIENT)
    assert (plan.split.train, plan.split.val) == (SCANS, ())
    assert plan.split.made_by == {"method": "all"}


def test_a_split_that_is_not_there_is_told_with_its_setting(tmp_path):
    with pytest.raises(UserError) as error:
        plan_of(msd(tmp_path / "data"), "data.split=no.json")
    assert str(error.value) == "--set: data.split: no.json does not exist."


def test_blank_channels_are_one_line_whatever_their_number():
    blank = [(f"c{number}", ("T1w", "T2w")[: 1 + number % 2]) for number in range(1, 7)]
    cases = "c1 (T1w, T2w), c2 (T1w), c3 (T1w, T2w), c4 (T1w)"
    tail = "Was it converted wrongly? segfocal-stats --check tells of each."
    head = f"doubt  one value in every voxel: {cases}"
    assert blank_line(blank) == f"{head} and 2 more cases. {tail}"
    assert blank_line(blank[:5]) == f"{head} and 1 more case. {tail}"
    assert blank_line(blank[:4]) == f"{head}. {tail}"


def test_doubts_are_one_line_whatever_their_number():
    doubts = [("forms", "a"), ("empty-label", "b"), ("forms", "a")]
    doubts += [("empty-label", case) for case in "cdef"]
    assert doubts_line(doubts) == (
        "doubts forms a · empty-label b, c, d and 2 more · segfocal-stats --check says what to "
        "look at"
    )


@pytest.mark.parametrize(
    ("spacing", "shape"),
    [("[0.001, 0.001, 0.001]", "5001x8001x9001"), ("[1000, 1, 1]", "1x9x10")],
)
def test_a_spacing_in_the_wrong_unit_is_refused_with_the_shape_it_would_make(
    tmp_path, spacing, shape
):
    with pytest.raises(UserError) as error:
        plan_of(msd(tmp_path / "data"), f"data.spacing_mm={spacing}")
    case = plan_of(tmp_path / "data").split.train[0]
    assert str(error.value) == (
        f"--set: data.spacing_mm: makes {shape} voxels of {case} (6x5x4 of 1x2x3 mm); expected at "
        f"least 4 along each axis and at most data.max_voxels (1000000000). Set it in mm along "
        f"R, A, S."
    )


@pytest.mark.parametrize(
    "affine", [np.diag([1.0, 2.0, 3.0, 1.0]), TURNED, SHEARED[:, [1, 2, 0, 3]]]
)
@pytest.mark.parametrize("spacing", [(0.5, 0.5, 0.5), (0.7, 1.1, 0.9)])
def test_without_padding_a_patch_fits_what_monai_makes_of_a_case_and_no_more(
    tmp_path, affine, spacing
):
    root = msd(tmp_path / "data")
    for kind in ("images", "labels"):
        for path in (root / f"{kind}Tr").iterdir():
            save(path, nib.load(path).get_fdata().astype(np.int16), affine)
    image = Orientation("RAS", labels=None)(MetaTensor(torch.zeros(1, 6, 5, 4), affine=affine))
    made = list(Spacing(spacing)(image).shape[1:])
    settings = ("data.pad=false", f"data.spacing_mm={list(spacing)}")
    plan_of(root, *settings, f"train.patch_size={made}")
    for axis in range(3):
        larger = [size + (number == axis) for number, size in enumerate(made)]
        with pytest.raises(UserError, match=r"Use data\.pad: true or a patch <= ") as error:
            plan_of(root, *settings, f"train.patch_size={larger}")
        assert str(error.value).endswith(f"{made}.")


def test_the_voxel_sizes_of_the_training_files_are_kept_along_r_a_s(tmp_path):
    root = msd(tmp_path / "data")
    turned = np.array([[0, 0, 3.0, 0], [1.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 0, 1]])
    for kind in ("images", "labels"):
        for path in (root / f"{kind}Tr").iterdir():
            save(path, nib.load(path).get_fdata().astype(np.int16), turned)
    assert plan_of(root).spacing_mm == ((3.0, 1.0, 2.0), (3.0, 1.0, 2.0))


def test_a_class_without_a_training_voxel_is_named(tmp_path):
    root = msd(tmp_path / "data", labels={"background": 0, "core": 1, "rim": 2})
    assert plan_of(root).absent == ("rim",)
    assert plan_of(msd(tmp_path / "whole")).absent == ()


def test_alpha_by_lesions_counts_the_components_of_the_training_labels(tmp_path):
    labels = {"background": 0, "core": 1, "rim": 2, "ignore": 9}
    root = msd(tmp_path / "data", labels=labels)
    rng = np.random.default_rng(0)
    for path in sorted((root / "labelsTr").iterdir()):
        values = rng.choice([0, 1, 2, 9], (6, 5, 4), p=[0.75, 0.04, 0.16, 0.05])
        save(path, values.astype(np.uint8))
    plan = plan_of(root, "loss.alpha=balanced", "loss.alpha_unit=lesions")
    touching = ndimage.generate_binary_structure(3, 3)
    maps = [nib.load(root / f"labelsTr/{case}.nii.gz").get_fdata() for case in plan.split.train]
    core, rim = (sum(ndimage.label(m == c, touching)[1] for m in maps) for c in (1, 2))
    assert core != rim
    # The background counts once for each lesion; weights 1 / n, scaled to mean 1.
    expected = np.array([1 / (core + rim), 1 / core, 1 / rim])
    np.testing.assert_allclose(plan.alpha.weights, expected / expected.mean(), rtol=1e-12)
    assert plan.alpha.provenance["lesions"] == {"core": core, "rim": rim}
    assert plan.alpha.provenance["ignored_voxels"] > 0
    assert plan.alpha.summary().startswith("balanced by lesions, from 1 case: background ")
    assert plan.alpha.summary().count(f" · lesions core {core} rim {rim} · ignore 9: ") == 1


@pytest.mark.parametrize(("unit", "total"), [("voxels", 4), ("lesions", 6)])
def test_every_label_that_is_read_moves_the_bar(tmp_path, unit, total):
    root, told = msd(tmp_path / "data", cases=("c1", "c2", "c3", "c4")), []
    settings = ("loss.alpha=balanced", f"loss.alpha_unit={unit}")
    data = {"root": str(root), "val_fraction": 0.5}
    config = config_of({"data": data}, settings, "test", {})
    preflight(config, None, lambda done, of: told.append((done, of)))
    assert told == [(done, total) for done in range(1, total + 1)]


def test_a_class_without_lesions_is_told_before_the_run(tmp_path):
    labels = {"background": 0, "core": 1, "rim": 2}
    root = msd(tmp_path / "data", labels=labels)
    with pytest.raises(UserError) as error:
        plan_of(root, "loss.alpha=balanced", "loss.alpha_unit=lesions")
    assert str(error.value) == (
        "Class rim has no lesion in the training split: alpha is undefined. Change the split, "
        "drop the class, or set loss.alpha."
    )


def test_lesions_are_not_counted_where_nothing_is_derived_from_them(tmp_path):
    root = msd(tmp_path / "data")
    for settings in ((), ("loss.alpha_unit=lesions",), ("loss.alpha=balanced",)):
        assert "lesions" not in plan_of(root, *settings).counts.to_dict()
    by_volumes = plan_of(root, "loss.alpha=balanced", "loss.alpha_unit=volumes").alpha
    assert by_volumes.options["unit"] == "volumes"
