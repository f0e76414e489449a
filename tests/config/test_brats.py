"""configs/brats.yaml on a folder as nnU-Net's Dataset137_BraTS21.py writes it.

That script moves BraTS' 4 (enhancing) to 3, 2 (oedema) to 1 and 1 (necrotic core) to 2, and
declares the regions below in dataset.json.
"""

import json
from pathlib import Path

import nibabel as nib
import numpy as np

from segfocal.config.load import load_config
from segfocal.training.preflight import open_dataset

NECROTIC, OEDEMA, ENHANCING = 2, 1, 3


def write_dataset137(root):
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for case in ("BraTS2021_00000", "BraTS2021_00002"):
        names = [f"imagesTr/{case}_{channel:04d}" for channel in range(4)] + [f"labelsTr/{case}"]
        for name in names:
            volume = nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4))
            nib.save(volume, root / f"{name}.nii.gz")
    described = {
        "channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "Flair"},
        "labels": {
            "background": 0,
            "whole tumor": [1, 2, 3],
            "tumor core": [2, 3],
            "enhancing tumor": [3],
        },
        "regions_class_order": [1, 2, 3],
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(described))


def test_the_tumour_core_has_no_oedema(tmp_path):
    root = tmp_path / "Dataset137_BraTS2021"
    write_dataset137(root)
    dataset, _ = open_dataset(load_config(Path("brats.yaml"), [f"data.root={root}"]))
    scheme = dataset.scheme
    values = {
        name: {scheme.values[index] for index in classes}
        for name, classes in zip(scheme.target_names, scheme.target_classes, strict=True)
    }
    whole, core, enhancing = values.values()
    assert whole == {NECROTIC, OEDEMA, ENHANCING}
    assert core == {NECROTIC, ENHANCING}
    assert enhancing == {ENHANCING}
    paints = [scheme.values[region.paint] for region in scheme.regions]
    assert paints == [OEDEMA, NECROTIC, ENHANCING]
