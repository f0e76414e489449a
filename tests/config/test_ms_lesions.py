"""configs/ms_lesions.yaml reads the layouts that its comments name, and keeps patients together."""

import json
from pathlib import Path

import pytest

from segfocal.config.load import load_config
from segfocal.training.preflight import preflight
from tests.data.nifti_files import image_of, label_of, save

SHAPE = (6, 5, 4)
SCANS = [(patient, scan) for patient in range(1, 6) for scan in (1, 2)]


def write(root, images, labels):
    """Files by name patterns of the patient, the scan and the channel."""
    for patient, scan in SCANS:
        for image in images:
            save(root / image.format(p=patient, s=scan), image_of(SHAPE))
        save(root / labels.format(p=patient, s=scan), label_of(SHAPE))


def mslesseg(root):
    at = "train/P{p}/T{s}/P{p}_T{s}_"
    write(root, [f"{at}{c}.nii.gz" for c in ("FLAIR", "T1", "T2")], f"{at}MASK.nii.gz")
    return ()


def isbi(root):
    at = "training0{p}/preprocessed/training0{p}_0{s}_"
    channels = ("flair_pp", "mprage_pp", "pd_pp", "t2_pp")
    label = "training0{p}/masks/training0{p}_0{s}_mask1.nii"
    write(root, [f"{at}{c}.nii" for c in channels], label)
    return (
        "data.image_pattern='*/preprocessed/{case}_{channel}.nii'",
        "data.label_pattern='*/masks/{case}_mask1.nii'",
        "data.channels=[flair_pp, mprage_pp, t2_pp]",
        "data.patient_pattern='{patient}_*'",
    )


def bids(root):
    at = "sub-{p}/ses-{s}/anat/sub-{p}_ses-{s}_"
    write(
        root, [f"{at}{c}.nii.gz" for c in ("FLAIR", "T1w", "T2w")], f"derivatives/{at}mask.nii.gz"
    )
    return (
        *("data.layout=auto", "data.image_pattern=null", "data.label_pattern=null"),
        *("data.channels=[FLAIR, T1w, T2w]", "data.patient_pattern=null"),
    )


def nnunet(root):
    write(
        root, [f"imagesTr/p{{p}}_{{s}}_000{c}.nii.gz" for c in range(3)], "labelsTr/p{p}_{s}.nii.gz"
    )
    description = {
        "channel_names": {"0": "FLAIR", "1": "T1w", "2": "T2w"},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": len(SCANS),
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(description))
    return (
        *("data.layout=auto", "data.image_pattern=null", "data.label_pattern=null"),
        *("data.channels=null", "data.labels=null", "data.patient_pattern='{patient}_*'"),
    )


@pytest.mark.parametrize("layout", [mslesseg, isbi, bids, nnunet], ids=lambda f: f.__name__)
def test_the_layouts_in_its_comments_are_read_and_patients_kept_together(layout, tmp_path):
    settings = layout(tmp_path / "data")
    loaded = load_config(Path("ms_lesions.yaml"), [f"data.root={tmp_path / 'data'}", *settings])
    plan = preflight(loaded)
    assert len(plan.dataset.cases) == len(SCANS)
    assert len(plan.channels) == 3
    assert plan.dataset.scheme.names == ("background", "lesion")
    assert plan.dataset.scheme.activation == "softmax"
    assert len(plan.split.val) == 2  # one patient of five
    (patient,) = {case_id.rpartition("_")[0] for case_id in plan.split.val}
    assert patient not in {case_id.rpartition("_")[0] for case_id in plan.split.train}
