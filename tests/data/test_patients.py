import pytest

from segfocal.config.load import config_of
from segfocal.data.patients import patients_of
from segfocal.errors import UserError
from segfocal.training.preflight import preflight
from tests.data.nifti_files import image_of, label_of, save


@pytest.mark.parametrize(
    ("pattern", "patients"),
    [
        ("{patient}_T*", ["P1", "P1", "P10"]),
        ("*{patient}_*", ["P1", "P1", "P10"]),
        ("{patient}", ["P1_T1", "P1_T2", "P10_T1"]),
        ("P{patient}_*", ["1", "1", "10"]),
    ],
)
def test_a_pattern_names_the_patient(pattern, patients):
    ids = ["P1_T1", "P1_T2", "P10_T1"]
    assert list(patients_of(ids, pattern).values()) == patients


def test_a_patients_name_ends_where_the_rest_first_fits():
    assert patients_of(["P1_T1_rescan"], "{patient}_*") == {"P1_T1_rescan": "P1"}


def test_without_a_pattern_every_case_is_a_patient_and_in_bids_the_subject_is():
    ids = ["sub-01_ses-01", "sub-01_ses-02", "sub-02"]
    assert list(patients_of(ids, None).values()) == ids
    assert list(patients_of(ids, None, layout="bids").values()) == ["sub-01", "sub-01", "sub-02"]
    assert list(patients_of(ids[:2], "{patient}", layout="bids").values()) == ids[:2]


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("P*", "expected {patient} once, as in {patient}_T*, got P*."),
        ("{patient}_{patient}", "expected {patient} once, as in {patient}_T*, got {patient}_{p"),
        ("{patient}.T*", "P1_T1 does not fit {patient}.T*. Write it as the case ids look, as {pat"),
    ],
)
def test_a_pattern_that_does_not_fit_is_refused(pattern, text):
    with pytest.raises(UserError) as error:
        patients_of(["P1_T1"], pattern)
    assert str(error.value).startswith(text)


@pytest.fixture
def longitudinal(tmp_path):
    """Three subjects in BIDS, three sessions each."""
    root = tmp_path / "bids"
    for subject in range(3):
        for session in range(3):
            name = f"sub-{subject}/ses-{session}/anat/sub-{subject}_ses-{session}"
            save(root / f"{name}_FLAIR.nii.gz", image_of((6, 5, 4)))
            save(root / f"derivatives/{name}_mask.nii.gz", label_of((6, 5, 4)))
    return root


def test_a_run_keeps_the_sessions_of_a_subject_together(longitudinal):
    data = {
        "root": str(longitudinal),
        "channels": ["FLAIR"],
        "labels": {"background": 0, "lesion": 1},
        "val_fraction": 0.3,
    }
    for seed in range(4):
        plan = preflight(config_of({"data": data}, [f"train.seed={seed}"], "test", {}))
        assert len(plan.split.val) == 3
        assert len({case_id.split("_")[0] for case_id in plan.split.val}) == 1
    with pytest.raises(UserError) as error:
        preflight(config_of({"data": data}, ["data.patient_pattern=x{patient}"], "test", {}))
    assert str(error.value).startswith("--set: data.patient_pattern: sub-0_ses-0 does not fit x{p")
