"""What a run says of its data before it loads torch, and does not stop for."""

import nibabel as nib
import numpy as np

from segfocal.config.load import config_of
from segfocal.reports.text import doubts_line
from segfocal.training.preflight import preflight
from tests.data.nifti_files import label_of, msd, save


def plan_of(root, *settings):
    data = {"root": str(root), "val_fraction": 0.5}
    return preflight(config_of({"data": data}, settings, "test", {}))


def test_a_good_data_set_leaves_no_doubt(tmp_path):
    assert plan_of(msd(tmp_path / "data")).doubts == ()


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


def test_doubts_are_one_line_whatever_their_number():
    doubts = [("forms", "a"), ("empty-label", "b"), ("forms", "a")]
    doubts += [("empty-label", case) for case in "cdef"]
    assert doubts_line(doubts) == (
        "doubts forms a · empty-label b, c, d and 2 more · segfocal-stats --check says what to "
        "look at"
    )
