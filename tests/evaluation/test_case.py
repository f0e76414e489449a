import math
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from segfocal.data.cases import Case
from segfocal.evaluation.case import EvaluationRules, evaluate_pair
from segfocal.evaluation.pairs import Pair
from segfocal.labels import LabelScheme
from segfocal.metrics.evaluation import Measures
from tests.data.nifti_files import OBLIQUE, SHEARED, label_of, save

ROOT = os.environ.get("SEGFOCAL_REALDATA")
SCHEME = LabelScheme(("background", "liver", "spleen"), (0, 1, 2))


def rules(scheme=SCHEME, **measures):
    return EvaluationRules(scheme, Measures(**measures), 0.1, 10**9)


def test_a_class_nobody_looked_for_is_not_measured(tmp_path):
    label = save(tmp_path / "ref.nii.gz", label_of((6, 5, 4), (0, 2)))
    predicted = save(tmp_path / "pred.nii.gz", label_of((6, 5, 4), (0, 1, 2), seed=1))
    pair = Pair(predicted, Case("a", (), label, ("spleen",)))
    regions = evaluate_pair(rules(), pair).regions
    assert not regions["liver"].score.annotated
    assert regions["spleen"].score.annotated
    other = Pair(predicted, Case("a", (), label, ("liver",)))
    (problem,) = evaluate_pair(rules(), other).problems
    assert problem.text.startswith("reference: label holds spleen (2), but the case is declared")


def test_distances_are_measured_along_oblique_axes(tmp_path):
    reference = np.zeros((9, 9, 9), np.uint8)
    reference[3:6, 3:6, 3:6] = 1
    case = Case("a", (), save(tmp_path / "ref.nii.gz", reference, OBLIQUE))
    for axis in range(3):
        pred = save(tmp_path / f"{axis}.nii.gz", np.roll(reference, 1, axis), OBLIQUE)
        region = evaluate_pair(rules(), Pair(pred, case)).regions["liver"]
        edge = float(np.linalg.norm(OBLIQUE[:3, axis]))
        assert region.surface.hd95_mm == pytest.approx(edge)


def test_distances_are_measured_along_sheared_axes(tmp_path):
    reference = np.zeros((9, 9, 9), np.uint8)
    reference[4, 4, 4] = 1
    case = Case("a", (), save(tmp_path / "ref.nii.gz", reference, SHEARED))
    for step in ((1, -1, 0), (0, 1, -1), (-1, 0, 1), (1, 1, 1)):
        moved = save(tmp_path / f"{step}.nii.gz", np.roll(reference, step, (0, 1, 2)), SHEARED)
        region = evaluate_pair(rules(), Pair(moved, case)).regions["liver"]
        assert region.surface.hd95_mm == pytest.approx(np.linalg.norm(SHEARED[:3, :3] @ step))


@pytest.mark.parametrize("lesions", ["plain", "brats-gli"])
def test_volumes_count_the_shear_of_the_axes(tmp_path, lesions):
    reference = np.zeros((9, 9, 9), np.uint8)
    reference[3:5, 3:5, 3:5] = 1  # 48 mm3, of its edges 52: BraTS leaves out up to 50
    path = save(tmp_path / "ref.nii.gz", reference, SHEARED)
    case = evaluate_pair(rules(lesions=lesions), Pair(path, Case("a", (), path)))
    liver = case.regions["liver"]
    assert case.voxel_mm3 == pytest.approx(6)
    assert liver.score.ref_ml == liver.score.pred_ml == pytest.approx(0.048)
    assert liver.match.lesions[0].scored == (lesions == "plain")


def test_the_type_that_labels_are_stored_in_changes_nothing(tmp_path):
    values = label_of((6, 5, 4), (0, 1, 2))
    case = Case("a", (), save(tmp_path / "ref.nii.gz", values))
    for name, stored, scaling in (
        ("f", values.astype(np.float32), None),
        ("i", 2 * values.astype(np.int16), (0.5, 0)),
    ):
        path = save(tmp_path / f"{name}.nii.gz", stored, dtype=stored.dtype, scaling=scaling)
        regions = evaluate_pair(rules(), Pair(path, case)).regions
        assert regions["liver"].score.dice == regions["spleen"].score.dice == 1


@pytest.mark.realdata
@pytest.mark.skipif(not ROOT, reason="SEGFOCAL_REALDATA does not point at the real volumes")
def test_a_shifted_hippocampus_with_a_lost_half_and_an_island(tmp_path):
    path = Path(ROOT) / "Task04_Hippocampus/labelsTr/hippocampus_001.nii.gz"
    image = nib.load(path)
    reference = np.asarray(image.dataobj).astype(np.uint8)
    predicted = np.roll(reference, 1, 1)
    predicted[predicted == 2] = 0
    predicted[:3, :3, :3] = 1
    save(tmp_path / "p.nii.gz", predicted, image.affine)
    scheme = LabelScheme(("background", "anterior", "posterior"), (0, 1, 2))
    pair = Pair(tmp_path / "p.nii.gz", Case("h", (), path))
    found = evaluate_pair(rules(scheme), pair).regions
    one, other = predicted == 1, reference == 1
    expected = 2 * (one & other).sum() / (one.sum() + other.sum())
    assert found["anterior"].score.dice == pytest.approx(expected)
    assert found["anterior"].score.false_positives == 1
    assert found["posterior"].score.counts.found == 0
    assert found["posterior"].surface.hd95_mm == pytest.approx(math.hypot(*reference.shape))


@pytest.mark.realdata
@pytest.mark.skipif(not ROOT, reason="SEGFOCAL_REALDATA does not point at the real volumes")
def test_the_lesions_of_the_stroke_case_are_found_or_missed_as_they_were_taken_away(tmp_path):
    (path,) = (Path(ROOT) / "isles22_case0009").rglob("*_msk.nii.gz")
    image = nib.load(path)
    reference = np.asarray(image.dataobj).astype(np.uint8)
    components, count = ndimage.label(reference, np.ones((3, 3, 3)))
    gone = (2, 7, 18)
    predicted = np.where(np.isin(components, gone), 0, reference).astype(np.uint8)
    save(tmp_path / "p.nii.gz", predicted, image.affine)
    scheme = LabelScheme(("background", "lesion"), (0, 1))
    result = evaluate_pair(rules(scheme), Pair(tmp_path / "p.nii.gz", Case("s", (), path)))
    match = result.regions["lesion"].match
    assert len(match.lesions) == count == 18
    assert [i for i, lesion in enumerate(match.lesions, 1) if not lesion.found] == list(gone)
    assert result.voxel_mm3 == pytest.approx(8, rel=1e-4)


@pytest.mark.realdata
@pytest.mark.skipif(not ROOT, reason="SEGFOCAL_REALDATA does not point at the real volumes")
def test_two_segmentations_of_one_ct_agree_class_by_class():
    folder = Path(ROOT) / "totalsegmentator_ct"
    paths = [folder / name for name in ("example_seg_fast.nii.gz", "example_seg.nii.gz")]
    one, other = (np.asarray(nib.load(path).dataobj) for path in paths)
    values = sorted({*np.unique(one).tolist(), *np.unique(other).tolist()})
    scheme = LabelScheme(tuple(f"class {int(v)}" for v in values), tuple(map(int, values)))
    regions = evaluate_pair(rules(scheme), Pair(paths[0], Case("ct", (), paths[1]))).regions
    for value in values[1:]:
        size = (one == value).sum() + (other == value).sum()
        expected = 2 * ((one == value) & (other == value)).sum() / size
        assert regions[f"class {int(value)}"].score.dice == pytest.approx(expected)
