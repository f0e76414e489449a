"""segfocal-stats on volumes that nobody here made (SEGFOCAL_REALDATA)."""

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from segfocal.data.case_survey import SurveyRules, survey_case
from segfocal.data.cases import Case
from segfocal.data.dataset_stats import dataset_stats
from segfocal.data.label_values import count_label_values
from segfocal.data.layouts import read_dataset
from segfocal.data.survey_walk import survey_cases
from segfocal.labels import LabelScheme

ROOT = os.environ.get("SEGFOCAL_REALDATA")

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not ROOT, reason="SEGFOCAL_REALDATA does not point at the real volumes"),
]


def rules_of(scheme, *channels):
    return SurveyRules(scheme, channels, None, 0.1, 10**9)


@pytest.mark.parametrize("folder", ["Dataset101_Sarcoma", "Task04_Hippocampus"])
def test_whole_data_sets_have_no_problem_and_numpys_counts(folder):
    dataset = read_dataset(Path(ROOT) / folder)
    surveys = survey_cases(dataset.cases, rules_of(dataset.scheme, *dataset.channels), workers=2)
    assert [problem for survey in surveys for problem in survey.problems] == []
    stats = dataset_stats(dataset, surveys)
    expected = np.zeros(dataset.scheme.num_classes, np.int64)
    for case in dataset.cases:
        label = nib.load(case.label).get_fdata()
        expected += [int((label == value).sum()) for value in dataset.scheme.values]
        values, voxels = np.unique(label, return_counts=True)
        counted = count_label_values(case.label)
        assert counted.values.tolist() == values.tolist()
        assert counted.voxels.tolist() == voxels.tolist()
    assert stats.counts.voxels.tolist() == expected.tolist()


def test_the_lesions_of_the_stroke_case_are_those_its_source_tells():
    folder = Path(ROOT) / "isles22_case0009"
    name = "sub-strokecase0009_ses-0001_{}.nii.gz"
    raw = folder / "rawdata/sub-strokecase0009/ses-0001"
    mask = folder / "derivatives/sub-strokecase0009/ses-0001" / name.format("msk")
    scheme = LabelScheme(("background", "lesion"), (0, 1))
    images = tuple(raw / name.format(kind) for kind in ("dwi", "adc", "flair"))
    survey = survey_case(Case("s", images[:2], mask), rules_of(scheme, "DWI", "ADC"))
    assert survey.problems == []
    assert survey.orientation == "LAS"
    sizes = survey.label.lesions_mm3["lesion"]
    assert len(sizes) == 18
    assert min(sizes) == pytest.approx(2 * 8.0, rel=1e-4)
    other = survey_case(Case("s", images[::2], mask), rules_of(scheme, "DWI", "FLAIR"))
    assert [problem.kind for problem in other.problems] == ["shape"]


def test_the_ct_that_does_not_match_its_label_is_found():
    folder = Path(ROOT) / "totalsegmentator_ct"
    label = folder / "example_seg.nii.gz"
    values = tuple(count_label_values(label).values.tolist())
    scheme = LabelScheme(tuple(f"class{v}" for v in values), values)
    good = survey_case(Case("g", (folder / "example_ct_sm.nii.gz",), label), rules_of(scheme, "CT"))
    assert good.problems == []
    assert min(good.label.voxels[:-1]) == 1
    bad = survey_case(Case("b", (folder / "example_ct.nii.gz",), label), rules_of(scheme, "CT"))
    (problem,) = bad.problems
    assert str(problem).startswith("b: image is 122x101x112, label is 122x101x30. Resample one")
